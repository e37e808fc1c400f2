"""Poolers in front of the session's PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.services.missing import ServiceMissing, missing
from tests.services.pooler import PoolerService
from tests.services.postgres import PostgresService

StartPooler = Callable[..., PoolerService]


@pytest.fixture
def start_pooler(postgres: PostgresService) -> Iterator[StartPooler]:
    """Starts one with a mode and options of its ``[pgbouncer]``; each is stopped when the test ends."""
    started: list[PoolerService] = []

    def start(mode: str = "transaction", **options: str) -> PoolerService:
        try:
            pooler = PoolerService(postgres.url(), mode, **options)
        except ServiceMissing as reason:
            missing(reason)
        started.append(pooler)
        pooler.start()
        return pooler

    yield start
    for pooler in started:
        pooler.close()
