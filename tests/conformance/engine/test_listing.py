"""Runs as lists: the newest first, whatever they are narrowed to."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """Eight runs, a second apart: by turns of "line" one that succeeded, failed and was parked, and one of "other"."""
    acts.play("b", *(["b", FAILS("no"), TypeError("a bug")] * 2))
    made = make_engine(acts.line("b", b={"compensate": None}), acts.line("c", name="other"))
    for number in range(8):
        made.advance(1)
        made.enqueue("line" if number % 4 < 3 else "other", {"n": number}, idempotency_key=str(number))
        if number % 4 < 3:
            made.drain()
    return made


def listed(engine: InProcessEngine, **wanted: Any) -> str:
    return "".join(str(run.key) for run in engine.runs(**wanted))


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ({}, "76543210"),
        ({"limit": 3}, "765"),
        ({"status": "failed"}, "51"),
        ({"status": ["failed", "succeeded"]}, "54310"),
        ({"status": ["succeeded", "failed", "succeeded"], "limit": 3}, "543"),
        ({"status": [RunStatus.PARKED, RunStatus.FAILED, RunStatus.CANCELLED], "pipeline": "line"}, "6521"),
        ({"status": ["failed", "parked"], "pipeline": "other"}, ""),
        ({"status": []}, ""),
        ({"attention": True}, "6521"),
    ],
)
def test_given_runs_of_several_statuses_when_they_are_listed_then_the_newest_come_first(
    engine: InProcessEngine, wanted: dict[str, Any], keys: str
) -> None:
    assert listed(engine, **wanted) == keys
