"""Corners where two features meet: each was wrong once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus, SchemaMigration, StageOutput
from stageflow_durable.errors import InvalidInput, NotAllowed, UnknownRun
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import rows_of

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
WRAPPED = {1: SchemaMigration(outputs={"a": lambda old: {"wrapped": old}})}


def by_order(ctx: Any) -> str:
    return str(ctx.input["order"])


def keyed(acts: Acts, names: str = "a b", **options: Any) -> Pipeline[Any, Any]:
    return acts.line(names, a={"key": by_order, **options})


def held(engine: InProcessEngine, run_id: str) -> list[str]:
    return [row["key"] for row in rows_of(engine, "idempotency_keys", run_id) if row["state"] == "held"]


def test_an_older_worker_hands_back_an_undo_whose_outputs_it_cannot_read(make_engine: MakeEngine, acts: Acts) -> None:
    newer = replace(acts.line("a b"), schema=2, migrations=WRAPPED)
    engine = make_engine(newer, in_place_stages=1)
    handle = engine.enqueue("line", {})
    engine.step()
    engine.cancel(handle.run_id, **WHO)
    old = engine.hired(acts.line("a b"))
    engine.step(old)
    assert "undo a ok" not in acts.log
    engine.drain()
    assert (handle.status(), acts.log[-1]) == (RunStatus.COMPENSATED, "undo a ok")


def test_a_replayed_answer_of_an_older_schema_is_migrated(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts))
    engine.enqueue("line", {"order": 1})
    engine.drain()
    engine.advance(1)
    engine.deploy(replace(keyed(acts), schema=2, migrations=WRAPPED))
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert acts.log == ["a", "b", "b"]
    assert acts.contexts[-1].outputs == {"a": {"wrapped": "a"}}
    assert engine.handle(second.run_id).outputs()["a"] == {"wrapped": "a"}


def test_a_paused_owner_claims_no_key_for_a_run_that_was_taken_from_it(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts), lease_seconds=10)
    handle = engine.enqueue("line", {"order": 1})

    def take_over_and_cancel() -> None:
        engine.clock.advance(25)
        engine.sweep()
        engine.cancel(handle.run_id, **WHO)

    engine.faults.meanwhile("before", "claim_key", take_over_and_cancel)
    engine.step()
    engine.drain()
    assert acts.log.count("a") == 0
    assert held(engine, handle.run_id) == []


def test_a_key_that_an_earlier_attempt_named_is_let_go_as_well(make_engine: MakeEngine, acts: Acts) -> None:
    names = iter(["order-7", "ord-7", "ord-7"])
    acts.play("a", StageOutput.retry("busy"))
    engine = make_engine(acts.line("a b", a={"key": lambda _ctx: next(names)}))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert held(engine, handle.run_id) == []


def test_an_undo_that_was_given_up_is_owed_again_when_its_action_begins_again(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", FAILS("no"), FAILS("no again"))
    engine = make_engine(acts.line("a", options={"on_failure": "park"}))
    handle = engine.enqueue("line", {})
    engine.drain()
    engine.compensate(handle.run_id, skip=["a"], **WHO)
    engine.resume(handle.run_id, **WHO)
    engine.drain()
    engine.compensate(handle.run_id, **WHO)
    engine.drain()
    assert acts.log == ["a", "a", "undo a unknown"]
    assert handle.status() is RunStatus.COMPENSATED


def test_what_is_about_to_be_undone_is_not_copied_by_a_fork(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("c", FAILS("no"))
    engine = make_engine(acts.line("a b c"), in_place_stages=1)
    handle = engine.enqueue("line", {})
    while handle.status() is not RunStatus.COMPENSATING:
        engine.step()
    with pytest.raises(NotAllowed, match="what a did is being undone"):
        engine.fork(handle.run_id, "b")


def test_waiting_for_a_key_leaves_a_short_history(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts, on_unknown="park"))
    acts.play("a", DIES)
    engine.enqueue("line", {"order": 1})
    engine.drain()
    second = engine.enqueue("line", {"order": 1})
    looks, engine.faults.watch = engine.faults.watch, lambda _point: None
    for _ in range(120):
        engine.advance(60)
        engine.sweep()
        engine.work()
    engine.faults.watch = looks
    assert second.status() is RunStatus.WAITING
    assert len(second.history()) < 600  # two hours
    engine.cancel(second.run_id, **WHO)


def test_an_attempt_that_was_never_called_passes_no_pivot_and_owes_no_undo(make_engine: MakeEngine, acts: Acts) -> None:
    def no_key(_ctx: Any) -> str:
        raise ConnectionError("cannot make a key")

    engine = make_engine(acts.line("a b", b={"key": no_key, "pivot": True}))
    handle = engine.enqueue("line", {})
    engine.work()
    assert not handle.describe().pivot_passed
    engine.cancel(handle.run_id, **WHO)
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "undo a ok"], RunStatus.COMPENSATED)


@pytest.mark.parametrize("end", [FAILS("no"), DIES], ids=["raised", "lost"])
def test_a_stage_in_doubt_does_not_take_the_place_of_what_a_person_asked_for(
    make_engine: MakeEngine, acts: Acts, end: Any
) -> None:
    engine = make_engine(acts.line("a", a={"on_unknown": "park"}))
    engine.watched = True

    def cancelled_meanwhile(ctx: Any) -> None:
        engine.cancel(ctx.run_id, **WHO)
        raise end

    acts.play("a", cancelled_meanwhile)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert (handle.status(), acts.log) == (RunStatus.COMPENSATED, ["a", "undo a unknown"])


def test_what_a_person_found_out_has_the_newest_shape(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", DIES)
    engine = make_engine(acts.line("a b", a={"on_unknown": "park"}))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.describe().park_reason is ParkReason.UNKNOWN
    engine.advance(1)
    engine.deploy(replace(acts.line("a b", a={"on_unknown": "park"}), schema=2, migrations=WRAPPED))
    engine.settle(handle.run_id, "a", done={"wrapped": 1}, **WHO)
    engine.drain()
    assert acts.contexts[-1].outputs == {"a": {"wrapped": 1}}


def test_a_run_that_never_moved_to_the_schemas_between_is_refused_by_name(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b c"), in_place_stages=1)
    handle = engine.enqueue("line", {})
    engine.step()
    engine.advance(1)
    same = SchemaMigration()
    engine.deploy(replace(acts.line("a b c"), schema=2, migrations={1: same}))
    engine.step()  # b is saved under 2, a under 1
    engine.advance(1)
    engine.deploy(replace(acts.line("a b c"), schema=3, migrations={2: same}))
    assert [why for _run, why in engine.check()] == ["its outputs have schema 1, this definition reads 2 to 3"]
    engine.drain()
    assert handle.describe().park_reason is ParkReason.DEFINITION


def test_text_in_the_place_of_a_list_is_refused(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", FAILS("no"))
    engine = make_engine(acts.line("a", options={"on_failure": "park"}))
    handle = engine.enqueue("line", {})
    engine.drain()
    with pytest.raises(InvalidInput, match="a list of stages"):
        engine.compensate(handle.run_id, skip="a", **WHO)


def test_a_pruned_run_is_told_from_one_that_never_was(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {}, idempotency_key="once")
    engine.drain()
    engine.advance(86_400 * 31)
    engine.faults.watch = lambda _point: None
    engine.prune(timedelta(days=30))
    again = engine.enqueue("line", {}, idempotency_key="once")
    assert again.replayed
    for look in (again.status, again.describe, lambda: engine.handle(handle.run_id)):
        with pytest.raises(UnknownRun, match="succeeded at .* and was pruned"):
            look()
