"""Where an application is put through it: broker, database and workers of its own, in one directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stageflow_durable import Engine, embedded
from stageflow_durable.demo.processes import WorkerProcess
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.run import RunSummary
from stageflow_durable.settings import Urls, safe_url
from stageflow_durable.state import schema

WORKERS = 2
LEASE_SECONDS = 2.0
MOST_RUNS = 100_000

Options = Callable[[], Sequence[str]]
"""Of the workers; asked for when the engine's settings may be read."""


@dataclass(frozen=True, slots=True)
class Place:
    """What runs. ``closing``: what ends the workers."""

    broker: embedded.Embedded
    engine: Engine
    workers: list[WorkerProcess]
    closing: ExitStack

    def runs(self) -> Sequence[RunSummary]:
        """Every run; the database is ours, and was empty."""
        return self.engine.runs(limit=MOST_RUNS)

    def served(self) -> Mapping[str, int]:
        """No services are watched here."""
        return {}

    def stop_workers(self) -> None:
        """End them side by side: what is read afterwards is final."""
        self.closing.close()


@contextmanager
def place(home: Path, engine: Engine, reference: str, app: str, options: Options) -> Iterator[Place]:
    """Start everything in ``home``; end it on the way out. ``app``: what ``celery -A`` takes; it finds the engine by
    ``reference``. No worker runs yet (:func:`hire`). Raises ConfigurationError where the engine would not use it.
    """
    scratch = home / "tmp"
    scratch.mkdir(parents=True)
    with ExitStack() as stack:
        broker = stack.enter_context(embedded.start(home / "engine", upgrade=schema.upgrade, say=_keep_quiet))
        environment = {
            **broker.urls.environment(),
            "STAGEFLOW_HOME": str(home / "engine"),
            "STAGEFLOW_APP": reference,
            "STAGEFLOW_LEASE_SECONDS": str(LEASE_SECONDS),
        }
        stack.enter_context(_in_environment(environment))
        _ours(engine, broker.urls)
        stack.callback(engine.close)
        closing = stack.enter_context(ExitStack())
        workers: list[WorkerProcess] = []
        made = Place(broker, engine, workers, closing)
        # What a killed worker leaves in its temporary directory goes with the home.
        stack.enter_context(_in_environment({"TMPDIR": str(scratch)}))
        for number in range(1, WORKERS + 1):
            workers.append(WorkerProcess(f"worker-{number}", home, environment, app=app, options=options()))
            closing.callback(workers[-1].close)
        for worker in workers:
            closing.callback(worker.ask_to_end)  # runs first, so that they end side by side
        yield made


def _ours(engine: Engine, urls: Urls) -> None:
    """Nothing is killed in a database that is not ours."""
    named = engine.settings
    for what, theirs, ours in (
        ("database_url", named.database_url, urls.database_url),
        ("broker_url", named.broker_url, urls.broker_url),
    ):
        if not theirs:
            raise ConfigurationError(
                f"the settings of engine {engine.name!r} were read when it was imported; chaos needs to set them first"
            )
        if theirs != ours:
            raise ConfigurationError(
                f"engine {engine.name!r} has a {what} of its own ({safe_url(theirs or '')}), and chaos kills only in "
                f"one that it started itself: take {what} out of Engine(…) and set STAGEFLOW_{what.upper()}"
            )


@contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _keep_quiet(line: str) -> None:
    """The keeper tells that the broker died; whoever killed it tells so already."""
