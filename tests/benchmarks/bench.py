"""What the sides share: a PostgreSQL that flushes to disk and a broker with its append-only file, of this run only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from stageflow_durable.state.schema import upgrade
from tests.benchmarks.sides import Bare, Durable, engine_of
from tests.benchmarks.submission import Submissions
from tests.benchmarks.worker import Worker
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService

DURABLE, MESSAGE, BARE, SUBMISSION = range(4)
"""Numbers of the broker's databases: no side sees another's keys."""

IN_PLACE = 50
"""Stages that one message may carry, as by default."""


class Bench:
    """Services and sides; each is started at its first use, and all end with :func:`opened`."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory

    @cached_property
    def postgres(self) -> PostgresService:
        """PostgreSQL, fsync on."""
        service = PostgresService(durable=True)
        self._stack.callback(service.close)
        service.start()
        return service

    @cached_property
    def broker(self) -> BrokerService:
        """Valkey, its append-only file flushed every second."""
        service = BrokerService.valkey()
        self._stack.callback(service.close)
        service.start()
        return service

    def database(self) -> str:
        """A new database with our schema."""
        url = self.postgres.create_database()
        upgrade(url)
        return url

    @cached_property
    def durable(self) -> Durable:
        """Our runs with default settings."""
        return self._durable(DURABLE, IN_PLACE)

    @cached_property
    def message(self) -> Durable:
        """Our runs with one message a stage."""
        return self._durable(MESSAGE, 1)

    def _durable(self, number: int, in_place: int) -> Durable:
        database, broker = self.database(), self.broker.url_of(number)
        environment = {"STAGEFLOW_DATABASE_URL": database, "STAGEFLOW_BROKER_URL": broker,
                       "STAGEFLOW_IN_PLACE_STAGES": str(in_place)}
        engine = engine_of(database, broker, in_place_stages=in_place)
        worker = Worker("tests.benchmarks.durable_app", environment, self._directory)
        side = Durable(worker, self._servers(), engine, database)
        self._stack.callback(side.close)
        return side

    @cached_property
    def bare(self) -> Bare:
        """Celery chains."""
        url = self.broker.url_of(BARE)
        worker = Worker("tests.benchmarks.bare_app", {"BENCH_BROKER_URL": url}, self._directory)
        side = Bare(worker, self._servers(), self.broker.client(BARE), url)
        self._stack.callback(side.close)
        return side

    def _servers(self) -> tuple[int, ...]:
        return tuple(service.process.pid for service in (self.postgres, self.broker) if service.process is not None)

    @cached_property
    def submissions(self) -> Submissions:
        """Handing work in, with nobody at work."""
        database, broker = self.database(), self.broker.url_of(SUBMISSION)
        made = Submissions(engine_of(database, broker), self.broker.client(SUBMISSION), broker, database)
        self._stack.callback(made.close)
        return made


@contextmanager
def opened() -> Iterator[Bench]:
    """A bench; its processes end with the block, however that ends."""
    with tempfile.TemporaryDirectory(prefix="sf-bench-") as directory, ExitStack() as stack:
        yield Bench(stack, Path(directory))
