"""Retention: what ended long ago goes, what a person or an obligation needs stays, and no key is ever free again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, insert, make_url, select, text, update

from stageflow_durable.errors import IdempotencyParamMismatch, RunBusy
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import ParkReason, Phase, RunStatus
from stageflow_durable.model.work import Claimant, Done, Nudge, Work
from stageflow_durable.state import idempotency_keys, retention
from stageflow_durable.state.database import Database
from stageflow_durable.state.idempotency_leases import Leases
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.opening import BOUNDS
from stageflow_durable.state.store import SqlStore
from stageflow_durable.state.tables import attributes, owners, runs, strands, tombstones
from stageflow_durable.store.values import BATCH, Identity
from stageflow_durable.transitions.accept import NewRun

PLAN = Pipeline("one").stage("a", lambda _ctx: None, compensate=lambda _ctx: None).plan
LONG_AGO, RECENTLY, OLDER_THAN = 100 * 86_400.0, 86_400.0, 30 * 86_400.0
KEYS = idempotency_keys.idempotency_keys
OF_A_RUN = ("runs", "strands", "attempts", "checkpoints", "saga_steps", "events", "attributes")


class Past:
    """A database with a past."""

    def __init__(self, url: str, *, optimistic: bool) -> None:
        self.database = Database(url)
        self.store = SqlStore(self.database, optimistic=optimistic)
        self.store.register([PLAN])
        self.owner = self.store.join(Identity("host", 1, "boot"), 3600.0)
        self.slept: list[float] = []

    def new(self, run_id: str, key: str | None = None, fingerprint: str = "f") -> NewRun:
        return NewRun(run_id, "c", PLAN, key, fingerprint, "{}", "{}", "q")

    def ended(self, run_id: str, ago: float = LONG_AGO, key: str | None = None, **columns: Any) -> str:
        """A run that succeeded ``ago`` seconds ago; ``columns`` say otherwise."""
        self.store.create(self.new(run_id, key))
        claimant = Claimant(self.owner, {"one": PLAN}, {})
        work = self.store.begin(Nudge(run_id, "a", 0, "q"), claimant)
        assert isinstance(work, Work)
        assert isinstance(self.store.succeed(work, claimant, "1"), Done)
        then = self.store.clock() - ago
        with self.database.transaction() as connection:
            values = {"created_at": then - 60, "finished_at": then, **columns}
            connection.execute(update(runs).where(runs.c.id == run_id).values(**values))
            connection.execute(insert(attributes).values(run=run_id, name="order", value="A-1"))
        return run_id

    def prune(self, batch: int = BATCH, **options: Any) -> int:
        return self.store.prune(OLDER_THAN, batch=batch, sleep=self.slept.append, **options).deleted

    def left(self) -> set[str]:
        with self.database.read() as connection:
            return set(connection.execute(select(runs.c.id)).scalars())

    def keys(self) -> int:
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(KEYS)).scalar_one()

    def rows(self) -> dict[str, int]:
        with self.database.read() as connection:
            return {
                name: connection.execute(
                    select(func.count()).select_from(metadata.tables[f"stageflow_{name}"])
                ).scalar_one()
                for name in OF_A_RUN
            }


@pytest.fixture(params=[True, False], ids=["optimistic", "locked"])
def past(request: pytest.FixtureRequest, migrated_database_url: str) -> Iterator[Past]:
    """Once for each way to the database."""
    made = Past(migrated_database_url, optimistic=request.param)
    yield made
    made.store.close()


STATUSES: dict[RunStatus, dict[str, Any]] = {
    RunStatus.SUCCEEDED: {},
    RunStatus.FAILED: {},
    RunStatus.CANCELLED: {},
    RunStatus.COMPENSATED: {},
    RunStatus.COMPENSATION_FAILED: {},
    RunStatus.PARKED: {"park_reason": ParkReason.BUG},
    RunStatus.RUNNING: {"phase": Phase.FORWARD, "finished_at": None},
    RunStatus.COMPENSATING: {"phase": Phase.BACKWARD, "finished_at": None},
}


def test_given_runs_of_every_kind_when_pruned_then_only_those_that_ended_for_good_go(past: Past) -> None:
    for status, columns in STATUSES.items():
        past.ended(f"old-{status}", status=status, **columns)
    past.ended("fresh", RECENTLY)
    assert past.store.prunable(OLDER_THAN) == 4
    assert past.prune() == 4
    assert past.left() == {"old-parked", "old-compensation_failed", "old-running", "old-compensating", "fresh"}
    assert past.store.prunable(OLDER_THAN) == past.prune() == 0


def test_given_a_pruned_run_then_nothing_of_it_is_left_but_its_tombstone(past: Past) -> None:
    facts = past.store.facts(past.ended("gone", key="k"))
    assert facts is not None
    assert past.prune() == 1
    assert past.rows() == dict.fromkeys(OF_A_RUN, 0)
    with past.database.read() as connection:
        [stone] = connection.execute(select(tombstones)).all()
    assert (stone.run, stone.key, stone.status, stone.seq, stone.head) == (
        "gone",
        "k",
        "succeeded",
        facts.seq,
        facts.head,
    )


def test_given_more_than_a_batch_then_the_oldest_go_first_and_each_call_is_bounded(past: Past) -> None:
    for number in range(5):
        past.ended(f"R{number}", LONG_AGO + number)
    assert past.prune(batch=2) == 2
    assert past.left() == {"R0", "R1", "R2"}
    assert (past.prune(batch=2), past.prune(batch=2)) == (2, 1)


def test_given_a_pruned_runs_key_when_it_comes_again_then_it_is_answered_and_not_run_again(past: Past) -> None:
    past.ended("gone", key="k")
    past.prune()
    again = past.store.create(past.new("new", "k"))
    assert (again.run_id, again.replayed, again.nudges) == ("gone", True, ())
    with pytest.raises(IdempotencyParamMismatch, match="gone"):
        past.store.create(past.new("new", "k", fingerprint="other"))
    assert past.left() == set()
    assert not past.store.create(past.new("new", "another key")).replayed


def test_given_a_tombstone_that_outlived_its_time_then_the_key_is_free(past: Past) -> None:
    past.ended("gone", key="k")
    past.prune()
    past.prune(key_seconds=-1.0)
    assert not past.store.create(past.new("new", "k")).replayed


def test_given_a_run_that_holds_a_business_key_in_doubt_then_it_stays_for_it_alone_can_settle_it(past: Past) -> None:
    past.ended("doubtful", status=RunStatus.FAILED)
    with past.database.transaction() as connection:
        idempotency_keys.claim_for_run(
            connection, Scope("c", "one.a"), "card", "f", "{}", "doubtful", "a", ttl_seconds=60.0
        )
    assert past.store.prunable(OLDER_THAN) == past.prune() == 0


def test_given_a_run_whose_abandoned_key_has_expired_then_both_go(past: Past) -> None:
    past.ended("doubtful", status=RunStatus.FAILED)
    scope = Scope("c", "one.a")
    long_ago = past.store.clock() - LONG_AGO
    with past.database.transaction() as connection:
        idempotency_keys.claim_for_run(connection, scope, "card", "f", "{}", "doubtful", "a", ttl_seconds=60.0)
        idempotency_keys.abandon_for_run(
            connection, scope, "card", "doubtful", "a", ttl_seconds=60.0, now=past.store.clock()
        )
    assert past.store.prunable(OLDER_THAN) == past.prune() == 0
    with past.database.transaction() as connection:
        connection.execute(update(KEYS).values(expires_at=long_ago))
    assert past.store.prunable(OLDER_THAN) == 1
    assert past.prune() == 1
    assert past.keys() == 0


def test_given_more_expired_keys_than_one_statement_deletes_then_all_go_and_the_others_stay(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "KEYS", 2)
    leases, scope = Leases(past.database), Scope("c", "o")
    for number in range(6):
        ends = past.store.clock() + (60.0 if number == 5 else -3600.0)
        leases.claim(scope, f"k{number}", "f", None, owner="me", lease=1.0, ttl=1.0, now=ends - 1.0)
    past.prune()
    assert past.keys() == 1


def test_given_owners_that_died_long_ago_then_those_that_hold_nothing_go(past: Past) -> None:
    past.ended("running", status=RunStatus.RUNNING, phase=Phase.FORWARD, finished_at=None)
    ids = [past.store.join(Identity("host", pid, "boot"), 60.0) for pid in (2, 3)]
    with past.database.transaction() as connection:
        connection.execute(update(owners).where(owners.c.id.in_(ids)).values(dead_at=1.0))
        connection.execute(update(strands).where(strands.c.run == "running").values(state="running", owner=ids[0]))
    past.prune()
    with past.database.read() as connection:
        assert set(connection.execute(select(owners.c.id)).scalars()) == {past.owner, ids[0]}


SLOW = "SELECT pg_advisory_lock_shared(1)"


class Hold:
    """What keeps ``SLOW`` waiting until it is let go."""

    def __init__(self, database: Database) -> None:
        self._connection = database.engine.connect()
        self._connection.exec_driver_sql("SELECT pg_advisory_lock(1)")
        self._connection.commit()
        self.held = True

    def let_go(self) -> None:
        if self.held:
            self._connection.exec_driver_sql("SELECT pg_advisory_unlock(1)")
            self._connection.close()
        self.held = False


@pytest.fixture
def old(migrated_postgres_url: str) -> Iterator[Past]:
    """A past on PostgreSQL."""
    made = Past(migrated_postgres_url, optimistic=False)
    yield made
    made.store.close()


@pytest.fixture
def hold(old: Past) -> Iterator[Hold]:
    made = Hold(old.database)
    yield made
    made.let_go()


@pytest.mark.postgres
def test_given_a_statement_that_began_before_the_tombstone_then_the_deletion_waits_for_its_end(
    old: Past, hold: Hold
) -> None:
    old.ended("gone", key="k")
    pause = threading.Event()

    def sleep(_seconds: float) -> None:
        assert old.left() == {"gone"}
        hold.let_go()
        pause.wait(0.01)

    def enqueue_that_is_slow() -> None:
        with old.database.engine.connect() as connection:
            connection.exec_driver_sql(SLOW)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(enqueue_that_is_slow)
        while not is_under_way(old):
            pause.wait(0.01)
        assert old.store.prune(OLDER_THAN, sleep=sleep).deleted == 1
        assert (hold.held, slow.result(20)) == (False, None)


@pytest.fixture
def roles(migrated_postgres_url: str) -> Iterator[list[Database]]:
    """The database as two roles see it, neither of which may see what the other does."""
    url, owner = make_url(migrated_postgres_url), Database(migrated_postgres_url)
    names = [f"{url.database}_{number}" for number in (1, 2)]
    with owner.transaction() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'x'")
    made = [Database(url.set(username=name, password="x").render_as_string(hide_password=False)) for name in names]
    yield made
    for database in made:
        database.dispose()
    with owner.transaction() as connection:
        for name in names:
            connection.exec_driver_sql(f'DROP ROLE "{name}"')
    owner.dispose()


@pytest.mark.postgres
def test_given_a_statement_of_another_role_then_the_deletion_waits_for_its_end_too(
    old: Past, roles: list[Database], hold: Hold
) -> None:
    pruner, other = roles
    pause = threading.Event()

    def sleep(_seconds: float) -> None:
        hold.let_go()
        pause.wait(0.01)

    def slow() -> None:
        with other.engine.connect() as connection:
            connection.exec_driver_sql(SLOW)
        other.dispose()  # whether a connection of theirs is idle we may not see either

    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(slow)
        while not is_under_way(old):
            pause.wait(0.01)
        retention._let_older_statements_end(pruner, sleep)
        assert not hold.held
        assert not is_under_way(old)
        under_way.result(20)


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """What happens once, between a prune's entombing and its deletion."""
    left = [happens]

    def between(_database: Database, _sleep: Callable[[float], None]) -> None:
        while left:
            left.pop()()

    monkeypatch.setattr(retention, "_let_older_statements_end", between)


