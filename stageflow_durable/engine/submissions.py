"""What ``enqueue_many`` takes: inputs, and submissions where one has options of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.pipeline import InputT

Many: TypeAlias = Iterable[InputT | Mapping[str, Any] | Submission[InputT] | Submission[Mapping[str, Any]]]
"""Inputs as ``enqueue`` takes them, each alone or with options of its own."""


def several(submissions: Any) -> list[Submission[Any]]:
    """Each as a submission. Raises InvalidInput for what is one input, or none."""
    if isinstance(submissions, Mapping | str | bytes | Submission) or not isinstance(submissions, Iterable):
        kind = type(submissions).__name__
        raise InvalidInput("enqueue_many", [f"submissions: {kind} given; give a list of inputs, or of Submissions"])
    return [one if isinstance(one, Submission) else Submission(one) for one in submissions]
