"""How a lease is claimed in SQL (``state/idempotency_leases.py``): the statements, and what may happen between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection

from stageflow_durable.idempotency.store import Claimed, Done, HeldByRun, InProgress, RunAnswer
from stageflow_durable.state import idempotency_keys as keys
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.idempotency_leases import Leases
from stageflow_durable.state.pool import Own
from stageflow_durable.state.postgres_protocol import RawConnection, Rows, ServerStatement
from stageflow_durable.state.single import Singles
from tests.conformance.idempotency.backends import LONG, SCOPE
from tests.conformance.idempotency.waiting import until_somebody_waits


class Played:
    """Leases, and what is sent; ``after``: what happens once behind a statement, by its first word."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.leases = Leases(database)
        self.sent: list[str] = []
        self.after: dict[str, Callable[[], object]] = {}
        sender: Any = RawConnection if database.prepares else Singles if database.is_sqlite else Own
        send = sender.rows

        def watched(this: object, statement: Statement | ServerStatement, given: Mapping[str, Any]) -> Rows:
            rows: Rows = send(this, statement, given)
            sql = statement.sql
            self.sent.append((sql.decode() if isinstance(sql, bytes) else sql).split()[0])
            self.after.pop(self.sent[-1], lambda: None)()
            return rows

        monkeypatch.setattr(sender, "rows", watched)

    def claim(self, owner: str = "w", ttl: float = LONG, now: float | None = None) -> RunAnswer:
        return self.leases.claim(SCOPE, "order-1", "f", None, owner=owner, lease=LONG, ttl=ttl, now=now)


@pytest.fixture
def played(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    made = Played(database, monkeypatch)
    yield made
    made.leases.close()


@pytest.fixture(params=[True, False], ids=["prepared", "by cursors"])
def either_way(postgres_database: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """PostgreSQL, where statements may be prepared and where not."""
    made = Database(postgres_database.url.render_as_string(hide_password=False), prepares=request.param)
    yield made
    made.dispose()


def test_given_postgresql_when_a_key_is_new_then_one_statement_takes_it_and_a_duplicate_reads(
    either_way: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(either_way, monkeypatch)
    assert isinstance(played.claim(), Claimed)
    assert played.sent == ["INSERT"]
    assert isinstance(played.claim(), InProgress)
    assert played.sent == ["INSERT", "INSERT", "SELECT"]
    played.leases.close()


def test_given_a_row_that_goes_before_a_duplicate_reads_it_then_the_key_is_claimed(
    either_way: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(either_way, monkeypatch)
    played.claim()
    played.sent.clear()
    played.after["INSERT"] = lambda: deleted(either_way)
    assert isinstance(played.claim(), Claimed)
    assert played.sent == ["INSERT", "SELECT", "INSERT"]
    played.leases.close()


def deleted(database: Database) -> None:
    """What pruning does to an expired row."""
    with database.transaction() as connection:
        connection.execute(keys.idempotency_keys.delete())


def test_given_an_expired_row_when_another_takes_it_after_it_was_read_then_that_one_stands(
    played: Played, database: Database
) -> None:
    played.claim(ttl=1.0, now=1.0)
    other, terms = Leases(database), {"lease": LONG, "ttl": LONG, "now": 5000.0}

    def overtake() -> None:
        assert isinstance(other.claim(SCOPE, "order-1", "f", None, owner="faster", **terms), Claimed)

    played.after["SELECT"] = overtake
    answer = played.claim(now=5000.0)
    assert isinstance(answer, InProgress)
    assert answer.owner == "faster"
    other.close()


@pytest.mark.parametrize(("commits", "told"), [(True, Done), (False, HeldByRun)])
def test_given_a_run_that_is_finishing_when_a_duplicate_comes_then_it_waits_and_is_told_how_that_ended(
    either_way: Database, commits: bool, told: type[RunAnswer]
) -> None:
    leases = Leases(either_way)
    with either_way.transaction() as connection:
        claimed = keys.claim_for_run(connection, SCOPE, "order-1", "f", None, "run-1", "charge", ttl_seconds=LONG)
        assert isinstance(claimed, Claimed)
    with ThreadPoolExecutor(1) as pool:
        with either_way.engine.connect() as connection:
            assert finished(connection)
            answer = pool.submit(leases.claim, SCOPE, "order-1", "f", None, owner="w", lease=LONG, ttl=LONG)
            until_somebody_waits(either_way)
            (connection.commit if commits else connection.rollback)()
        assert isinstance(answer.result(10), told)
    leases.close()


def finished(connection: Connection) -> bool:
    """What the commit of a stage writes of its key."""
    return keys.finish_for_run(connection, SCOPE, "order-1", "run-1", "charge", "1", ttl_seconds=LONG)
