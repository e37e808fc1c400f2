"""What the sides share: a PostgreSQL that flushes to disk and a broker with its append-only file, of this run only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg import sql

from stageflow_durable import Engine
from stageflow_durable.state.schema import upgrade
from tests.benchmarks.answers import BareAnswers
from tests.benchmarks.backlog import Backlog
from tests.benchmarks.checks import Checks
from tests.benchmarks.deaths import Deaths
from tests.benchmarks.held_app import pipeline as held_pipeline
from tests.benchmarks.history import History
from tests.benchmarks.installed import available
from tests.benchmarks.limit import Limit
from tests.benchmarks.peer import Peer, Peers
from tests.benchmarks.sides import Bare, Durable, engine_of
from tests.benchmarks.submission import Submissions
from tests.benchmarks.worker import CHILDREN, Worker
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService

DURABLE, MESSAGE, BARE, SUBMISSION, NORMAL, FULL, LIMIT, CHECKS, YOUNG, OLD, MEMORY, ANSWERED, BACKLOG, DEATHS = range(
    14
)
"""Numbers of the broker's databases: no side sees another's keys. The last is the first of several."""

LOADING = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "16GB", "autovacuum": "off"}


class Histories(NamedTuple):
    """A database without a past, and one with."""

    young: History
    old: History


class _Closes(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closes)


class Bench:
    """Services and sides; each is started at its first use, and all end with :func:`opened`."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self._peers = Peers(stack, directory)
        self._histories: Histories | None = None

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

    @cached_property
    def archive(self) -> PostgresService:
        """PostgreSQL for millions of rows."""
        service = PostgresService(durable=True)
        self._stack.callback(service.close)
        service.start()
        return service

    def database(self, service: PostgresService | None = None) -> str:
        """A new database with our schema."""
        url = (service or self.postgres).create_database()
        upgrade(url)
        return url

    @cached_property
    def durable(self) -> Durable:
        """Our runs with default settings."""
        return self.side(self.database(), DURABLE)

    @cached_property
    def message(self) -> Durable:
        """Our runs with one message a stage."""
        return self.side(self.database(), MESSAGE, in_place_stages=1)

    @cached_property
    def normal(self) -> Durable:
        """Our runs on SQLite, which flushes at checkpoints of its log."""
        return self._embedded(NORMAL, "NORMAL")

    @cached_property
    def full(self) -> Durable:
        """Our runs on SQLite, which flushes at each commit."""
        return self._embedded(FULL, "FULL")

    def _embedded(self, number: int, synchronous: str) -> Durable:
        url = f"sqlite:///{self._directory / synchronous.lower()}.sqlite"
        upgrade(url)
        return self.side(url, number, sqlite_synchronous=synchronous)

    def side(self, database: str, number: int, *, children: int = CHILDREN, **settings: Any) -> Durable:
        """Our runs on a database, through a numbered database of the broker."""
        broker = self.broker.url_of(number)
        environment = _environment(database, broker, settings)
        worker = Worker("tests.benchmarks.durable_app", environment, self._directory, children=children)
        made = Durable(worker, self._servers(database), engine_of(database, broker, **settings), database, children)
        self._stack.callback(made.close)
        return made

    @cached_property
    def bare(self) -> Bare:
        """Celery chains."""
        url = self.broker.url_of(BARE)
        worker = Worker("tests.benchmarks.bare_app", {"BENCH_BROKER_URL": url}, self._directory)
        side = Bare(worker, self._servers(""), self.broker.client(BARE), url)
        self._stack.callback(side.close)
        return side

    @cached_property
    def answered(self) -> BareAnswers:
        """Celery tasks and chains whose results are awaited."""
        url = self.broker.url_of(ANSWERED)
        worker = Worker("tests.benchmarks.answered_app", {"BENCH_BROKER_URL": url}, self._directory)
        (broker,) = self._servers("sqlite")  # it has no other
        return self._closing(BareAnswers(worker, broker, url))

    def _servers(self, database: str) -> tuple[int, ...]:
        services = (self.broker,) if database.startswith("sqlite") else (self.postgres, self.broker)
        return tuple(service.process.pid for service in services if service.process is not None)

    @cached_property
    def dbos(self) -> Peer:
        """DBOS on this PostgreSQL."""
        available("dbos")
        assert self.postgres.process is not None
        return self._peers.dbos(self.postgres.create_database(), self.postgres.process.pid)

    @cached_property
    def restate(self) -> Peer:
        """Restate."""
        available("restate")
        return self._peers.restate()

    @cached_property
    def temporal(self) -> Peer:
        """Temporal's development server."""
        available("temporal")
        return self._peers.temporal()

    @cached_property
    def limit(self) -> Limit:
        """Raw statements."""
        database = self.database()
        return self._closing(Limit(engine_of(database, self.broker.url_of(LIMIT)), database))

    @cached_property
    def checks(self) -> Checks:
        """Idempotency stores."""
        return self._closing(Checks(self.database(), self.broker.url_of(CHECKS)))

    @cached_property
    def memory(self) -> Durable:
        """Our runs by a worker that has done nothing yet, whose one child does all of them; it waits for no disk."""
        database = self.database()
        with _connected(database) as connection:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off".encode())
        return self.side(database, MEMORY, children=1)

    def deaths(self, lease: int, number: int = 0) -> AbstractContextManager[Deaths]:
        """Workers to kill, with that lease; ``number``: of those that are there at once."""
        database, broker = self.database(), self.broker.url_of(DEATHS + number)
        environment = _environment(database, broker, {"lease_seconds": lease})
        engine = Engine("held", [held_pipeline], database_url=database, broker_url=broker, lease_seconds=lease)
        return closing(Deaths(engine, self.broker.client(DEATHS + number), environment, self._directory))

    def backlog(self) -> AbstractContextManager[Backlog]:
        """Many runs at once, on a database of their own."""
        database, broker = self.database(), self.broker.url_of(BACKLOG)
        environment = _environment(database, broker, {})
        return closing(
            Backlog(
                engine_of(database, broker),
                database,
                self.broker.client(BACKLOG),
                environment,
                lambda: Worker("tests.benchmarks.durable_app", environment, self._directory, talks=True),
            )
        )

    def histories(self, finished: int) -> Histories:
        """Live runs, without and with that many finished ones; made at the first use."""
        if self._histories is None:
            # Until all is loaded it need not be safe: it can be made anew.
            _set(self.archive, **LOADING)
            self._histories = Histories(self._history(YOUNG, 0), self._history(OLD, finished))
            _set(self.archive, **dict.fromkeys(LOADING))
        return self._histories

    def _history(self, number: int, finished: int) -> History:
        database = self.database(self.archive)
        side = self.side(database, number)
        templates = side.one_of_each()
        side.close()
        engine = engine_of(database, self.broker.url_of(number))
        return self._closing(History(engine, database, templates, finished))

    def _closing(self, made: T) -> T:
        self._stack.callback(made.close)
        return made

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


def _environment(database: str, broker: str, settings: Mapping[str, Any]) -> dict[str, str]:
    named = {"database_url": database, "broker_url": broker, **settings}
    return {"BENCH_BROKER_URL": broker} | {f"STAGEFLOW_{name.upper()}": str(value) for name, value in named.items()}


def _set(service: PostgresService, **settings: str | None) -> None:
    """Settings of a server that runs; None: its own again."""
    with _connected(service.url()) as connection:
        for name, value in settings.items():
            change = "ALTER SYSTEM RESET {}" if value is None else "ALTER SYSTEM SET {} = {}"
            connection.execute(sql.SQL(change).format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")


def _connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
