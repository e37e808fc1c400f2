"""Applications that share what they should not, or what they may: an application, a queue, a broker, a database."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable import Engine
from stageflow_durable.state.schema import upgrade
from tests.integration.apps.lanes import line
from tests.integration.engine.claims import all_whole
from tests.integration.engine.pairs import SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY)]

OTHER = "tests.integration.apps.other"


def test_two_engines_on_one_application_carry_their_own_runs_in_one_worker(bare_site: Site) -> None:
    broker = bare_site.settings["broker_url"]
    app = "tests.integration.apps.two_engines"
    worker = bare_site.worker(app, "-Q", "theirs,stageflow-billing,stageflow-mail", their_broker=broker)
    clients = [Engine(name, [line(name, 2)], **bare_site.settings) for name in ("billing", "mail")]
    runs = [client.enqueue(client.name, {}) for client in clients for _run in range(3)]
    bare_site.at_rest(runs)
    all_whole(bare_site, runs, 2)
    ours = ("billing", "mail")  # a test before may have left workers whose leases have not run out
    known = {one.engine: one.pipelines for one in clients[0].workers() if one.alive and one.engine in ours}
    assert known == {"billing": ("billing v1",), "mail": ("mail v1",)}
    assert "Traceback" not in worker.log()
    bare_site.forget(worker)
    for client in clients:
        client.close()


def test_two_applications_with_the_default_queues_do_not_meet(bare_site: Site) -> None:
    workers = [bare_site.worker(children=1), bare_site.worker(OTHER, children=1)]
    other = Engine("other", [line("other", 2)], **bare_site.settings)
    runs = [run for _n in range(6) for run in (bare_site.engine.enqueue("three", {}), other.enqueue("other", {}))]
    bare_site.at_rest(runs)
    assert not any("handed back" in worker.log() for worker in workers)
    bare_site.forget(*workers)
    other.close()


def test_two_applications_on_one_queue_are_done_in_seconds_and_the_log_and_the_roster_tell_of_it(
    bare_site: Site,
) -> None:
    settings: dict[str, Any] = {"queue": "both"}
    workers = [bare_site.worker(children=1, **settings), bare_site.worker(OTHER, children=1, **settings)]
    for worker in workers:
        bare_site.ready(worker)
    one = bare_site.client(**settings)
    other = Engine("other", [line("other", 2)], **{**bare_site.settings, **settings})
    began = time.monotonic()
    runs = [run for _n in range(6) for run in (one.enqueue("three", {}), other.enqueue("other", {}))]
    bare_site.at_rest(runs, within=60)
    assert time.monotonic() - began < 60, "it was minutes when each hand-back put a run off for longer"
    told = "".join(worker.log() for worker in workers)
    assert "reached this worker, which does not know it" in told
    assert one.roster().engines_on("both") == ("lanes", "other")
    bare_site.forget(*workers)
    one.close()
    other.close()


def test_a_run_that_no_live_worker_knows_is_reported_by_name_and_goes_on_once_one_has_joined(bare_site: Site) -> None:
    settings: dict[str, Any] = {"queue": "lonely"}
    bare_site.nobody_lives()
    lacks = bare_site.worker(children=1, **settings)
    bare_site.ready(lacks)
    other = Engine("other", [line("other", 2)], **{**bare_site.settings, **settings})
    run = other.enqueue("other", {})
    bare_site.until(lambda: "no live worker knows other v1" in lacks.log(), "the worker's log says so")
    missing = run.describe().missing
    assert missing is not None
    assert missing.message.startswith("no live worker knows other v1; live workers know: ")
    knows = bare_site.worker(OTHER, children=1, **settings)
    bare_site.ready(knows)
    bare_site.at_rest([run], within=10)
    bare_site.forget(lacks, knows)
    other.close()


def test_messages_of_a_run_in_another_database_are_told_and_noted(bare_site: Site, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"queue": "theirs"}
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    upgrade(elsewhere)
    worker = bare_site.worker(children=1, **settings)
    bare_site.ready(worker)
    theirs = bare_site.client(database_url=elsewhere, **settings)
    theirs.enqueue("three", {})
    bare_site.until(lambda: "named runs that are not in this database" in worker.log(), "the worker's log says so")
    bare_site.until(lambda: "theirs" in bare_site.engine.strangers(), "it is noted for doctor")
    bare_site.forget(worker)
    theirs.close()
