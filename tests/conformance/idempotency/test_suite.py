"""Our stores are held to the suite that others are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from stageflow_durable.idempotency import Loss, MemoryIdempotencyStore, RedisIdempotencyStore, SqlIdempotencyStore
from stageflow_durable.idempotency.store import Answer
from stageflow_durable.state.database import Database
from stageflow_durable.testing.idempotency_suite import Case, IdempotencySuite
from tests.conformance.idempotency.backends import BUSY_SECONDS, Clock
from tests.services.broker import BrokerService


class TestMemory(IdempotencySuite):
    @pytest.fixture
    def case(self) -> Case:
        clock = Clock()
        return Case(MemoryIdempotencyStore(clock), clock.advance, {Loss.PROCESS: lambda: MemoryIdempotencyStore(clock)})


class TestSqlite(IdempotencySuite):
    @pytest.fixture
    def case(self, sqlite_database: tuple[Database, Clock]) -> Case:
        database, clock = sqlite_database
        store = SqlIdempotencyStore(database)
        store.create()
        return Case(store, clock.advance, {Loss.PROCESS: lambda: SqlIdempotencyStore(database)})


class TestPostgres(IdempotencySuite):
    pytestmark: ClassVar = [pytest.mark.postgres]

    @pytest.fixture
    def case(self, postgres_database: Database) -> Iterator[Case]:
        made = [SqlIdempotencyStore(postgres_database)]

        def again() -> SqlIdempotencyStore:
            made.append(SqlIdempotencyStore(postgres_database))
            return made[-1]

        yield Case(made[0], lose={Loss.PROCESS: again})
        for store in made:
            store.close()


class TestRedis(IdempotencySuite):
    pytestmark: ClassVar = [pytest.mark.redis]

    @pytest.fixture
    def case(self, valkey: BrokerService, valkey_url: str) -> Iterator[Case]:
        store = RedisIdempotencyStore(valkey_url, timeout_seconds=BUSY_SECONDS)

        def emptied() -> RedisIdempotencyStore:
            empty(valkey, valkey_url)
            return store

        again = {Loss.PROCESS: lambda: RedisIdempotencyStore(valkey_url, timeout_seconds=BUSY_SECONDS)}
        yield Case(store, lose={**again, Loss.REDIS: emptied})
        store.close()


class TestRedisBeforeSql(IdempotencySuite):
    pytestmark: ClassVar = [pytest.mark.redis]

    @pytest.fixture
    def case(self, valkey: BrokerService, valkey_url: str, sqlite_url: str) -> Iterator[Case]:
        truth = SqlIdempotencyStore(sqlite_url)
        truth.create()

        def made() -> RedisIdempotencyStore:
            return RedisIdempotencyStore(valkey_url, timeout_seconds=BUSY_SECONDS, truth=truth)

        store = made()

        def emptied() -> RedisIdempotencyStore:
            empty(valkey, valkey_url)
            return store

        yield Case(store, lose={Loss.PROCESS: made, Loss.REDIS: emptied})
        store.close()
        truth.close()


def empty(service: BrokerService, url: str) -> None:
    with service.client(int(url.rsplit("/", 1)[1])) as client:
        client.flushdb()


def test_redis_before_sql_answers_without_sql_and_does_without_redis(valkey_url: str) -> None:
    truth = Counting()
    store = RedisIdempotencyStore(valkey_url, timeout_seconds=BUSY_SECONDS, truth=truth)
    case = Case(store)
    case.complete(case.fence(), "done")
    asked = truth.claims
    assert [case.result() for _time in range(3)] == ["done"] * 3
    assert truth.claims == asked
    away = Case(RedisIdempotencyStore("redis://127.0.0.1:1/0", timeout_seconds=0.1, truth=truth), key=case.key)
    assert away.result() == "done"
    another = Case(away.store)
    another.complete(another.fence(), "done without")
    assert another.result() == "done without"
    store.close()


class Counting(MemoryIdempotencyStore):
    claims = 0

    def claim(self, *given: Any, **more: Any) -> Answer:
        self.claims += 1
        return super().claim(*given, **more)
