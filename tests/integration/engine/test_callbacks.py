"""Waits for the outside under real workers and real HTTP servers, on both databases: each call counts once, whoever is
killed around it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from stageflow_durable import Engine, RunHandle, RunStatus
from stageflow_durable.embedded.ports import free_port
from stageflow_durable.model.status import WaitingFor
from tests.integration.apps.outside import SETTINGS, asked, render
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on
from tests.integration.engine.site import ROOT, Site
from tests.services.process import eventually, kill_group, spawn

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_VALKEY, **SETTINGS)]

APP = "tests.integration.apps.outside"
ASGI = ("-m", "uvicorn", f"{APP}:asgi", "--log-level", "warning", "--port", "{port}")
WSGI = ("-m", APP, "{port}")
FLOWER = ("-m", "stageflow_durable.cli.monitor", "--address=127.0.0.1", "--port={port}", "--url-prefix=monitor")


SIGNED_IN = (*FLOWER, "--basic-auth=ann:one,max:two")


class Server:
    """A process that serves the callbacks of a site."""

    def __init__(self, site: Site, how: Sequence[str]) -> None:
        self._site, self._how, self.port = site, how, free_port()
        self.base = f"http://127.0.0.1:{self.port}{'/monitor' if how in (FLOWER, SIGNED_IN) else ''}"
        self.log = site.directory / f"server-{self.port}.log"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            argv = [sys.executable, *(word.format(port=self.port) for word in self._how)]
            environment = self._site.environment(app=f"{APP}:engine")
            self.process = spawn(argv, env=environment, cwd=ROOT, stdout=log)
        eventually(self._answers, within=30, what="the server answers")

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return bool(httpx.get(f"{self.base}/callbacks/").status_code == 404)
        assert self.process.poll() is None, self.log.read_text()
        return False

    def kill(self) -> None:
        """SIGKILL."""
        kill_group(self.process)

    def at(self, url: str) -> str:
        """The URL that a stage handed out, at this server."""
        return url.replace(f"{SETTINGS['public_url']}/", f"{self.base}/")

    def post(self, url: str, payload: Any) -> httpx.Response:
        """What the outside does."""
        return httpx.post(self.at(url), json=payload, timeout=20)


@pytest.fixture(scope="module")
def workers(bare_site: Site) -> Site:
    """The site with two workers of that application."""
    for worker in [bare_site.worker(APP), bare_site.worker(APP)]:
        bare_site.ready(worker)
    return bare_site


@pytest.fixture(scope="module")
def server(bare_site: Site) -> Iterator[Server]:
    """Each kind of server on one of the databases: neither knows of the other."""
    made = Server(bare_site, WSGI if bare_site.settings["database_url"].startswith("sqlite") else ASGI)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def client(bare_site: Site) -> Iterator[Engine]:
    engine = Engine("lanes", [render, asked], **bare_site.settings)
    yield engine
    engine.close()


def started(site: Site, engine: Engine, *inputs: dict[str, Any]) -> list[RunHandle[dict[str, Any]]]:
    """Runs that have handed their URLs out."""
    runs = engine.enqueue_many(render, inputs)
    site.until(lambda: all(urls_of(site, run) for run in runs), "all URLs are handed out", within=60)
    return runs


def urls_of(site: Site, run: RunHandle[Any]) -> list[str]:
    return [entry.token for entry in site.ledger.entries([run.run_id]) if entry.kind == "do"]


def waits(site: Site, run: RunHandle[Any]) -> None:
    site.until(lambda: run.describe().waiting_for is WaitingFor.CALLBACK, f"{run} waits")


def ends(site: Site, runs: Sequence[RunHandle[Any]]) -> dict[str, Any]:
    """The results of runs that succeed."""
    assert site.at_rest(runs, within=60) == {RunStatus.SUCCEEDED: len(runs)}
    return {run.run_id: run.result(0) for run in runs}


def test_what_is_posted_twice_is_the_output_once(workers: Site, server: Server, client: Engine) -> None:
    runs = started(workers, client, *[{}] * 20)
    for number, run in enumerate(runs):
        if number % 2:
            waits(workers, run)
        url = urls_of(workers, run)[0]
        answers = [server.post(url, {"frame": number}) for _ in range(2)]
        assert [(one.status_code, one.json()["replayed"]) for one in answers] == [(200, False), (200, True)]
        assert server.post(url, {"frame": -1}).status_code == 409
    assert ends(workers, runs) == {run.run_id: {"frame": number} for number, run in enumerate(runs)}
    assert set(workers.ledger.bodies([run.run_id for run in runs]).values()) == {1}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_body_that_is_killed_around_its_url_runs_again_with_the_same(
    workers: Site, server: Server, client: Engine, when: str
) -> None:
    runs = started(workers, client, *[{"kill": when, "hold": f"{when}-{server.port}"}] * 4)
    for run in runs:  # before the body is killed
        assert server.post(urls_of(workers, run)[0], {"early": True}).status_code == 200
    workers.ledger.open(f"{when}-{server.port}")
    assert set(map(str, ends(workers, runs).values())) == {"{'early': True}"}
    for run in runs:
        assert len(urls_of(workers, run)) == (2 if when == "after" else 1)
        assert len(set(urls_of(workers, run))) == 1


def test_a_server_that_is_killed_in_between_takes_each_call_once(
    bare_site: Site, workers: Site, client: Engine
) -> None:
    server = Server(bare_site, ASGI)
    try:
        runs = started(workers, client, *[{}] * 12)
        for number, run in enumerate(runs):
            _insists(server, urls_of(workers, run)[0], {"frame": number}, killed=number % 4 == 1)
        assert ends(workers, runs) == {run.run_id: {"frame": number} for number, run in enumerate(runs)}
    finally:
        server.kill()


def _insists(server: Server, url: str, payload: Any, *, killed: bool) -> None:
    """What an honest sender does: it sends again until it is answered."""
    with httpx.Client(timeout=20) as sender, suppress(httpx.TransportError):
        if killed:
            request = sender.build_request("POST", server.at(url), json=payload)
            sender.send(request, stream=True)  # its answer is not read
            server.kill()
            server.start()
    assert server.post(url, payload).status_code == 200


def test_all_workers_may_be_away_while_a_run_waits(bare_site: Site, server: Server, client: Engine) -> None:
    alone = bare_site.worker(APP, queue="alone")
    bare_site.ready(alone)
    run = client.enqueue(render, {}, queue="alone")
    bare_site.until(lambda: urls_of(bare_site, run), "its URL is handed out")
    waits(bare_site, run)
    bare_site.forget(alone)
    with bare_site.broker.client(bare_site.number) as broker:
        broker.flushdb()
    assert server.post(urls_of(bare_site, run)[0], {"frame": 1}).status_code == 200
    later = bare_site.worker(APP, queue="alone")
    bare_site.ready(later)
    assert ends(bare_site, [run]) == {run.run_id: {"frame": 1}}
    bare_site.forget(later)


def _forged(url: str) -> str:
    return url[:-1] + ("0" if url[-1] != "0" else "1")


OPENED: dict[str, Callable[[str], httpx.Response]] = {
    "GET": httpx.get,
    "HEAD": httpx.head,
    "OPTIONS": httpx.options,
}
"""What scanners of mail and previews of chats do with an address."""


def test_what_must_not_end_a_wait_does_not(workers: Site, server: Server, client: Engine) -> None:
    (run,) = started(workers, client, {})
    waits(workers, run)
    (url,) = urls_of(workers, run)
    assert {name: opened(server.at(url)).status_code for name, opened in OPENED.items()} == dict.fromkeys(OPENED, 405)
    assert server.post(_forged(url), {"frame": 0}).status_code == 404
    large = httpx.post(
        server.at(url), content=b'"' + b"x" * 2_000_000 + b'"', headers={"Content-Type": "application/json"}
    )
    assert large.status_code == 413
    assert server.post(url, {"frame": 1}).status_code == 200
    assert ends(workers, [run]) == {run.run_id: {"frame": 1}}


def test_an_expired_and_a_cancelled_wait_are_undone_as_unknown_and_a_late_call_is_refused(
    workers: Site, server: Server, client: Engine
) -> None:
    expired, cancelled = started(workers, client, {"timeout": 1}, {})
    waits(workers, cancelled)
    client.cancel(cancelled.run_id, reason="r", actor="me")
    assert workers.at_rest([expired, cancelled], within=60) == {RunStatus.COMPENSATED: 2}
    for run in (expired, cancelled):
        assert server.post(urls_of(workers, run)[0], {"frame": 1}).status_code == 410
        undone = [entry.token for entry in workers.ledger.entries([run.run_id]) if entry.kind == "undo"]
        assert undone == ["unknown"]


def test_no_log_has_a_token(workers: Site, server: Server, client: Engine) -> None:
    (run,) = started(workers, client, {})
    (url,) = urls_of(workers, run)
    server.post(url, {"frame": 1})
    ends(workers, [run])
    signature = url.rpartition(".")[2]
    logs: list[Path] = [worker.log_path for worker in workers.workers]
    assert not [
        log for log in (*logs, *([server.log] if "uvicorn" in str(server._how) else [])) if signature in log.read_text()
    ]


def test_flower_serves_callbacks_and_links_beside_its_pages_under_a_real_run(
    workers: Site, bare_site: Site, client: Engine
) -> None:
    pytest.importorskip("flower")
    flower = Server(bare_site, FLOWER)
    try:
        (run,) = started(workers, client, {})
        assert flower.post(urls_of(workers, run)[0], {"frame": 1}).status_code == 200
        assert ends(workers, [run]) == {run.run_id: {"frame": 1}}

        asking = client.enqueue(asked, {})
        link = flower.at(client.approval_link(asking.run_id, "release", to="ann"))
        workers.until(lambda: asking.describe().waiting_for is WaitingFor.APPROVAL, "it asks")
        page = httpx.get(link)
        (digest,) = re.findall('name="digest" value="(.*?)"', page.text)
        form = {"digest": digest, "decision": "approve"}
        assert [httpx.post(link, data=form).status_code for _twice in range(2)] == [200, 410]
        assert workers.at_rest([asking], within=60) == {RunStatus.SUCCEEDED: 1}
        assert httpx.get(f"{flower.base}/").status_code == 200
    finally:
        flower.kill()
    assert link.rpartition(".")[2] not in flower.log.read_text()


def test_whoever_signed_in_to_flower_approves_there_as_themselves(
    workers: Site, bare_site: Site, client: Engine
) -> None:
    pytest.importorskip("flower")
    flower = Server(bare_site, SIGNED_IN)
    try:
        run = client.enqueue(asked, {})
        workers.until(lambda: run.describe().waiting_for is WaitingFor.APPROVAL, "it asks")
        listed = f"{flower.base}/approvals"
        page = f"{flower.base}/runs/{run.run_id}/approvals/release"
        assert [httpx.get(at, auth=("ann", "two")).status_code for at in (listed, page)] == [401, 401]
        assert f"runs/{run.run_id}/approvals/release" in httpx.get(listed, auth=("ann", "one")).text
        assert "approvals" in httpx.get(f"{flower.base}/", auth=("ann", "one")).text  # the menu leads there

        def decide(auth: tuple[str, str]) -> httpx.Response:
            shown = httpx.get(page, auth=auth).text
            found = {name: re.findall(f'name="{name}" value="(.*?)"', shown)[0] for name in ("digest", "secret")}
            return httpx.post(page, auth=auth, data={**found, "decision": "approve"}, timeout=20)

        refused = decide(("max", "two"))
        assert (refused.status_code, "max is not among its approvers" in refused.text) == (409, True)
        assert decide(("ann", "one")).status_code == 200
        assert httpx.get(page, auth=("max", "two")).status_code in (200, 409)  # it is over, or a worker looks at it now
        assert workers.at_rest([run], within=60) == {RunStatus.SUCCEEDED: 1}
        assert "approved already" in httpx.get(page, auth=("max", "two")).text
        decided = next(event for event in run.history() if event.type == "operator.approve")
        assert (decided.data["actor"], decided.data["authenticated"]) == ("ann", True)
    finally:
        flower.kill()
