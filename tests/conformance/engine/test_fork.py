"""A new run from the checkpoints of another: outputs are copied, obligations are not."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import RunStatus, StageOutput
from stageflow_durable.errors import InvalidKey, NotAllowed, UnknownRun
from stageflow_durable.model.status import StageState
from stageflow_durable.model.verbs import allowed_verbs
from tests.conformance.engine.acts import DIAMOND, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}


@pytest.mark.parametrize("in_place", [1, 50])
def test_it_begins_at_the_stage_with_the_outputs_from_before_it(
    make_engine: MakeEngine, acts: Acts, in_place: int
) -> None:
    engine = make_engine(acts.line("a b c d"), in_place_stages=in_place)
    first = engine.enqueue("line", {"n": 1}, client_id="web", metadata={"m": 1})
    engine.drain()
    fork = engine.fork(first.run_id, "c", **WHO)
    engine.drain()
    assert acts.log == [*"abcd", *"cd"]
    assert (fork.status(), fork.outputs()) == (RunStatus.SUCCEEDED, {name: name for name in "abcd"})
    again = acts.contexts[4]
    assert (again.input, again.client_id, again.metadata) == ({"n": 1}, "web", {"m": 1})
    assert again.outputs == {"a": "a", "b": "b"}
    assert again.idempotency_key == f"sf_{fork.run_id}_c"


def test_given_a_reason_that_no_database_takes_then_the_fork_is_made_and_the_reason_is_legible(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b"))
    first = engine.enqueue("line", {})
    engine.drain()
    fork = engine.fork(first.run_id, "b", reason="a\0b\ud800", actor="me\0")
    told = [dict(event.data) for event in fork.history() if "reason" in event.data]
    assert [(event["reason"], event["actor"]) for event in told] == [("a\\x00b\\ud800", "me\\x00")]
    engine.drain()
    assert fork.status() is RunStatus.SUCCEEDED


def test_what_the_original_did_stays_the_originals_to_undo(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("c", FAILS("not yet"))
    engine = make_engine(acts.line("a b c", options={"on_failure": "park"}))
    first = engine.enqueue("line", {})
    engine.drain()
    acts.play("c", FAILS("never"))
    fork = engine.fork(first.run_id, "b", **WHO)
    engine.drain()
    engine.compensate(fork.run_id, **WHO)
    engine.drain()
    assert acts.log[3:] == ["b", "c", "undo c unknown", "undo b ok"]
    engine.compensate(first.run_id, **WHO)
    engine.drain()
    assert acts.log[-3:] == ["undo c unknown", "undo b ok", "undo a ok"]


@pytest.mark.parametrize(
    ("fails", "options", "offered"),
    [
        ("c", {}, "a"),  # what a and b did was undone
        ("c", {"a": {"compensate": None}}, "b"),
        ("c", {name: {"compensate": None} for name in "abc"}, "c"),
        ("", {}, "c"),
    ],
)
def test_the_fork_that_show_offers_is_accepted(
    make_engine: MakeEngine, acts: Acts, fails: str, options: dict[str, Any], offered: str
) -> None:
    if fails:
        acts.play(fails, FAILS("no"))
    engine = make_engine(acts.line("a b c", **options))
    first = engine.enqueue("line", {})
    engine.drain()
    [fork] = [verb for verb in allowed_verbs(first.describe()) if verb.name == "fork"]
    assert fork.stage == offered
    again = engine.fork(first.run_id, offered, **WHO)
    engine.drain()
    assert again.status() is RunStatus.SUCCEEDED


def test_none_is_offered_where_it_would_be_refused(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("left", FAILS("no"))
    engine = make_engine(acts.graph(**DIAMOND))
    first = engine.enqueue("graph", {})
    engine.drain()
    for verb in allowed_verbs(first.describe()):
        if verb.name == "fork":
            assert verb.stage is not None
            engine.fork(first.run_id, verb.stage, **WHO)


def test_finished_branches_beside_it_are_copied_unfinished_ones_run(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.graph(**DIAMOND))
    first = engine.enqueue("graph", {})
    engine.drain()
    acts.log.clear()
    fork = engine.fork(first.run_id, "left", **WHO)
    engine.drain()
    assert acts.log == ["left", "join", "z"]
    assert fork.status() is RunStatus.SUCCEEDED


def test_of_a_run_under_way_what_is_done_by_now_is_copied(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)
    first = engine.enqueue("graph", {})
    engine.step()
    engine.step()
    done = set(first.outputs()) - {"a"}
    fork = engine.fork(first.run_id, *({"left", "right"} - done), **WHO)
    engine.drain()
    assert (first.status(), fork.status()) == (RunStatus.SUCCEEDED, RunStatus.SUCCEEDED)
    assert acts.log.count(done.pop()) == 1
    assert acts.log.count("a") == 1


def test_from_the_first_stage_everything_runs_again(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    first = engine.enqueue("line", {})
    engine.drain()
    engine.fork(first.run_id, "a", **WHO)
    engine.drain()
    assert acts.log == [*"abab"]


def test_a_skipped_stage_is_copied_as_skipped(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.skip("not needed"))
    engine = make_engine(acts.line("a b"))
    first = engine.enqueue("line", {})
    engine.drain()
    fork = engine.fork(first.run_id, "b", **WHO)
    engine.drain()
    assert fork.describe().stage("a").state is StageState.SKIPPED
    assert acts.contexts[-1].snapshot.skipped == {"a"}


def test_behind_a_pivot_it_only_goes_forward(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b c", b={"pivot": True}))
    first = engine.enqueue("line", {})
    engine.drain()
    acts.play("c", FAILS("no"))
    fork = engine.fork(first.run_id, "c", **WHO)
    engine.drain()
    assert (fork.status(), fork.describe().pivot_passed) == (RunStatus.FAILED, True)


def test_both_histories_tell_of_it(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    first = engine.enqueue("line", {})
    engine.drain()
    fork = engine.fork(first.run_id, "b", **WHO)
    assert first.history()[-1].type == "operator.fork"
    assert first.history()[-1].data["to"] == fork.run_id
    told = fork.history()[1]
    assert (told.type, told.data["of"], told.data["copied"], told.data["actor"]) == (
        "run.forked",
        first.run_id,
        ["a"],
        "ops",
    )


def test_with_a_key_it_happens_once(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    first = engine.enqueue("line", {})
    engine.drain()
    forks = [engine.fork(first.run_id, "b", idempotency_key="again", **WHO) for _ in range(2)]
    engine.drain()
    assert forks[0].run_id == forks[1].run_id
    assert [fork.replayed for fork in forks] == [False, True]
    assert acts.log == [*"ab", "b"]
    assert [event.type for event in first.history()].count("operator.fork") == 1


class TestRefused:
    def test_from_a_stage_that_is_not_there(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))
        first = engine.enqueue("line", {})
        with pytest.raises(NotAllowed, match="it has: a, b"):
            engine.fork(first.run_id, "x", **WHO)

    def test_from_a_stage_that_waits_for_work_not_done(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b c"))
        first = engine.enqueue("line", {})
        with pytest.raises(NotAllowed, match="c waits for a, b, not done; fork from a"):
            engine.fork(first.run_id, "c", **WHO)

    def test_where_what_would_be_copied_was_undone(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("c", FAILS("no"))
        engine = make_engine(acts.line("a b c"))
        first = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="what a, b did was undone"):
            engine.fork(first.run_id, "c", **WHO)
        fork = engine.fork(first.run_id, "a", **WHO)
        engine.drain()
        assert fork.status() is RunStatus.SUCCEEDED

    def test_of_an_unknown_run_and_with_a_bad_key(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        with pytest.raises(UnknownRun):
            engine.fork("01NOSUCHRUN", "a", **WHO)
        first = engine.enqueue("line", {})
        with pytest.raises(InvalidKey):
            engine.fork(first.run_id, "a", idempotency_key="", **WHO)
