"""What an engine serves by HTTP, and what wraps an application's handlers: ASGI and WSGI, without a framework."""

from __future__ import annotations

from stageflow_durable.web.idempotency import idempotency_key, openapi
from stageflow_durable.web.replay import ReplayGuard

__all__ = ["ReplayGuard", "idempotency_key", "openapi"]
