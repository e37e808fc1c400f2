"""What an application gives its engine: pipelines and interceptors, checked where they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stageflow_durable.engine.typed import check_types
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.retry.adapters import RetryInterceptor


def apart(interceptors: Sequence[Any]) -> tuple[Sequence[Any], list[RetryPolicy]]:
    """What wraps a body, and what only looks so: a retry policy, which the engine itself keeps."""
    if isinstance(interceptors, str) or not isinstance(interceptors, Sequence):
        return interceptors, []  # to be refused
    policies = [one.policy for one in interceptors if isinstance(one, RetryInterceptor)]
    return [one for one in interceptors if not isinstance(one, RetryInterceptor)], policies


def by_name(pipelines: Iterable[Pipeline[Any, Any]] | Pipeline[Any, Any]) -> dict[str, Pipeline[Any, Any]]:
    """Each pipeline by its name. Raises ConfigurationError, DefinitionError."""
    found: dict[str, Pipeline[Any, Any]] = {}
    for number, pipeline in enumerate((pipelines,) if isinstance(pipelines, Pipeline) else _listed(pipelines)):
        if not isinstance(pipeline, Pipeline):
            held = "; did you mean its .pipeline?" if isinstance(getattr(pipeline, "pipeline", None), Pipeline) else ""
            raise ConfigurationError(f"pipelines[{number}] is of type {type(pipeline).__name__}, not a Pipeline{held}")
        if pipeline.name in found:
            raise ConfigurationError(f"two pipelines are named {pipeline.name!r}")
        found[pipeline.name] = pipeline
        pipeline.plan  # noqa: B018  # raises DefinitionError at definition, not in a worker
        check_types(pipeline)
    return found


def _listed(pipelines: Any) -> Iterable[Any]:
    if isinstance(pipelines, Mapping | str) or not isinstance(pipelines, Iterable):
        raise ConfigurationError(f"pipelines= is a Pipeline or a list of them, not {type(pipelines).__name__}")
    return pipelines
