"""The example at work: two workers whose processes die, the server of its links, and what stands outside."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest

from stageflow_durable import Engine
from tests.integration.engine.site import ROOT, Site, Worker

EXAMPLE = ROOT / "docs" / "examples" / "refunds"
APP = "tests.acceptance.refunds.dying"


def load(patch: pytest.MonkeyPatch) -> None:
    """Import the example, in this place's environment; names that pytest uses for directories of tests are covered."""
    for name in ("outside", "refunds"):
        spec = spec_from_file_location(name, EXAMPLE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)


class Shop(Site):
    """As :class:`Site`. Its server is one of its workers: what dies is started again."""

    server: Worker
    seed = 0

    def client(self, **settings: Any) -> Engine:
        """The example's pipeline, to enqueue with."""
        return Engine("refunds", [import_module("refunds").refunds], **{**self.settings, **settings})

    def environment(self, **settings: Any) -> dict[str, str]:
        """As a site's, and where the example finds itself and what is outside."""
        found = super().environment(**settings)
        return {**found, **self.outside, "PYTHONPATH": os.pathsep.join([found["PYTHONPATH"], str(EXAMPLE)])}

    @property
    def outside(self) -> dict[str, str]:
        """Variables of the example, and of how its processes die."""
        deaths = self.directory / "deaths"
        deaths.mkdir(exist_ok=True)
        within = os.environ["REFUNDS_DECIDE_WITHIN"]  # the pipeline here and that of the workers are the same
        file = str(self.directory / "outside.db")
        dies = {"REFUNDS_DEATHS": str(deaths), "REFUNDS_SEED": str(self.seed)}
        return {"REFUNDS_OUTSIDE": file, "REFUNDS_DECIDE_WITHIN": within, **dies}

    def start(self, seed: int) -> None:
        """Start everything, and wait until it answers."""
        self.seed = seed
        workers = [self.worker(APP) for _ in range(2)]
        port = self.settings["public_url"].rpartition(":")[2]
        argv = [sys.executable, "-m", "uvicorn", "refunds:server", "--log-level", "warning", "--port", port]
        self.server = Worker("server", argv, self.environment(), self.directory / "server.log")
        self.workers.append(self.server)
        for worker in workers:
            self.ready(worker)
        self.until(self.answers, "the server answers")

    def answers(self) -> bool:
        """Whether the server does."""
        try:
            return bool(httpx.get(self.settings["public_url"]).status_code == 404)
        except httpx.TransportError:
            return False

    def revive(self) -> None:
        """Start again what died, as a supervisor would."""
        for worker in self.workers:
            worker.revive()

    def strike(self, target: str, chance: random.Random) -> None:
        """SIGKILL: the server, a worker with its children, or a child."""
        if target == "server":
            self.server.kill()
            return
        worker = chance.choice([one for one in self.workers if one is not self.server])
        children = worker.children()
        if target == "worker" or not children:
            worker.kill()
        else:
            with suppress(ProcessLookupError):  # it may have died by itself
                os.kill(chance.choice(children), signal.SIGKILL)

    @property
    def deaths(self) -> Counter[str]:
        """How many processes died before they did something outside, and after it."""
        return Counter(path.name.partition(" ")[0] for path in Path(self.outside["REFUNDS_DEATHS"]).iterdir())

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Look outside, or write there."""
        with closing(sqlite3.connect(self.outside["REFUNDS_OUTSIDE"], timeout=30)) as connection, connection:
            return connection.execute(sql, values).fetchall()

    def links(self, name: str) -> dict[str, str]:
        """Those that were mailed to somebody, by order, oldest first."""
        asked = "SELECT subject, text FROM mails WHERE recipient = ? ORDER BY rowid"
        found = self.query(asked, [f"{name}@shop.example"])
        return {subject.removeprefix("Refund for "): text.rpartition("\n")[2] for subject, text in found}
