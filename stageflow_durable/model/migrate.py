"""Values that were saved under an older schema of their pipeline, as the newest one has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.pipeline import Pipeline

Step = Callable[[Any], Any]


def migrated_input(pipeline: Pipeline[Any, Any], value: Any, schema: int) -> Any:
    """The input, saved under ``schema``. Raises DefinitionError where it cannot be read any more, or not yet."""
    steps = [(n, step.input) for n, step in sorted(pipeline.migrations.items()) if n >= schema]
    return value if schema == pipeline.schema else _through(pipeline, "its input", value, schema, steps)


def migrated_output(pipeline: Pipeline[Any, Any], stage: str, value: Any, schema: int) -> Any:
    """The same for what ``stage`` saved."""
    if schema == pipeline.schema:
        return value
    steps = [(n, step.outputs.get(stage)) for n, step in sorted(pipeline.migrations.items()) if n >= schema]
    return _through(pipeline, f"the output of {stage}", value, schema, steps)


def _through(
    pipeline: Pipeline[Any, Any], what: str, value: Any, schema: int, steps: list[tuple[int, Step | None]]
) -> Any:
    if not pipeline.plan.reads <= schema <= pipeline.schema:
        reads = f"this definition reads {pipeline.plan.reads} to {pipeline.schema}"
        raise DefinitionError(pipeline.name, [f"{what} was saved under schema {schema}; {reads}"])
    for number, step in steps:
        try:
            value = value if step is None else step(value)
        except Exception as error:
            why = f"the migration of {what} from schema {number} failed: {type(error).__name__}: {error}"
            raise DefinitionError(pipeline.name, [why]) from error
    return value
