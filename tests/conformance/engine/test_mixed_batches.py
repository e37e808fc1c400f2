"""What the runs of a batch share and what they do not: either way the rows are those of each run alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import Pipeline, SchemaMigration, Submission
from stageflow_durable.codec import decode
from stageflow_durable.model.keys import new_run_id
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.transitions.accept import NewRun
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.conformance.engine.test_batches import of_none
from tests.services.rows import rows_of

OWN = {"id", "run", "head", "mac", "key", "position"}
"""Columns that differ between two runs of one submission."""

APART: dict[str, list[Any]] = {
    "input": [{"n": 1}, {"n": 2}, {"n": 2.5, "text": "é\x00'"}],
    "client_id": ["me", "they", "é'\"\\"],
    "idempotency_key": ["k2", None, "k1"],
    "queue": ["q1", None, "q2"],
    "priority": [None, 0, 9],
    "deadline": [timedelta(hours=1.1), None, 12.75],
    "metadata": [{"by": "me"}, None, {"by": ["they"]}],
}
"""Three values of each option that a submission has."""

BATCHES: dict[str, list[Submission]] = {
    **{name: [Submission(**{"input": {}, name: value}) for value in values] for name, values in APART.items()},
    "everything": [Submission(**{name: values[place] for name, values in APART.items()}) for place in range(3)],
    "nothing": [Submission({"n": 1}, "me", None, 60.5, 3, "q", {"by": "me"})] * 3,
    "one": [Submission({"n": 1}, "me", "k", 60.5, 3, "q", {"by": "me"})],
    "one without anything": [Submission({})],
}
"""By what differs in them."""


def one_root(acts: Acts) -> Pipeline[Any, Any]:
    return acts.line("a b")


def own_queue(acts: Acts) -> Pipeline[Any, Any]:
    return acts.line("a b", a={"queue": "lane"}, options={"schema": 2, "migrations": {1: SchemaMigration()}})


def two_roots(acts: Acts) -> Pipeline[Any, Any]:
    return acts.graph("line", a="", b="", c="a b")


def of(engine: InProcessEngine, run_ids: Sequence[str]) -> list[list[list[Mapping[str, Any]]]]:
    """Of each run what each table says, apart from what is its own."""
    tables = ("runs", "strands", "events")
    return [[sorted(map(_own_left_out, rows_of(engine, table, run)), key=str) for table in tables] for run in run_ids]


def _own_left_out(row: Mapping[Any, Any]) -> dict[str, Any]:
    told = {"data": of_none(decode(row["data"]))} if "data" in row else {}
    return {name: value for name, value in (dict(row) | told).items() if name not in OWN}


def alone(submission: Submission) -> dict[str, Any]:
    """To be given once more: a key of its own, or it would find the first."""
    key = submission.idempotency_key
    other = replace(submission, idempotency_key=key and f"{key} alone")
    return {name: getattr(other, name) for name in Submission.__slots__ if name not in ("input", "run_id")}


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("pipeline", [one_root, own_queue, two_roots])
@pytest.mark.parametrize("submissions", BATCHES.values(), ids=BATCHES)
def test_given_what_differs_in_a_batch_when_it_is_recorded_then_all_tables_say_what_they_say_of_each_alone(
    make_engine: MakeEngine,
    acts: Acts,
    submissions: list[Submission],
    pipeline: Callable[[Acts], Pipeline[Any, Any]],
    batches: bool,
) -> None:
    engine = make_engine(pipeline(acts), batches=batches)
    together = [handle.run_id for handle in engine.enqueue_many("line", submissions)]
    each = [engine.enqueue("line", given.input, **alone(given)).run_id for given in submissions]
    assert of(engine, together) == of(engine, each)
    assert [run[0][0]["client_id"] for run in of(engine, together)] == [given.client_id for given in submissions]
    engine.drain()
    assert {run.status.value for run in engine.runs()} == {"succeeded"}


def test_given_runs_of_two_pipelines_when_they_are_recorded_together_then_each_has_its_own_strands(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b", name="short"), acts.graph("wide", x="", y=""))
    short, wide = (engine.enqueue(name, {}) for name in ("short", "wide"))  # what each is alone
    plans = [engine.pipelines[name].plan for name in ("short", "wide", "short")]
    facts = engine.store.facts(short.run_id)
    assert facts is not None
    news = [
        NewRun(new_run_id(1_700_000_000_000), "default", plan, None, "f" * 64, "{}", "{}", facts.queue)
        for plan in plans
    ]
    engine.store.create_many(news)
    found = of(engine, [new.id for new in news])
    expected = of(engine, [short.run_id, wide.run_id, short.run_id])
    assert [run[1] for run in found] == [run[1] for run in expected]
    assert [run[2] for run in found] == [run[2] for run in expected]
    assert [run[0][0]["definition"] for run in found] == [plan.digest for plan in plans]


def test_given_a_key_that_is_buried_in_a_mixed_batch_then_it_leaves_no_strand_and_no_event(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(two_roots(acts))
    gone = engine.enqueue("line", {"n": 1}, idempotency_key="buried")
    engine.drain()
    engine.advance(timedelta(days=31).total_seconds())
    engine.prune(timedelta(days=30))
    given = [Submission({"n": 1}, idempotency_key=key) for key in ("buried", "new")]
    found, new = engine.enqueue_many("line", [*given, Submission({"n": 2})])[:2]
    assert found.run_id == gone.run_id
    left = [{row["run"] for row in rows_of(engine, table)} for table in ("strands", "events")]
    there = {row["id"] for row in rows_of(engine, "runs")}
    assert left == [there, there]
    assert new.run_id in there
    assert len(there) == 2
