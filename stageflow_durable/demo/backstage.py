"""Everything that runs behind the demo: broker, database, two services and two workers, in one directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stageflow_durable import Engine, embedded
from stageflow_durable.demo import client
from stageflow_durable.demo.processes import ServiceProcess, WorkerProcess
from stageflow_durable.demo.shop import checkout
from stageflow_durable.model.run import RunSummary
from stageflow_durable.settings import Urls
from stageflow_durable.state import schema

WORKERS = 2
LEASE_SECONDS = 2.0
MOST_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Backstage:
    """What is running. ``outbox``: where letters are spooled; ``closing``: what ends the workers, once."""

    broker: embedded.Embedded
    services: Sequence[ServiceProcess]
    workers: Sequence[WorkerProcess]
    engine: Engine
    outbox: Path
    closing: ExitStack

    def stop_workers(self) -> None:
        """End them side by side: what is read afterwards is final."""
        self.closing.close()

    def runs(self) -> Sequence[RunSummary]:
        """Every run of the engine, whoever enqueued it."""
        return self.engine.runs(limit=MOST_RUNS)

    def served(self) -> Mapping[str, int]:
        """Requests at both services, by fate."""
        return sum((Counter(client.stats(service.url)) for service in self.services), Counter[str]())


@contextmanager
def backstage(home: Path, seed: int) -> Iterator[Backstage]:
    """Start everything in ``home``, an empty directory; end everything on the way out, whatever happens."""
    outbox, scratch = home / "outbox", home / "tmp"
    outbox.mkdir()
    scratch.mkdir()
    with ExitStack() as stack:
        broker = stack.enter_context(embedded.start(home / "engine", upgrade=schema.upgrade, say=_keep_quiet))
        services = [_service(stack, name, home, seed) for name in ("bank", "warehouse")]
        engine = _engine(broker.urls)
        stack.callback(engine.close)
        closing = stack.enter_context(ExitStack())
        # What a killed worker leaves in its temporary directory goes with the home.
        environment = {**_environment(broker.urls, services, outbox), "TMPDIR": str(scratch)}
        workers = _workers(closing, home, environment)
        yield Backstage(broker, services, workers, engine, outbox, closing)


def _keep_quiet(line: str) -> None:
    """The keeper tells that the broker died; the demo's own lines tell who killed it."""


def _service(stack: ExitStack, name: str, home: Path, seed: int) -> ServiceProcess:
    service = ServiceProcess(name, home, seed)
    stack.callback(service.close)
    return service


def _engine(urls: Urls) -> Engine:
    return Engine(
        "shop",
        pipelines=[checkout],
        database_url=urls.database_url,
        broker_url=urls.broker_url,
        redis_url=urls.redis_url,
        audit_key=urls.audit_key,
        lease_seconds=LEASE_SECONDS,
    )


def _environment(urls: Urls, services: Sequence[ServiceProcess], outbox: Path) -> dict[str, str]:
    shop = {f"SHOP_{service.name.upper()}_URL": service.url for service in services}
    return {**shop, **urls.environment(), "SHOP_OUTBOX": str(outbox), "STAGEFLOW_LEASE_SECONDS": str(LEASE_SECONDS)}


def _workers(closing: ExitStack, home: Path, environment: Mapping[str, str]) -> list[WorkerProcess]:
    workers = []
    for number in range(1, WORKERS + 1):
        workers.append(WorkerProcess(f"worker-{number}", home, environment))
        closing.callback(workers[-1].close)
    for worker in workers:
        closing.callback(worker.ask_to_end)  # runs first, so that they end side by side
    return workers
