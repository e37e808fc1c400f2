"""Calls that are made again because their answer was lost: what was recorded the first time is found again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stageflow_durable.cli.lines import Line, Stopped, Wanted, started
from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import InvalidInput, StageflowError, StoreUnavailable
from stageflow_durable.model.keys import new_run_id
from stageflow_durable.store.values import Answer
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.transitions.accept import NewRun
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine

LINES = [(number, b'{"n": %d}' % number) for number in (1, 2, 3)]
RUN = new_run_id(1_700_000_000_000)


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    return make_engine(acts.line("a b"))


def losing(engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The answer to COMMIT is lost, so many times."""
    record, losses = engine.store.create_many, [StoreUnavailable("the database did not answer")] * times

    def lost(batch: Sequence[NewRun], *, whole: bool) -> list[Answer]:
        created = record(batch, whole=whole)
        if losses:
            raise losses.pop()
        return created

    monkeypatch.setattr(engine.store, "create_many", lost)


def start(engine: InProcessEngine) -> Callable[[Sequence[Wanted]], Sequence[Any]]:
    def starting(wanted: Sequence[Wanted]) -> Sequence[Any]:
        submissions = [Submission(one.value, idempotency_key=one.key, run_id=one.run_id) for one in wanted]
        return engine.enqueue_many("line", submissions, on_error="collect")

    return starting


def told(engine: InProcessEngine) -> list[Line]:
    ids = iter(range(99))
    batches = started(
        LINES,
        start(engine),
        None,
        pause=lambda _seconds: None,
        new_id=lambda: new_run_id(1_700_000_000_000, next(ids)),
    )
    return [line for batch in batches for line in batch]


def test_given_lines_without_keys_whose_answer_was_lost_then_each_is_one_run_that_is_delivered(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(engine, monkeypatch, times=2)
    runs = {line.handle.run_id for line in told(engine) if line.handle is not None}
    assert {run.run_id for run in engine.runs()} == runs
    assert len(runs) == len(LINES)
    engine.drain()
    assert {run.status.value for run in engine.runs()} == {"succeeded"}


def test_given_that_no_answer_comes_at_all_then_it_says_which_lines_may_be_recorded_and_how_to_look(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(engine, monkeypatch, times=99)
    with pytest.raises(Stopped, match=r"lines 1 to 3 may be recorded too.*stageflow runs --since"):
        told(engine)


def refused(engine: InProcessEngine, *submissions: Submission) -> str:
    (answer,) = engine.enqueue_many("line", submissions, on_error="collect")
    assert isinstance(answer, StageflowError)
    return str(answer)


def test_given_an_id_that_another_run_has_then_it_is_refused(engine: InProcessEngine) -> None:
    engine.enqueue_many("line", [Submission({"n": 1}, run_id=RUN)])
    with pytest.raises(InvalidInput, match=f"{RUN} is another run"):
        engine.enqueue_many("line", [Submission({"n": 2}, run_id=RUN)])
    assert len(engine.runs()) == 1


@pytest.mark.parametrize(
    "given", [{"run_id": "mine"}, {"run_id": RUN, "idempotency_key": "k"}], ids=["no id", "beside a key"]
)
def test_given_an_id_that_is_none_or_stands_beside_a_key_then_it_is_refused(
    engine: InProcessEngine, given: dict[str, Any]
) -> None:
    assert "run_id: 26 characters" in refused(engine, Submission({}, **given))
