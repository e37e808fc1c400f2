"""Business keys that stages of runs hold: claims inside the run's own transactions (``state/idempotency_keys.py``)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from stageflow_durable.codec import encode, fingerprint
from stageflow_durable.errors import FenceLost, IdempotencyConflict, IdempotencyParamMismatch, InvalidKey
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, Done, HeldByRun, InProgress, Mismatch, RunAnswer, Undone
from stageflow_durable.state import idempotency_keys as keys
from stageflow_durable.state.database import Database
from stageflow_durable.state.idempotency_leases import Leases
from tests.conformance.idempotency.backends import LONG, SCOPE, Backend
from tests.conformance.idempotency.waiting import until_somebody_waits

DAY = 86_400.0
NOW = 1_900_000_000.0


@dataclass
class Runs:
    """Stages of runs that claim ``order-1`` in transactions of their own, by a clock that is moved by hand."""

    database: Database
    now: float = NOW
    params: dict[str, object] = field(default_factory=lambda: {"amount": 1})

    def claim(
        self, run: str = "run-1", stage: str = "charge", *, params: object = None, key: str = "order-1"
    ) -> RunAnswer:
        given = self.params if params is None else params
        with self.database.transaction() as connection:
            return keys.claim_for_run(
                connection, SCOPE, key, fingerprint(given), encode(given), run, stage, ttl_seconds=DAY, now=self.now
            )

    def finish(self, run: str = "run-1", stage: str = "charge", result: object = None) -> bool:
        with self.database.transaction() as connection:
            return keys.finish_for_run(
                connection, SCOPE, "order-1", run, stage, encode(result), ttl_seconds=DAY, now=self.now
            )

    def release(self, run: str = "run-1", stage: str = "charge") -> bool:
        with self.database.transaction() as connection:
            return keys.release_for_run(connection, SCOPE, "order-1", run, stage, self.now)

    def undo(self, run: str = "run-1", stage: str = "charge") -> bool:
        with self.database.transaction() as connection:
            return keys.undone_for_run(connection, SCOPE, "order-1", run, stage, ttl_seconds=DAY, now=self.now)

    def abandon(self, run: str = "run-1", stage: str = "charge") -> bool:
        with self.database.transaction() as connection:
            return keys.abandon_for_run(connection, SCOPE, "order-1", run, stage, ttl_seconds=DAY, now=self.now)

    def prune(self, limit: int = 1000) -> int:
        with self.database.transaction() as connection:
            return keys.prune_keys(connection, limit=limit, now=self.now)


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


@pytest.fixture
def outsider(database: Database) -> Iterator[Backend]:
    """The standalone store on the same table."""
    store = SqlIdempotencyStore(database)
    yield Backend(store)
    store.close()


def test_given_a_free_key_when_a_stage_claims_it_then_other_runs_are_told_who_holds_it(runs: Runs) -> None:
    first = runs.claim()
    assert isinstance(first, Claimed)
    assert runs.claim("run-2") == HeldByRun("run-1", "charge", first.fence)
    assert runs.claim("run-1", "another") == HeldByRun("run-1", "charge", first.fence)


def test_given_a_crash_when_the_same_run_and_stage_claim_again_then_they_get_it_with_a_higher_fence(runs: Runs) -> None:
    first, again = runs.claim(), runs.claim()
    assert isinstance(first, Claimed)
    assert isinstance(again, Claimed)
    assert again.fence > first.fence


def test_given_an_unfinished_stage_then_its_key_never_expires_under_it(runs: Runs) -> None:
    runs.claim()
    runs.now += 1000 * DAY
    assert isinstance(runs.claim("run-2"), HeldByRun)
    assert runs.prune() == 0


@pytest.mark.parametrize("result", [None, 0, "", {"payment": "p-1"}])
def test_given_a_finished_stage_then_other_runs_get_its_result_until_the_ttl_has_passed(
    runs: Runs, result: object
) -> None:
    runs.claim()
    assert runs.finish(result=result)
    runs.now += DAY - 1
    answer = runs.claim("run-2")
    assert isinstance(answer, Done)
    assert answer.result == result
    runs.now += 1
    assert isinstance(runs.claim("run-2", params={"amount": 2}), Claimed)


def test_given_a_vouched_release_then_the_key_is_free_at_once_for_any_parameters(runs: Runs) -> None:
    first = runs.claim()
    assert runs.release()
    second = runs.claim("run-2", params={"amount": 2})
    assert isinstance(first, Claimed)
    assert isinstance(second, Claimed)
    assert second.fence > first.fence


@pytest.mark.parametrize("finished", [True, False])
def test_given_compensated_work_then_claims_are_told_that_it_was_undone(runs: Runs, finished: bool) -> None:
    runs.claim()
    if finished:
        runs.finish()
    assert runs.undo()
    assert runs.claim("run-2") == Undone("run-1")
    assert runs.claim() == Undone("run-1")
    runs.now += DAY
    assert isinstance(runs.claim("run-2"), Claimed)


def test_given_a_stage_that_failed_in_doubt_then_its_key_is_held_for_the_ttl_and_then_free(runs: Runs) -> None:
    runs.claim()
    assert runs.abandon()
    runs.now += DAY - 1
    assert isinstance(runs.claim("run-2"), HeldByRun)
    runs.now += 1
    assert isinstance(runs.claim("run-2"), Claimed)


def test_given_an_abandoned_key_when_a_person_resumes_the_stage_then_it_holds_it_without_end_again(runs: Runs) -> None:
    runs.claim()
    runs.abandon()
    assert isinstance(runs.claim(), Claimed)
    runs.now += 10 * DAY
    assert isinstance(runs.claim("run-2"), HeldByRun)


def test_given_a_key_of_another_then_none_of_its_writes_is_accepted(runs: Runs) -> None:
    runs.claim()
    for run, stage in (("run-2", "charge"), ("run-1", "another")):
        assert not runs.finish(run, stage)
        assert not runs.release(run, stage)
        assert not runs.undo(run, stage)
        assert not runs.abandon(run, stage)
    assert runs.finish(result="kept")
    assert not runs.finish(result="late")
    assert not runs.release()
    assert not runs.abandon()
    assert runs.claim("run-2") == Done(encode("kept"))


def test_given_other_parameters_then_the_mismatch_is_answered_not_raised(runs: Runs) -> None:
    runs.claim()
    assert runs.claim("run-2", params={"amount": 2, "to": "x"}) == Mismatch(("amount", "to"), "run-1")
    assert runs.claim(params={"amount": 2}) == Mismatch(("amount",), "run-1")
    runs.finish()
    assert runs.claim("run-2", params={}) == Mismatch(("amount",), "run-1")


def test_given_a_malformed_key_then_it_is_refused_before_any_statement(runs: Runs) -> None:
    with pytest.raises(InvalidKey):
        runs.claim(key="a\x00b")
    assert isinstance(runs.claim(), Claimed)


def test_given_a_transaction_that_rolls_back_then_nothing_was_claimed(runs: Runs) -> None:
    with runs.database.engine.connect() as connection:
        keys.claim_for_run(
            connection, SCOPE, "order-1", fingerprint(runs.params), None, "run-1", "charge", ttl_seconds=DAY
        )
        connection.rollback()
    assert isinstance(runs.claim("run-2"), Claimed)


def test_given_a_running_lease_of_the_store_then_a_stage_waits_and_takes_it_when_it_lapses(
    runs: Runs, outsider: Backend
) -> None:
    Leases(runs.database).claim(SCOPE, "order-1", fingerprint(runs.params), None, owner="o", lease=5, ttl=5, now=NOW)
    answer = runs.claim()
    assert isinstance(answer, InProgress)
    assert answer.seconds_left == 5
    runs.now += 4.999
    assert isinstance(runs.claim(), InProgress)
    runs.now += 0.001
    assert isinstance(runs.claim(), Claimed)


def test_given_a_key_that_a_run_holds_then_the_store_sees_it_in_progress_without_an_end(
    runs: Runs, outsider: Backend
) -> None:
    claimed = runs.claim()
    assert isinstance(claimed, Claimed)
    answer = outsider.claim(params=runs.params)
    assert answer == InProgress(None, None, claimed.fence, "stage charge of run run-1")
    with pytest.raises(IdempotencyParamMismatch, match=r"order-1.*run-1.*amount"):
        outsider.claim(params={"amount": 2})
    with pytest.raises(FenceLost):
        outsider.store.complete(SCOPE, "order-1", claimed.fence, 1, ttl_seconds=1)
    with pytest.raises(FenceLost):
        outsider.store.release(SCOPE, "order-1", claimed.fence, vouched=True)
    with pytest.raises(FenceLost):
        outsider.store.renew(SCOPE, "order-1", claimed.fence, lease_seconds=1)


def test_given_undone_work_then_the_store_refuses_the_key_as_a_conflict(runs: Runs, outsider: Backend) -> None:
    runs.now = 4_000_000_000.0  # beyond both clocks
    runs.claim()
    runs.undo()
    with pytest.raises(IdempotencyConflict, match=r"undone by run run-1") as caught:
        outsider.claim(params=runs.params)
    assert caught.value.run_id == "run-1"


def test_given_two_runs_that_claim_at_once_then_the_second_waits_for_the_first_transaction(
    postgres_database: Database,
) -> None:
    runs, waiting = Runs(postgres_database), threading.Event()

    def second() -> RunAnswer:
        waiting.set()
        return runs.claim("run-2")

    with ThreadPoolExecutor(1) as pool:
        with postgres_database.transaction() as connection:
            keys.claim_for_run(
                connection, SCOPE, "order-1", fingerprint(runs.params), None, "run-1", "charge", ttl_seconds=DAY
            )
            answer = pool.submit(second)
            waiting.wait(5)
            until_somebody_waits(postgres_database)
        assert isinstance(answer.result(5), HeldByRun)


def test_given_two_runs_that_claim_at_once_when_the_first_rolls_back_then_the_second_gets_it(
    postgres_database: Database,
) -> None:
    runs = Runs(postgres_database)
    with ThreadPoolExecutor(1) as pool:
        with postgres_database.engine.connect() as connection:
            keys.claim_for_run(
                connection, SCOPE, "order-1", fingerprint(runs.params), None, "run-1", "charge", ttl_seconds=DAY
            )
            answer = pool.submit(runs.claim, "run-2")
            until_somebody_waits(postgres_database)
            connection.rollback()
        assert isinstance(answer.result(5), Claimed)


def test_given_many_runs_at_once_then_one_gets_the_key(runs: Runs) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: runs.claim(f"run-{number}"), range(50)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Claimed"] + ["HeldByRun"] * 49


def test_given_expired_keys_then_pruning_deletes_them_in_portions_and_nothing_else(
    runs: Runs, outsider: Backend
) -> None:
    for number in range(5):
        runs.claim(key=f"old-{number}")
        with runs.database.transaction() as connection:
            keys.finish_for_run(connection, SCOPE, f"old-{number}", "run-1", "charge", "1", ttl_seconds=1, now=NOW)
    runs.claim()
    runs.now += 1
    assert (runs.prune(2), runs.prune(2), runs.prune(), runs.prune()) == (2, 2, 1, 0)
    assert isinstance(runs.claim("run-2"), HeldByRun)


def test_given_the_store_then_it_prunes_by_the_database_clock(outsider: Backend, runs: Runs) -> None:
    outsider.fence(ttl=LONG)
    store = outsider.store
    assert isinstance(store, SqlIdempotencyStore)
    assert store.prune() == 0
    runs.now = 1.0
    runs.claim(key="old")
    with runs.database.transaction() as connection:
        keys.finish_for_run(connection, SCOPE, "old", "run-1", "charge", "1", ttl_seconds=1, now=1.0)
    assert store.prune() == 1
