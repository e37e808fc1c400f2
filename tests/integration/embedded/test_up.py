"""``up`` as a process: broker, worker, beat and monitor start, stop in order, and carry on after a crash."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from celery import Celery

from stageflow_durable.embedded import attach, run_up, start
from stageflow_durable.embedded.home import Home
from stageflow_durable.embedded.identity import identify
from stageflow_durable.embedded.state import read_state
from stageflow_durable.embedded.up import roles_of
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Settings, Urls
from tests.services.broker import BrokerService
from tests.services.process import Processes, eventually

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[3]
APPLICATION = """
import os, time
from pathlib import Path
from celery import Celery
app = Celery("toy", broker=os.environ["STAGEFLOW_BROKER_URL"])
app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1,
    broker_transport_options={
        "unacked_restore_interval": 1, "unacked_restore_throttle": 1, "visibility_timeout": 3,
    },
)

@app.task(name="note")
def note(text, seconds=0):
    with Path(os.environ["NOTES"]).open("a") as notes:
        print("began", text, file=notes, flush=True)
        time.sleep(seconds)
        print("ended", text, file=notes, flush=True)
"""
UP = """
import sys
from stageflow_durable.embedded import run_up
from stageflow_durable.settings import load_settings

def out(line):
    print(line, flush=True)

options = ["--without-gossip", "--without-mingle", "--loglevel=INFO"]
sys.exit(run_up(load_settings(), "toy:app", concurrency=1, beat="beat" in sys.argv, flower="flower" in sys.argv,
                out=out, upgrade=lambda url: out(f"upgraded {url}"), worker_options=options))
"""


class Up:
    """``up`` with a toy application, in a directory of its own."""

    def __init__(self, processes: Processes, directory: Path) -> None:
        self.home = Home(directory / ".stageflow")
        self._processes = processes
        self._directory = directory
        self._notes = directory / "notes"
        (directory / "toy.py").write_text(APPLICATION)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start it with ``beat`` and ``flower``, or without; returns once the worker is ready."""
        variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{self._directory}", "NOTES": str(self._notes), **environment}
        ready = self.shown.count(" ready.")
        process = self._processes.start("up", [sys.executable, "-c", UP, *words], env=variables, cwd=self._directory)
        eventually(lambda: self.shown.count(" ready.") > ready, within=30, what="the worker is ready")
        return process

    @property
    def shown(self) -> str:
        """What the terminal showed, of all starts."""
        return self._processes.log("up")

    @property
    def notes(self) -> list[str]:
        """What the tasks noted."""
        return self._notes.read_text().splitlines() if self._notes.exists() else []

    def send(self, broker_url: str, text: str, seconds: float = 0) -> None:
        """Publish one task."""
        with Celery("client", broker=broker_url, set_as_current=False) as client:
            client.send_task("note", [text, seconds])

    @property
    def urls(self) -> Urls:
        """Where it runs."""
        urls = attach(self.home.root)
        assert urls is not None
        return urls

    def pids(self) -> dict[str, int]:
        """The pids of its children."""
        return {name: child.pid for name, child in read_state(self.home.state).children.items()}


@pytest.fixture
def up(processes: Processes, tmp_path: Path) -> Up:
    """Not started yet."""
    return Up(processes, tmp_path)


def gone(*pids: int) -> bool:
    return not any(identify(pid) for pid in pids)


def test_given_up_then_schema_broker_worker_and_beat_are_there_and_ctrl_c_ends_all(up: Up) -> None:
    process = up.start("beat")
    assert "stopping" not in up.shown
    assert f"upgraded sqlite:///{up.home.root}/stageflow.db" in up.shown
    assert up.home.password() not in up.shown
    eventually(lambda: "beat" in up.pids(), what="the beat is up")
    up.send(up.urls.broker_url, "one")
    eventually(lambda: "ended one" in up.notes, what="the task ran")
    eventually(lambda: any(up.home.root.glob("celerybeat-schedule*")), what="the beat keeps its schedule")
    assert "starting it again" not in up.shown
    pids = up.pids()
    assert sorted(pids) == ["beat", "broker", "worker"]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert gone(*pids.values())
    assert attach(up.home.root) is None


def test_given_a_task_that_runs_when_up_is_stopped_then_it_is_finished_first(up: Up) -> None:
    process = up.start()
    up.send(up.urls.broker_url, "slow", 1.5)
    eventually(lambda: "began slow" in up.notes, what="the task began")
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert up.notes == ["began slow", "ended slow"]


