"""Many runs at once: how they stand is what each alone says, and lists go page by page."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.model.verbs import standing
from stageflow_durable.state import listing
from stageflow_durable.store.values import Filter
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import database_of

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
PARK = {"on_unknown": "park"}


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """An engine with runs of many fates."""
    made = make_engine(acts.line("a b c", b=PARK, c={"pivot": True}), acts.graph(**DIAMOND))

    def run(name: str = "line") -> str:
        handle = made.enqueue(name, {})
        made.drain()
        return handle.run_id

    run()
    run("graph")
    acts.play("b", FAILS("no"))
    run()
    acts.play("b", TypeError("a slip"))
    run()
    acts.play("b", DIES)
    run()
    acts.play("left", FAILS("no"))
    acts.play("undo a", FAILS("stuck"))
    run("graph")
    acts.play("c", FAILS("perhaps"))
    run()
    acts.play("a", TimeoutError("slow"))
    made.enqueue("line", {})
    while made.step():
        pass
    made.enqueue("line", {})
    made.enqueue("line", {})
    return made


def test_each_of_many_stands_as_it_does_alone(engine: InProcessEngine) -> None:
    ids = [run.run_id for run in engine.runs()]
    seen = list(engine.standings(ids))
    assert [one.run_id for one in seen] == ids
    assert [one.standing for one in seen] == [standing(engine.run(run)) for run in ids]
    assert [(one.status, one.op_version) for one in seen] == [
        (run.status, run.op_version) for run in map(engine.run, ids)
    ]
    assert len({one.standing.status for one in seen}) >= 5


def test_those_that_are_gone_are_left_out(engine: InProcessEngine) -> None:
    ids = [run.run_id for run in engine.runs()]
    assert [one.run_id for one in engine.standings(["gone", ids[0], "gone too", ids[1]])] == ids[:2]


@pytest.mark.sql
def test_a_thousand_runs_of_a_kind_take_no_more_statements_than_one(engine: InProcessEngine) -> None:
    for _number in range(20):
        engine.enqueue("line", {})
    alike = [run.run_id for run in engine.runs(status="pending")]
    sent: list[str] = []
    event.listen(database_of(engine).engine, "before_cursor_execute", lambda _c, _k, text, *_more: sent.append(text))
    list(engine.standings(alike[:1]))
    of_one = len(sent)
    sent.clear()
    list(engine.standings(alike))
    assert len(sent) <= of_one


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    "filters", [{}, {"status": "parked"}, {"status": ["parked", "failed", "pending"]}, {"pipeline": "line"}], ids=str
)
def test_however_long_a_page_is_the_list_is_the_same(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch, page: int, filters: dict[str, Any]
) -> None:
    whole = [run.run_id for run in engine.runs(**filters)]
    monkeypatch.setattr(listing, "PAGE", page)
    assert [run.run_id for run in engine.runs(**filters)] == whole
    assert [run.run_id for run in engine.runs(**filters, limit=2)] == whole[:2]
    named = {"status": list(RunStatus)} | filters
    named["status"] = [named["status"]] if isinstance(named["status"], str) else named["status"]
    assert [run.run_id for run in engine.matching(**named)] == whole


def test_what_is_created_while_a_list_is_read_is_not_among_it(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    before = [run.run_id for run in engine.runs()]
    reading = engine.store.found(Filter())
    first = next(reading)
    engine.advance(1.0)
    engine.enqueue("line", {})
    assert [first.run_id, *(run.run_id for run in reading)] == before


def test_a_verb_finds_its_runs_among_however_many_others(engine: InProcessEngine) -> None:
    found = engine.matching(["parked"], park_reason=ParkReason.BUG)
    assert [engine.run(run.run_id).park_reason for run in found] == [ParkReason.BUG]
    assert engine.matching(["parked"], park_reason=ParkReason.BUG, client_id="other") == []


@pytest.mark.sql
def test_a_list_reads_no_input(engine: InProcessEngine) -> None:
    sent: list[str] = []
    event.listen(database_of(engine).engine, "before_cursor_execute", lambda _c, _k, text, *_more: sent.append(text))
    engine.runs()
    engine.runs(attention=True)
    assert not [text for text in sent if "stageflow_runs.input," in text or "stageflow_runs.metadata" in text]