def stones(past: Past) -> set[str]:
    with past.database.read() as connection:
        return set(connection.execute(select(tombstones.c.run)).scalars())


def test_given_a_run_that_is_resumed_while_it_is_pruned_then_it_stays_and_has_no_tombstone(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.ended("resumed", status=RunStatus.FAILED)
    past.ended("gone")

    def resume() -> None:
        values = {"status": RunStatus.RUNNING, "phase": Phase.FORWARD, "finished_at": None}
        with past.database.transaction() as connection:
            connection.execute(update(runs).where(runs.c.id == "resumed").values(**values))

    meanwhile(monkeypatch, resume)
    assert past.prune() == 1
    assert (past.left(), stones(past)) == ({"resumed"}, {"gone"})


def test_given_two_prunes_of_the_same_runs_then_the_tombstones_stay_and_the_later_one_knows_what_it_found(
    past: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        past.ended(f"R{number}")
    meanwhile(monkeypatch, past.prune)
    assert past.store.prune(OLDER_THAN, sleep=past.slept.append) == (3, 0)
    assert (past.left(), stones(past)) == (set(), {"R0", "R1", "R2"})


@pytest.mark.postgres
@pytest.mark.slow
def test_given_histories_that_cannot_be_deleted_in_time_together_then_smaller_batches_are(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOUNDS, "statement_timeout", "800")
    past = Past(migrated_postgres_url, optimistic=False)
    for number in range(4):
        past.ended(f"R{number}")
    past.ended("huge", LONG_AGO + 1)
    with past.database.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN PERFORM pg_sleep(CASE OLD.id WHEN 'huge' THEN 1 ELSE 0.3 END); RETURN OLD; END$$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER slow BEFORE DELETE ON stageflow_runs FOR EACH ROW EXECUTE FUNCTION slow()"
        )
    with pytest.raises(RunBusy, match="run huge could not be deleted"):
        past.prune()
    assert past.left() == {"huge"}
    past.store.close()


def is_under_way(past: Past) -> bool:
    """Whether ``SLOW`` waits."""
    with past.database.read() as connection:
        found = connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE query = :slow AND state = 'active'"), {"slow": SLOW}
        )
        return bool(found.scalar_one())
