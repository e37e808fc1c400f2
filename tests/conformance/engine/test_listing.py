"""Runs as lists: the newest first, whatever they are narrowed to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.errors import InvalidInput, StageflowError, UnknownRun
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


LISTS: list[tuple[dict[str, Any], str]] = [
    ({}, "76543210"),
    ({"limit": 3}, "765"),
    ({"status": "failed"}, "51"),
    ({"status": ["failed", "succeeded"]}, "54310"),
    ({"status": ["succeeded", "failed", "succeeded"], "limit": 3}, "543"),
    ({"status": [RunStatus.PARKED, RunStatus.FAILED, RunStatus.CANCELLED], "pipeline": "line"}, "6521"),
    ({"status": ["failed", "parked"], "pipeline": "other"}, ""),
    ({"status": []}, ""),
    ({"attention": True}, "6521"),
    ({"since": timedelta(seconds=3)}, "7654"),
    ({"until": timedelta(seconds=3)}, "3210"),
    ({"since": timedelta(seconds=5), "until": timedelta(seconds=2)}, "432"),
    ({"until": timedelta(seconds=3), "status": ["failed", "parked"]}, "21"),
    ({"until": timedelta(seconds=3), "attention": True}, "21"),
    ({"error": "BUG", "since": timedelta(1)}, "62"),
    ({"error": "no", "since": timedelta(seconds=4)}, "5"),
    ({"error": "_", "since": timedelta(1)}, ""),
    ({"error": "a bug", "since": timedelta(1), "attention": True}, "62"),
    ({"error": "a bug", "since": timedelta(1), "status": ["failed", "parked"], "limit": 1}, "6"),
]


def test_given_runs_of_several_statuses_when_they_are_listed_then_the_newest_come_first(
    engine: InProcessEngine,
) -> None:
    assert [listed(engine, **wanted) for wanted, _keys in LISTS] == [keys for _wanted, keys in LISTS]


def test_pages_follow_one_another_and_what_begins_meanwhile_is_on_none(engine: InProcessEngine) -> None:
    asked: list[dict[str, Any]] = [{}, {"status": ["failed", "parked", "succeeded"], "pipeline": "line"}]
    for wanted in asked:
        whole, pages, after = engine.runs(**wanted), [], None
        while page := engine.runs(**wanted, limit=2, after=after):
            pages += page
            after = page[-1].run_id
            engine.enqueue("line", {"n": 9})
        assert [run.run_id for run in pages] == [run.run_id for run in whole]


WRONG: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"until": datetime(2026, 1, 1)}, InvalidInput),
    ({"error": "a bug"}, InvalidInput),
    ({"error": "", "since": timedelta(1)}, StageflowError),
    ({"error": "a\0", "since": timedelta(1)}, StageflowError),
    ({"after": "01J9F2QZ7KXV3M5N8P0R2T4W6Y"}, UnknownRun),
    ({"after": "01J9F2QZ7KXV3M5N8P0R2T4W6Y", "attention": True}, InvalidInput),
]


def test_what_cannot_be_listed_is_refused(engine: InProcessEngine) -> None:
    for wrong, refused in WRONG:
        with pytest.raises(refused):
            engine.runs(**wrong)


def test_a_bulk_verb_finds_what_the_list_finds(engine: InProcessEngine) -> None:
    found = engine.matching(["parked", "failed"], until=timedelta(seconds=3), error="bug", since=timedelta(1))
    assert [one.run_id for one in found] == [run.run_id for run in engine.runs(status="parked", limit=2)[1:]]
