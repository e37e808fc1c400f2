"""What ``top`` shows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from stageflow_durable.cli.serving import taken
from stageflow_durable.cli.top import _cut, drawn
from stageflow_durable.model.overview import QueueView
from stageflow_durable.model.run import Wait, WaitKind, WorkerView
from stageflow_durable.model.status import RunStatus
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, RUN_ID, FakeApplication, ago, run
from tests.cli.test_legible import HOSTILE, SHOWN


def worker(pid: int, *running: str, alive: bool = True, host: str = "pay-7") -> WorkerView:
    expires = NOW + timedelta(seconds=5 if alive else -20)
    return WorkerView(f"o{pid}", host, pid, alive, ago(99), expires, running, queues=("shop",))


@pytest.fixture
def busy(engine: FakeApplication) -> FakeApplication:
    waits = (Wait(WaitKind.RETRY, "charge", None, ago(70), "try 2"),)
    engine.held = [
        run(RunStatus.RUNNING),
        run(RunStatus.WAITING, waits=waits),
        run(RunStatus.FAILED),
        run(RunStatus.SUCCEEDED, pipeline="mail"),
    ]
    engine.known_workers = [worker(8), worker(9, f"{RUN_ID}/charge"), worker(7, alive=False)]
    engine.known_queues = [QueueView("shop", 2, 1, 12, 3, ago(40)), QueueView("gpu", 0, 0, None, 0, None)]
    return engine


@pytest.mark.usefixtures("busy")
def test_where_there_is_no_terminal_it_prints_once(invoke: Invoke) -> None:
    result = invoke("top")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        result.stdout
        == """\
03:16:20 UTC  2 worker processes, 1 busy, 1 silent
runs: 1 running  1 waiting  1 failed

QUEUE  WORKERS  BUSY  READY  OLDEST  IN BROKER
shop         2     1      3     40s         12
gpu          0     0      0                  ?

PIPELINE  BEGUN/MIN  GOING  SUCCEEDED  FAILED  PARKED  UNDONE
checkout        0.6      2          0       1       0       0
mail            0.2      0          1       0       0       0

WAITS FOR  RUNS  SINCE
retry         1     1m

HOST   PID  STATE           RUNS
pay-7    9  alive           charge of 01J9F2QZ7KXV
pay-7    7  silent for 20s
pay-7    8  alive
"""
    )


@pytest.mark.usefixtures("busy")
def test_as_json_it_is_one_document(invoke: Invoke) -> None:
    told = json.loads(invoke("top", "--json").stdout)
    assert told["queues"][0]["oldest"] == "2026-03-01T03:15:40.000000Z"
    assert told["counts"] == {"running": 1, "waiting": 1, "failed": 1}


def test_where_nothing_happens_it_says_so(invoke: Invoke) -> None:
    assert invoke("top", "--once").stdout.splitlines()[1] == "runs: none is under way, none needs a person"


def test_nothing_in_names_acts_on_the_terminal(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.RUNNING, pipeline=HOSTILE)]
    engine.known_workers = [worker(1, f"{RUN_ID}/{HOSTILE}", host=HOSTILE)]
    engine.known_queues = [QueueView(HOSTILE, 1, 1, 1, 1, None)]
    shown = invoke("top").stdout
    assert shown.count(SHOWN) == 4
    assert "\x1b" not in shown


def test_what_does_not_fit_is_counted(busy: FakeApplication) -> None:
    lines = drawn(busy.overview(), 80)
    assert len(_cut(lines, 10)) == 10
    assert _cut(lines, 10)[-1].plain == f"… {len(lines) - 9} more lines (--once prints all)"
    assert _cut(lines, 100) == lines


def test_a_live_process_that_takes_nothing_while_its_queue_grows_is_a_finding(busy: FakeApplication) -> None:
    [check] = taken(busy.overview())
    assert check.message.startswith("shop: the oldest of 3 stages has waited for 40s")
    assert check.message.endswith("run nothing: pay-7 (pid 8)")
    busy.known_queues = [replace(busy.known_queues[0], busy=2)]
    assert [check.level for check in taken(busy.overview())] == ["ok"]
    busy.known_queues = [replace(busy.known_queues[0], busy=1, oldest=ago(5))]
    assert [check.level for check in taken(busy.overview())] == ["ok"]