def test_given_up_is_killed_then_nothing_is_left_and_the_next_one_carries_on(up: Up) -> None:
    process = up.start()
    up.send(up.urls.broker_url, "lost", 2)
    eventually(lambda: "began lost" in up.notes, what="the task began")
    pids = up.pids()
    process.kill()
    process.wait(timeout=10)
    if sys.platform == "linux":
        eventually(lambda: gone(*pids.values()), what="its children are gone")
    up.start()
    eventually(lambda: "ended lost" in up.notes, within=20, what="the message was delivered again")
    assert up.notes == ["began lost", "began lost", "ended lost"]


def test_given_a_worker_that_is_killed_then_another_takes_its_place(up: Up) -> None:
    up.start()
    killed = up.pids()["worker"]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: up.pids()["worker"] != killed, what="a new worker")
    assert "worker | ended (signal 9); starting it again" in up.shown
    up.send(up.urls.broker_url, "after")
    eventually(lambda: "ended after" in up.notes, within=20, what="the new worker works")


def test_given_another_process_keeps_the_broker_then_up_uses_it_and_leaves_it_running(up: Up) -> None:
    with start(up.home.root) as embedded:
        process = up.start()
        up.send(embedded.urls.broker_url, "shared")
        eventually(lambda: "ended shared" in up.notes, what="the task ran")
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == 0
        assert attach(up.home.root) == embedded.urls


def test_given_up_runs_then_a_second_one_is_refused_saying_who_runs_it_and_how_to_stop_it(
    up: Up, valkey_url: str, sqlite_url: str
) -> None:
    process = up.start(STAGEFLOW_APP="shop:engine")
    elsewhere = Settings(home=up.home.root, database_url=sqlite_url, broker_url=valkey_url)
    for settings in (Settings(home=up.home.root), elsewhere):
        with pytest.raises(ConfigurationError) as refused:
            run_up(settings, "toy:app")
        assert f"runs in {up.home.root} already" in str(refused.value)
        assert f"with --app shop:engine, pid {process.pid}" in str(refused.value)
        assert f"kill -INT {process.pid}" in str(refused.value)
    process.kill()
    process.wait(timeout=10)
    up.start()  # a killed one holds nothing


def test_given_database_and_broker_are_set_then_up_starts_no_broker_and_touches_no_schema(
    up: Up, valkey: BrokerService, valkey_url: str, sqlite_url: str
) -> None:
    process = up.start(STAGEFLOW_DATABASE_URL=sqlite_url, STAGEFLOW_BROKER_URL=valkey_url)
    up.send(valkey_url, "elsewhere")
    eventually(lambda: "ended elsewhere" in up.notes, what="the task ran")
    assert "upgraded" not in up.shown
    assert valkey.password not in up.shown
    assert attach(up.home.root) is None
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_given_a_monitor_then_it_is_on_loopback_and_asks_for_its_password(up: Up) -> None:
    pytest.importorskip("flower")
    up.start("flower")
    found = re.search(r"monitor +(http://127\.0\.0\.1:\d+)", up.shown)
    assert found is not None
    password = (up.home.root / "flower.password").read_text()
    assert password not in up.shown
    request = urllib.request.Request(found[1] + "/")
    eventually(lambda: status_of(request) == 401, within=20, what="the monitor asks who we are")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"stageflow:{password}".encode()).decode())
    assert status_of(request) == 200


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_given_only_one_of_the_two_urls_then_up_does_not_guess_the_other(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(ConfigurationError, match="STAGEFLOW_BROKER_URL is not set"):
        run_up(settings, "toy")


def test_given_settings_then_children_get_them_and_their_command_lines_hold_no_password(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, lease_seconds=2.0, app="shop:engine")
    urls = Urls("sqlite:////a.db", "redis://:s3cret@h/0", "redis://:s3cret@h/0", "k" * 16)
    worker, beat = roles_of(settings, urls, "shop", concurrency=3, worker_options=["-O", "fair"])
    assert worker.argv[1:6] == ["-m", "celery", "-A", "shop", "worker"]
    assert {"--concurrency=3", "-O", "fair"} <= set(worker.argv)
    assert beat.rank > worker.rank
    for role in (worker, beat):
        assert "s3cret" not in " ".join(role.argv)
        assert role.environment["STAGEFLOW_BROKER_URL"] == urls.broker_url
        assert role.environment["STAGEFLOW_LEASE_SECONDS"] == "2.0"
        assert role.environment["STAGEFLOW_APP"] == "shop:engine"
