"""A signal before it is sent: its payload is validated, and bounded as every other input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stageflow_durable.codec import Fingerprint, decode, encode_and_fingerprint, plain
from stageflow_durable.engine.payload import within
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model import json_schema
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.plan import Plan


def checked_payload(
    plan: Plan, pipelines: Mapping[str, Pipeline[Any, Any]], name: str, payload: Any, limit: int
) -> tuple[str, Fingerprint, str | None]:
    """The payload of a signal for the wait ``name``, encoded as it will be saved; its fingerprint as it was given; and
    the schema by which it was validated. A wait that ``plan`` does not have has no schema.

    Raises InvalidInput naming the fields, or that it is larger than ``limit`` bytes; UnsavableValue.
    """
    what = f"payload of {name}"
    text, same = encode_and_fingerprint(payload, None, "payload")
    within(text, payload, limit, what, "payload")
    planned = plan.by_name.get(name)
    schema = None if planned is None else planned.schema
    if schema is None:
        return text, same, None
    declared = _declared(plan, pipelines, name, schema)
    if declared is not None:
        known = typed(declared)
        value = known.validated(payload, what)
        saved, _same = encode_and_fingerprint(value, known.classes, "payload")
        return within(saved, value, limit, what, "payload"), same, schema
    wrong = json_schema.problems(json.loads(schema), plain(decode(text)))
    if wrong:
        raise InvalidInput(what, wrong)
    return text, same, schema


def _declared(plan: Plan, pipelines: Mapping[str, Pipeline[Any, Any]], name: str, schema: str) -> Any:
    """The model that the pipeline declares here for the stage; None where it is not known, or not by this schema."""
    pipeline = pipelines.get(plan.pipeline)
    spec = None if pipeline is None else pipeline.by_name.get(name)
    if pipeline is None or spec is None or pipeline.plan.by_name[name].schema != schema:
        return None
    declared = spec.callback if spec.wait is None else spec.wait.schema
    return declared if isinstance(declared, type) else None
