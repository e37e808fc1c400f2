"""Servers of their own behind one store: a key is charged once, whoever asks how often, and whoever is killed."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from stageflow_durable.embedded.ports import free_port
from stageflow_durable.idempotency import SqlIdempotencyStore
from tests.project.tree import ROOT
from tests.services.process import Processes, eventually, kill_group

pytestmark = pytest.mark.process

APP = "tests.integration.apps.paying"
UVICORN = ("-m", "uvicorn", "--factory", "--log-level", "warning", "--port", "{port}", f"{APP}:fastapi_app")
GUNICORN = ("-m", "gunicorn", "--threads", "40", "--log-level", "warning", "-b", "127.0.0.1:{port}")
SERVED = [
    pytest.param((UVICORN, "migrated_postgres_url"), id="fastapi-postgres", marks=pytest.mark.postgres),
    pytest.param(((*GUNICORN, f"{APP}:flask_app()"), "valkey_url"), id="flask-valkey", marks=pytest.mark.redis),
    pytest.param(((*GUNICORN, f"{APP}:django_app()"), "sqlite_url"), id="django-sqlite"),
]


class Servers:
    """Two servers of the application, on one store."""

    def __init__(self, how: tuple[str, ...], store: str, directory: Path, processes: Processes) -> None:
        self._how, self._processes = how, processes
        self.ledger = directory / "ledger.db"
        self._environment = {**os.environ, "STORE": store, "LEDGER": str(self.ledger), "PYTHONPATH": str(ROOT)}
        self.ports = [free_port(), free_port()]
        self.running = [self.start(port) for port in self.ports]
        for port in self.ports:
            eventually(lambda port=port: self._answers(port), within=40, what="the server answers")  # type: ignore[misc]  # bound now

    def start(self, port: int) -> Popen[bytes]:
        """A server on that port."""
        argv = [sys.executable, *(word.format(port=port) for word in self._how)]
        return self._processes.start(f"server-{port}", argv, env=self._environment, cwd=ROOT)

    def _answers(self, port: int) -> bool:
        with suppress(httpx.TransportError):
            return bool(httpx.get(f"http://127.0.0.1:{port}/nothing").status_code == 404)
        return False

    def pay(self, which: int, key: str, *, who: str = "ann", hold: bool = False) -> tuple[int, str, bool]:
        """Status, body, and whether it was an answer of before."""
        headers = {"Idempotency-Key": key, "Authorization": f"Bearer {who}"}
        url = f"http://127.0.0.1:{self.ports[which]}/payments"
        got = httpx.post(url, json={"cents": 1, "hold": hold}, headers=headers, timeout=60)
        return got.status_code, got.text, got.headers.get("idempotent-replayed") == "true"

    def told(self, table: str) -> int:
        """Rows of a table of the ledger."""
        with closing(sqlite3.connect(self.ledger, timeout=20)) as book:
            return int(book.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.fixture(params=SERVED)
def served(request: pytest.FixtureRequest, tmp_path: Path, processes: Processes) -> Servers:
    how, fixture = request.param
    url = request.getfixturevalue(fixture)
    if fixture == "sqlite_url":
        store = SqlIdempotencyStore(url)
        store.create()
        store.close()
    return Servers(how, url, tmp_path, processes)


def test_one_key_is_charged_once_and_answered_alike_also_where_its_owner_is_killed(served: Servers) -> None:
    with ThreadPoolExecutor(30) as pool:
        # Of many at once, to both servers, one is handled.
        got = list(pool.map(lambda number: served.pay(number % 2, "A-1"), range(60)))
        assert Counter(got) == {(201, got[0][1], False): 1, (201, got[0][1], True): 59}
        assert (served.told("calls"), served.told("payments")) == (1, 1)
        # The same key of somebody else is another one.
        assert served.pay(0, "A-1", who="max")[0::2] == (201, False)
        assert served.told("payments") == 2
        # The owner of the next is killed before it has done anything; those that wait at the other go on after a lease.
        with closing(sqlite3.connect(served.ledger, timeout=20)) as book:
            book.execute("DELETE FROM calls")
            book.commit()
        first: Future[object] = pool.submit(served.pay, 0, "A-2", hold=True)
        eventually(lambda: served.told("calls") == 1, what="the first is at work")
        others = [pool.submit(served.pay, 1, "A-2", hold=True) for _number in range(10)]
        kill_group(served.running[0])
        answers = [other.result(60) for other in others]
        assert isinstance(first.exception(30), httpx.TransportError)
        assert Counter(answers) == {(201, answers[0][1], False): 1, (201, answers[0][1], True): 9}
        assert (served.told("calls"), served.told("payments")) == (2, 3)
