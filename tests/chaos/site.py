"""A site whose workers run the sagas of :mod:`tests.chaos.app`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stageflow_durable import Engine, RunHandle, RunStatus
from tests.chaos.app import PIPELINES, SAGAS
from tests.chaos.world import Trace, World
from tests.integration.engine.site import QUIET, Site, Worker

APP = "tests.chaos.app"


class ChaosSite(Site):
    """As :class:`Site`, with the world outside."""

    @property
    def world(self) -> World:
        """What happened."""
        return World.beside(self.ledger.path)

    @property
    def plain_url(self) -> str:
        """The database's URL for psycopg itself."""
        return str(self.settings["database_url"]).replace("+psycopg", "")

    @contextmanager
    def beside(self, database_url: str, directory: Path, queue: str) -> Iterator[ChaosSite]:
        """Another one with a worker, on the same broker and on a database of its own."""
        settings: dict[str, Any] = {**self.settings, "queue": queue}
        del settings["database_url"]
        site = ChaosSite(directory, database_url, self.broker, self.number, **settings)
        try:
            site.open()
            site.ready(site.worker())
            yield site
        finally:
            site.close()

    def client(self, **settings: Any) -> Engine:
        """A further engine in this process, to enqueue with."""
        return Engine("chaos", PIPELINES, **{**self.settings, **settings})

    def worker(
        self, app: str = APP, *options: str, children: int = 2, flags: Sequence[str] = QUIET, **settings: Any
    ) -> Worker:
        """Start a worker."""
        return super().worker(app, *options, children=children, flags=flags, **settings)

    def trace(self, run: RunHandle) -> Trace:
        """What happened for a run."""
        return self.world.of([run.run_id])[run.run_id]

    def load(self, count: int = 12, nap: float = 0.1, **settings: Any) -> list[RunHandle]:
        """Sagas under way: they take a while, and each third one has to be undone."""
        client = self.client(**settings) if settings else self.engine
        bad = {"fail": {"do:s4": ["permanent", -1, "after"]}}
        return [client.enqueue("five", {"nap": nap, **(bad if number % 3 == 2 else {})}) for number in range(count)]

    def under_way(self, **settings: Any) -> list[RunHandle]:
        """The same, of which the first stages have run."""
        runs = self.load(**settings)
        ids = [run.run_id for run in runs]
        self.until(lambda: len(self.ledger.entries(ids)) >= 6, "stages run")
        return runs

    def survived(self, runs: list[RunHandle], *, within: float = 60.0, revive: bool = False) -> None:
        """Each run comes to rest where its input sends it, and its effects are those of its end."""
        self.at_rest(runs, within=within, revive=revive)
        problems = self.problems(runs)
        assert problems == {}, f"{problems}\n{self.report()}"
        ends = {run.run_id: run.status() for run in runs}
        assert ends == {run.run_id: _meant(run) for run in runs}

    def problems(self, runs: Iterable[RunHandle]) -> dict[str, list[str]]:
        """Each run of a saga whose effects are not those of its status, and why."""
        found = {run.run_id: run.describe() for run in runs}
        traces = self.world.of(found)
        told = {}
        for run_id, run in found.items():
            if run.status not in (RunStatus.SUCCEEDED, RunStatus.COMPENSATED):
                told[run_id] = [f"is {run.status}: {run.error}"]
                continue
            succeeded = run.status is RunStatus.SUCCEEDED
            told[run_id] = traces[run_id].problems(succeeded=succeeded, stages=SAGAS[run.pipeline])
        return {run_id: why for run_id, why in told.items() if why}


def _meant(run: RunHandle) -> RunStatus:
    return RunStatus.COMPENSATED if "fail" in run.describe().input else RunStatus.SUCCEEDED
