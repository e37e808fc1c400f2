"""Durable pipelines for teams that already run Celery. The public names, each loaded at its first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stageflow_durable.application import Engine
    from stageflow_durable.delivery.adopt import task_stage
    from stageflow_durable.engine.accept import Submission
    from stageflow_durable.engine.actors import Actor, Credential
    from stageflow_durable.engine.handle import RunHandle
    from stageflow_durable.engine.leftovers import kept_between_stages
    from stageflow_durable.errors import (
        CompensationFailed,
        ConfigurationError,
        IdempotencyParamMismatch,
        PermanentError,
        ResultTimeout,
        RunCancelled,
        RunCompensated,
        RunError,
        RunFailed,
        RunParked,
        StageflowError,
        TransientError,
    )
    from stageflow_durable.interceptors import BaseInterceptor, Interceptor, get_default_interceptors
    from stageflow_durable.masking import Sensitive
    from stageflow_durable.model.context import AttemptEnd, CompensationContext, StageContext
    from stageflow_durable.model.limits import ConcurrencyLimit, RateLimit
    from stageflow_durable.model.output import StageOutput
    from stageflow_durable.model.pipeline import Pipeline
    from stageflow_durable.model.policy import RetryPolicy
    from stageflow_durable.model.snapshot import ContextSnapshot
    from stageflow_durable.model.stage import Default, SchemaMigration, Stage, StageKind, Undo
    from stageflow_durable.model.status import RunStatus

_WHERE = {
    "Engine": "application",
    "Submission": "engine.accept",
    "Actor": "engine.actors",
    "Credential": "engine.actors",
    "RunHandle": "engine.handle",
    "kept_between_stages": "engine.leftovers",
    "CompensationFailed": "errors",
    "ConfigurationError": "errors",
    "IdempotencyParamMismatch": "errors",
    "PermanentError": "errors",
    "ResultTimeout": "errors",
    "RunCancelled": "errors",
    "RunCompensated": "errors",
    "RunError": "errors",
    "RunFailed": "errors",
    "RunParked": "errors",
    "StageflowError": "errors",
    "TransientError": "errors",
    "BaseInterceptor": "interceptors",
    "Interceptor": "interceptors",
    "get_default_interceptors": "interceptors",
    "Sensitive": "masking",
    "task_stage": "delivery.adopt",
    "AttemptEnd": "model.context",
    "CompensationContext": "model.context",
    "StageContext": "model.context",
    "ConcurrencyLimit": "model.limits",
    "RateLimit": "model.limits",
    "StageOutput": "model.output",
    "Pipeline": "model.pipeline",
    "RetryPolicy": "model.policy",
    "ContextSnapshot": "model.snapshot",
    "Default": "model.stage",
    "SchemaMigration": "model.stage",
    "Stage": "model.stage",
    "StageKind": "model.stage",
    "Undo": "model.stage",
    "RunStatus": "model.status",
}

__all__ = [
    "Actor",
    "AttemptEnd",
    "BaseInterceptor",
    "CompensationContext",
    "CompensationFailed",
    "ConcurrencyLimit",
    "ConfigurationError",
    "ContextSnapshot",
    "Credential",
    "Default",
    "Engine",
    "IdempotencyParamMismatch",
    "Interceptor",
    "PermanentError",
    "Pipeline",
    "RateLimit",
    "ResultTimeout",
    "RetryPolicy",
    "RunCancelled",
    "RunCompensated",
    "RunError",
    "RunFailed",
    "RunHandle",
    "RunParked",
    "RunStatus",
    "SchemaMigration",
    "Sensitive",
    "Stage",
    "StageContext",
    "StageKind",
    "StageOutput",
    "StageflowError",
    "Submission",
    "TransientError",
    "Undo",
    "get_default_interceptors",
    "kept_between_stages",
    "task_stage",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
