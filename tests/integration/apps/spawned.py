"""The same application, whose pool starts its children with spawn instead of fork."""

from __future__ import annotations

from billiard import context, set_start_method

from tests.integration.apps.lanes import celery_app, engine

if context._default_context._actual_context is None:
    set_start_method("spawn")

__all__ = ["celery_app", "engine"]
