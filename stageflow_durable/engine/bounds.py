"""How far one message carries a run, and how long the bodies of stages may act."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stageflow_durable.engine.interrupt import GRACE_SECONDS
from stageflow_durable.engine.payload import PAYLOAD_BYTES
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.stage import OnLeaseLost

MARGIN_SECONDS = 15.0
"""From the beginning of an attempt, as recorded, to the call of its body, at the most."""

Stage = tuple[str, str]
"""A pipeline's name and a stage's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one message may carry a run, how long a commit is tried while the database is away (seconds), and how
    large an output may be.
    """

    in_place_stages: int = 200
    in_place_seconds: float = 5.0
    hold_seconds: float = 30.0
    payload_bytes: int = PAYLOAD_BYTES


def bounds(pipelines: Iterable[Pipeline[Any, Any]]) -> dict[Stage, float]:
    """Seconds after which the process of a stage with a timeout has been ended, from its beginning as recorded."""
    return {
        (pipeline.name, spec.name): spec.timeout + GRACE_SECONDS + MARGIN_SECONDS
        for pipeline in pipelines
        for spec in pipeline.stages
        if spec.timeout is not None
    }


def ending_with_lease(pipelines: Iterable[Pipeline[Any, Any]], default: OnLeaseLost) -> frozenset[Stage]:
    """Stages whose body is to end once its lease is lost: the stage's word over the pipeline's over ``default``."""
    return frozenset(
        (pipeline.name, spec.name)
        for pipeline in pipelines
        for spec in pipeline.stages
        if (spec.on_lease_lost or pipeline.on_lease_lost or default) == "end"
    )
