"""A server that is killed, paused, flushed or refusing: a retryable error in bounded time, and work again when it is
back.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from stageflow_durable.embedded.ports import free_port
from stageflow_durable.errors import FenceLost, Retryable, SchemaBehind, StoreUnavailable
from stageflow_durable.idempotency.redis import RedisIdempotencyStore
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, Done
from stageflow_durable.state.database import Database
from tests.conformance.idempotency.backends import LONG, SCOPE, Backend
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService


@contextmanager
def refused_within(seconds: float) -> Iterator[None]:
    """The block is refused as unavailable, and soon."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        yield
    assert isinstance(caught.value, Retryable)
    assert time.monotonic() - began < seconds


@pytest.fixture
def hasty(valkey_url: str) -> Iterator[Backend]:
    store = RedisIdempotencyStore(valkey_url, timeout_seconds=0.7)
    yield Backend(store)
    store.close()


def test_given_redis_killed_mid_way_then_every_operation_is_refused_soon_and_works_again_after_a_restart(
    valkey: BrokerService, hasty: Backend
) -> None:
    fence = hasty.fence()
    valkey.kill()
    with refused_within(5):
        hasty.claim()
    with refused_within(5):
        hasty.store.renew(SCOPE, "order-1", fence, lease_seconds=1)
    with refused_within(5):
        hasty.store.complete(SCOPE, "order-1", fence, None, ttl_seconds=1)
    with refused_within(5):
        hasty.store.release(SCOPE, "order-1", fence)
    valkey.start()
    assert hasty.fence("order-2") > fence


def test_given_redis_restarted_between_two_calls_then_the_stale_connection_is_mended_unseen(
    valkey: BrokerService, hasty: Backend
) -> None:
    hasty.fence()
    valkey.stop()
    valkey.start()
    hasty.fence("order-2")


def test_given_a_paused_redis_then_the_claim_is_refused_soon(valkey: BrokerService, hasty: Backend) -> None:
    hasty.fence()
    valkey.pause()
    with refused_within(5):
        hasty.claim()
    valkey.resume()
    hasty.fence("order-2")


def test_given_a_flushed_redis_then_the_old_owner_cannot_complete_and_the_new_fence_is_higher(
    valkey: BrokerService, hasty: Backend
) -> None:
    old = hasty.fence()
    valkey.flushall()
    with pytest.raises(FenceLost):
        hasty.store.complete(SCOPE, "order-1", old, 1, ttl_seconds=LONG)
    assert hasty.fence() > old


def test_given_forgotten_scripts_then_they_are_sent_again(valkey: BrokerService, hasty: Backend) -> None:
    fence = hasty.fence()
    with valkey.client() as client:
        client.script_flush()
    hasty.store.complete(SCOPE, "order-1", fence, 0, ttl_seconds=LONG)
    answer = hasty.claim()
    assert isinstance(answer, Done)
    assert answer.result == 0


def test_given_a_redis_that_is_full_then_the_claim_is_refused_and_nothing_is_written(
    valkey: BrokerService, hasty: Backend
) -> None:
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with refused_within(5):
                hasty.claim()
        finally:
            client.config_set("maxmemory", "0")
    hasty.fence()


def test_given_a_wrong_password_then_the_refusal_does_not_tell_it(valkey_url: str, valkey: BrokerService) -> None:
    store = RedisIdempotencyStore(valkey_url.replace(valkey.password, "hunter2"), timeout_seconds=0.7)
    with pytest.raises(StoreUnavailable) as caught:
        Backend(store).claim()
    store.close()
    assert "hunter2" not in str(caught.value)


def test_given_a_redis_that_was_never_there_then_making_the_store_costs_nothing_and_claiming_is_refused() -> None:
    store = RedisIdempotencyStore(f"redis://127.0.0.1:{free_port()}/0")
    with refused_within(5):
        Backend(store).claim()


def test_given_a_claim_whose_answer_was_lost_when_it_is_sent_again_then_it_is_still_claimed(
    hasty: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "the same message")
    assert hasty.fence() == hasty.fence()
    monkeypatch.setattr(secrets, "token_hex", lambda size: "another")
    assert not isinstance(hasty.claim(), Claimed)


def test_given_a_client_that_decodes_answers_then_the_store_works_with_it(valkey_url: str) -> None:
    with Redis.from_url(valkey_url, decode_responses=True) as client:
        backend = Backend(RedisIdempotencyStore(client))
        backend.store.complete(SCOPE, "order-1", backend.fence(), {"é": "\x00"}, ttl_seconds=LONG)
        answer = backend.claim()
    assert isinstance(answer, Done)
    assert answer.result == {"é": "\x00"}


PARENT_AND_CHILD = """
import os, sys
from tests.conformance.idempotency.backends import Backend, store_at
from redis import Redis
backend = Backend(store_at(sys.argv[1]))
def connections():
    with Redis.from_url(sys.argv[1]) as client:
        return sum(one["name"] == "stageflow" for one in client.client_list())
backend.fence("parent")
before = connections()
child = os.fork()
if child == 0:
    backend.fence("child")
    assert connections() == before + 1
    backend.store.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert connections() == before
backend.fence("parent again")
"""


def test_given_a_store_that_was_used_before_a_fork_then_the_child_opens_a_connection_of_its_own(
    valkey_url: str,
) -> None:
    subprocess.run(
        [sys.executable, "-c", PARENT_AND_CHILD, valkey_url], cwd=Path(__file__).parents[3], check=True, timeout=60
    )


def test_given_a_closed_store_then_its_next_use_opens_it_again(valkey_backend: Backend) -> None:
    assert isinstance(valkey_backend.store, RedisIdempotencyStore)
    valkey_backend.store.close()
    valkey_backend.store.close()
    valkey_backend.fence()


def test_given_postgres_killed_mid_way_then_every_operation_is_refused_soon_and_works_again_after_a_restart(
    postgres: PostgresService, postgres_backend: Backend
) -> None:
    fence = postgres_backend.fence()
    postgres.kill()
    with refused_within(8):
        postgres_backend.claim()
    with refused_within(8):
        postgres_backend.store.complete(SCOPE, "order-1", fence, None, ttl_seconds=1)
    postgres.start()
    postgres_backend.store.complete(SCOPE, "order-1", fence, None, ttl_seconds=LONG)
    assert isinstance(postgres_backend.claim(), Done)


def test_given_a_database_without_the_table_then_the_way_out_is_named(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(SchemaBehind, match="stageflow db upgrade"):
        Backend(SqlIdempotencyStore(database)).claim()
    database.dispose()


def test_given_a_url_then_the_sql_store_opens_the_database_itself(sqlite_url: str) -> None:
    store = SqlIdempotencyStore(sqlite_url)
    store.create()
    store.create()
    Backend(store).fence()
    store.close()
