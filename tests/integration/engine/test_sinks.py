"""Sinks are told by the children of real workers, whichever of them are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stageflow_durable import RunHandle
from tests.integration.apps.ledger import VARIABLE
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]

APP, SINK = "tests.integration.apps.told", "tests.integration.apps.told.write_down"


def told(site: Site) -> list[tuple[str, int, str]]:
    """What the sink was told: run, number and type."""
    path = Path(f"{site.environment()[VARIABLE]}.told")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(run, int(seq), kind) for run, seq, kind in map(str.split, lines)]


def everything(site: Site, runs: list[RunHandle]) -> bool:
    return {(run.run_id, kind) for run in runs for kind in ("run.accepted", "run.succeeded")} <= {
        (run, kind) for run, _seq, kind in told(site)
    }


def test_given_the_child_that_tells_is_killed_then_another_goes_on_and_each_event_is_told_in_order(
    bare_site: Site,
) -> None:
    site = bare_site
    worker = site.worker(APP)
    site.ready(worker)
    site.until(lambda: SINK in [view.name for view in site.engine.sink_views()], "the sink is known")
    runs = [site.engine.enqueue("three", {}) for _ in range(10)]
    site.until(lambda: everything(site, runs), "all is told beside a sink that hangs")
    (teller,) = [view.told_by for view in site.engine.sink_views() if view.name == SINK]
    os.kill(int(str(teller).rpartition(":")[2]), signal.SIGKILL)
    runs += [site.engine.enqueue("three", {}) for _ in range(10)]
    site.at_rest(runs)
    site.until(lambda: everything(site, runs), "another child goes on", within=30)
    for run in runs:
        numbers = [seq for of, seq, _kind in told(site) if of == run.run_id]
        assert list(dict.fromkeys(numbers)) == sorted(set(numbers)), "repeated perhaps, never overtaken"
    site.forget(worker)
