"""Many runs in one transaction: each is what it would have been alone, or is refused in its place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import IdempotencyParamMismatch, RunHandle, Submission
from stageflow_durable.codec import decode, encode, fingerprint
from stageflow_durable.errors import RunBusy
from stageflow_durable.model.keys import new_run_id
from stageflow_durable.state import batch
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Answer, Created
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.transitions.accept import NewRun
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import AUDIT_KEY, MakeEngine
from tests.services.rows import database_of, rows_of

OWN = {"id", "head", "key", "run", "mac", "position"}
"""Columns that differ between two runs of one submission."""


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    return make_engine(acts.graph("line", a="", b="", c="a b"))


def keyed(*pairs: tuple[str | None, int], **more: Any) -> list[Submission]:
    return [Submission({"n": number}, idempotency_key=key, **more) for key, number in pairs]


def collected(engine: InProcessEngine, submissions: Sequence[Submission]) -> list[Any]:
    return engine.enqueue_many("line", submissions, on_error="collect")


def told(answers: Sequence[Any]) -> list[object]:
    """New (False), found (True), or the type of the refusal."""
    return [answer.replayed if isinstance(answer, RunHandle) else type(answer) for answer in answers]


def new_run(engine: InProcessEngine, key: str, number: int) -> NewRun:
    plan, given = engine.pipelines["line"].plan, {"n": number}
    return NewRun(new_run_id(1_700_000_000_000), "me", plan, key, fingerprint(given), encode(given), "{}", "q")


def recorded(engine: InProcessEngine, news: Sequence[NewRun]) -> list[Answer]:
    """By another process, as it were."""
    if not hasattr(engine.store, "database"):
        return engine.store.create_many(news)
    database = Database(database_of(engine).url.render_as_string(hide_password=False), clock=engine.clock.time)
    try:
        return SqlStore(database, AUDIT_KEY.encode()).create_many(news)
    finally:
        database.dispose()


def of_run(engine: InProcessEngine, table: str, run_id: str) -> list[str]:
    """What a table says of a run, apart from what is its own."""
    mine = rows_of(engine, table, run_id)
    told = [row | {"data": of_none(decode(row["data"]))} if "data" in row else row for row in mine]
    return sorted(str({name: value for name, value in row.items() if name not in OWN}) for row in told)


def of_none(data: dict[str, Any]) -> dict[str, Any]:
    """What an event says, without the key and the code of what its run was given."""
    run = {name: value for name, value in data["audit"]["run"].items() if name != "given"}
    return data | {"key": None, "audit": {"run": run}}


TEXTS = ["plain", "quote ' \" \\ % :name {}", "\x00\x1f\u2028", "é漢😀", "\ud800 alone"]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("key", [None, "k'\" \\ % 😀"])
def test_given_a_batch_when_it_is_recorded_then_its_rows_are_those_of_one_run_alone(
    engine: InProcessEngine, text: str, key: str | None
) -> None:
    given: dict[str, Any] = {"metadata": {"by": text}, "priority": 7, "deadline": timedelta(hours=1.1), "queue": "q",
                             "client_id": "a client"}  # fmt: skip
    many = collected(engine, [Submission({"text": text}, idempotency_key=key, **given), Submission({"other": 1})])[0]
    alone = engine.enqueue("line", {"text": text}, idempotency_key=key and key + "2", **given)
    for table in ("runs", "strands", "events"):
        assert of_run(engine, table, many.run_id) == of_run(engine, table, alone.run_id)
    engine.drain()
    assert {run.status.value for run in engine.runs()} == {"succeeded"}


def test_given_keys_that_are_known_when_a_batch_comes_then_each_finds_its_run(engine: InProcessEngine) -> None:
    known = engine.enqueue("line", {"n": 1}, idempotency_key="known")
    answers = collected(engine, keyed(("known", 1), ("new", 2), ("known", 3), (None, 4)))
    assert told(answers) == [True, False, IdempotencyParamMismatch, False]
    assert answers[0].run_id == known.run_id == answers[2].run_id
    assert answers[2].fields == ("n",)
    assert len(engine.runs()) == 3


def test_given_one_key_several_times_in_a_batch_then_the_first_has_it_and_the_others_find_it(
    engine: InProcessEngine,
) -> None:
    answers = collected(engine, keyed(("k", 1), ("k", 2), ("k", 1), ("K", 1)))
    assert told(answers) == [False, IdempotencyParamMismatch, True, False]
    assert answers[2].run_id == answers[0].run_id != answers[3].run_id
    assert engine.enqueue("line", {"n": 1}, idempotency_key="k").run_id == answers[0].run_id


def test_given_one_key_of_two_clients_then_they_never_meet(engine: InProcessEngine) -> None:
    mine, theirs = keyed(("k", 1), client_id="me"), keyed(("k", 2), client_id="they")
    assert told(collected(engine, mine + theirs)) == [False, False]


def test_given_a_batch_that_comes_twice_then_nothing_is_recorded_or_sent_again(engine: InProcessEngine) -> None:
    submissions = keyed(*((f"k{number}", number) for number in range(5)))
    first = collected(engine, submissions)
    sent = engine.messages.published
    second = collected(engine, submissions)
    assert told(second) == [True] * 5
    assert [answer.run_id for answer in first] == [answer.run_id for answer in second]
    assert (len(engine.runs()), engine.messages.published) == (5, sent)


def test_given_a_run_that_was_pruned_then_its_key_stays_taken(engine: InProcessEngine) -> None:
    gone = engine.enqueue("line", {"n": 1}, idempotency_key="k")
    engine.drain()
    engine.advance(timedelta(days=31).total_seconds())
    assert engine.prune(timedelta(days=30)) == 1
    same, other, new = collected(engine, keyed(("k", 1), ("k", 2), ("new", 3)))
    assert (same.run_id, same.replayed, new.replayed) == (gone.run_id, True, False)
    assert isinstance(other, IdempotencyParamMismatch)
    assert other.fields == ()
    assert [run.run_id for run in engine.runs()] == [new.run_id]
    assert {row["run"] for row in rows_of(engine, "strands")} == {new.run_id}


@pytest.mark.sql
def test_given_a_run_that_vanishes_before_it_is_looked_at_then_it_is_said_so(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.enqueue("line", {"n": 1}, idempotency_key="k")
    monkeypatch.setattr(batch, "_holders", lambda *_: {})
    assert told(collected(engine, keyed(("k", 1), ("new", 2)))) == [RunBusy, False]


def test_given_a_mismatch_that_is_to_be_raised_then_those_before_it_are_delivered_and_no_other_is_recorded(
    engine: InProcessEngine,
) -> None:
    engine.enqueue("line", {"n": 0}, idempotency_key="taken")
    with pytest.raises(IdempotencyParamMismatch, match="taken"):
        engine.enqueue_many("line", keyed(("before", 1), ("taken", 2), ("after", 3), (None, 4)))
    assert {run.key for run in engine.runs()} == {"taken", "before"}
    engine.drain()
    assert {run.status.value for run in engine.runs()} == {"succeeded"}


def test_given_a_key_that_nobody_holds_any_more_when_it_comes_to_raising_then_the_batch_is_recorded(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = engine.store.create_many

    def busy_at_first(news: Sequence[NewRun], *, whole: bool) -> list[Answer]:
        monkeypatch.setattr(engine.store, "create_many", record)
        return [RunBusy("just being pruned")] * len(news)

    monkeypatch.setattr(engine.store, "create_many", busy_at_first)
    answers = engine.enqueue_many("line", keyed(("k", 1), (None, 2), ("l", 3)))
    assert told(answers) == [False] * 3
    engine.drain()


def test_given_two_batches_of_the_same_keys_at_once_then_each_key_is_one_run(engine: InProcessEngine) -> None:
    accepted = engine.enqueue("line", {"n": 0})  # the definition is there, and the store is open
    pairs = [(f"k{number}", number) for number in range(60)]
    batches = [[new_run(engine, key, number) for key, number in order] for order in (pairs, pairs[::-1])]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda news: recorded(engine, news), batches)
    found = [answer.replayed for answer in [*first, *second] if isinstance(answer, Created)]
    assert sorted(found) == [False] * 60 + [True] * 60
    assert {run.key for run in engine.runs() if run.run_id != accepted.run_id} == {key for key, _number in pairs}


@pytest.mark.sql
def test_given_more_runs_than_a_statement_takes_then_it_is_several_and_each_run_has_its_answer(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, text = [], batch._text

    def counted(rows: Sequence[Any]) -> str:
        sizes.append(len(rows))
        return text(rows)

    monkeypatch.setattr(batch, "PART", 3)
    monkeypatch.setattr(batch, "_text", counted)
    engine.enqueue_many("line", keyed(("c", 3), ("Z", 4)))
    again = [*keyed(("d", 1), ("Z", 4), ("a", 1), ("c", 9), ("B", 1), ("d", 1), ("é", 1)), *keyed(*[(None, 0)] * 5)]
    refused = IdempotencyParamMismatch
    assert told(collected(engine, again)) == [False, True, False, refused, False, True, *[False] * 6]
    assert max(sizes) == 3 * 2  # each has two strands
    with pytest.raises(refused):
        engine.enqueue_many("line", keyed(*[(None, 0)] * 4, ("c", 9)))
    assert len(engine.runs()) == 11


@pytest.mark.sql
def test_given_run_ids_that_are_there_when_there_are_more_than_a_statement_takes_then_each_is_answered(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PART", 2)
    given = [Submission({"n": number}, run_id=new_run_id(1_700_000_000_000)) for number in range(5)]
    first, second = (engine.enqueue_many("line", given) for _ in range(2))
    assert told(first) == told(second) == [False] * 5
    assert len(rows_of(engine, "strands")) == 5 * len(engine.pipelines["line"].plan.roots)


def test_given_an_empty_batch_then_nothing_happens(engine: InProcessEngine) -> None:
    assert engine.enqueue_many("line", []) == []
