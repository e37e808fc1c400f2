"""A sandbox as a stage: with real workers, and what becomes of runs whose tool fails, hangs, or loses its worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from secrets import randbelow, token_hex
from typing import Any

import pytest

from stageflow_durable import RunCompensated, RunStatus
from tests.services.process import Processes, eventually

BIN = Path(sys.executable).parent

SHOP = """
from datetime import timedelta
from pathlib import Path

from stageflow_durable import Engine, Pipeline, RetryPolicy
from stageflow_durable.sandbox import SandboxLimits, SandboxPolicy, SandboxStage

HERE = Path(__file__).parent
POLICY = SandboxPolicy(minimum_level=LEVEL, backend="BACKEND", outputs=("result.txt",), limits=SandboxLimits(wall=120))


def reserve(ctx):
    (HERE / "reserved").touch()
    return {"reservation": "R"}


def release(ctx):
    (HERE / "reserved").unlink()


HOSTILE = SandboxStage(
    ["/bin/sh", "-c", "cat /etc/shadow; kill -9 -1; kill -9 $PPID; (while :; do :; done) & exit 66"], POLICY
)
SLOW = SandboxStage(
    ["/bin/sh", "-c", 'read slow; echo $STAGEFLOW_IDEMPOTENCY_KEY > result.txt; test $slow = false || sleep MARKER'],
    POLICY,
    input=lambda ctx: not (HERE / "quick").exists(),
)
saga = Pipeline("saga").stage("reserve", reserve, compensate=release).stage("tool", HOSTILE)
slow = Pipeline("slow").stage("tool", SLOW, **OPTIONS)
engine = Engine("shop", pipelines=[saga, slow])
celery_app = engine.celery_app
"""


class Shop:
    """An application of its own, with a worker of one pool."""

    def __init__(self, directory: Path, processes: Processes, environment: dict[str, str]) -> None:
        self.directory, self.processes, self.environment = directory, processes, environment
        self.sleep = str(30_000_000 + randbelow(1_000_000))  # seconds, by which its processes are known
        self.name = f"shop_{token_hex(4)}"
        self.worker: Any = None
        self.engine: Any = None

    def open(self, backend: str, options: dict[str, object]) -> None:
        level = "1" if backend == "process" else "2"
        text = SHOP.replace("BACKEND", backend).replace("LEVEL", level).replace("MARKER", self.sleep)
        (self.directory / f"{self.name}.py").write_text(text.replace("**OPTIONS", f"**{options!r}"))
        upgrade = self.processes.start("upgrade", [BIN / "stageflow", "db", "upgrade"], env=self.environment)
        assert upgrade.wait(60) == 0, self.processes.log("upgrade")
        self.engine = import_module(self.name).engine

    def start(self, pool: str = "prefork") -> None:
        celery = [sys.executable, "-m", "celery", "-A", self.name, "worker", "-P", pool, "--concurrency", "1"]
        command = [*celery, "--loglevel", "INFO"]
        self.worker = self.processes.start("worker", command, env=self.environment, cwd=self.directory)
        eventually(lambda: " ready." in self.processes.log("worker"), within=60, what="the worker to be ready")

    def sandboxes(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes() == f"sleep\0{self.sleep}\0".encode():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def wait_for_sandbox(self) -> None:
        eventually(self.sandboxes, within=30, what=f"the sandbox to run\n{self.processes.log('worker')}")

    def wait_for_its_end(self) -> None:
        eventually(lambda: not self.sandboxes(), within=20, what="the sandbox to end")


@pytest.fixture
def shop(
    tmp_path: Path, sqlite_url: str, valkey_url: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    environment = {
        "STAGEFLOW_DATABASE_URL": sqlite_url,
        "STAGEFLOW_BROKER_URL": valkey_url,
        "STAGEFLOW_LEASE_SECONDS": "2",
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}",
    }
    for name in ("STAGEFLOW_DATABASE_URL", "STAGEFLOW_BROKER_URL", "STAGEFLOW_LEASE_SECONDS"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Shop(tmp_path, processes, environment)
    yield made
    if made.engine is not None:
        made.engine.close()
    sys.modules.pop(made.name, None)


def name_of(backend: Any) -> str:
    return str(backend.name)


pytestmark = [pytest.mark.process, pytest.mark.redis]


def test_a_hostile_tool_in_a_saga_fails_it_and_the_worker_lives(backend: Any, shop: Shop) -> None:
    shop.open(name_of(backend), {})
    shop.start()
    for number in range(2):
        handle = shop.engine.enqueue("saga", {}, client_id="c", idempotency_key=f"k-{number}")
        with pytest.raises(RunCompensated, match="tool"):
            handle.result(timeout=60)
        assert not (shop.directory / "reserved").exists()
    assert shop.worker.poll() is None


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_that_is_killed_takes_its_sandbox_along_and_the_tool_is_repeated_under_its_key(
    backend: Any, shop: Shop, pool: str
) -> None:
    shop.open(name_of(backend), {})
    shop.start(pool)
    handle = shop.engine.enqueue("slow", {}, client_id="c", idempotency_key="k")
    shop.wait_for_sandbox()
    (shop.directory / "quick").touch()
    os.killpg(shop.worker.pid, signal.SIGKILL)
    shop.wait_for_its_end()
    shop.start(pool)
    files = handle.result(timeout=60)["tool"]["files"]
    assert (
        files["result.txt"].decode().strip() == f"{handle.run_id}:tool" or handle.run_id in files["result.txt"].decode()
    )


def test_a_child_of_the_pool_that_is_killed_takes_its_sandbox_along(backend: Any, shop: Shop) -> None:
    shop.open(name_of(backend), {})
    shop.start()
    handle = shop.engine.enqueue("slow", {}, client_id="c", idempotency_key="k")
    shop.wait_for_sandbox()
    (shop.directory / "quick").touch()
    children = Path(f"/proc/{shop.worker.pid}/task/{shop.worker.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    shop.wait_for_its_end()
    assert handle.run_id in handle.result(timeout=60)["tool"]["files"]["result.txt"].decode()


def test_a_run_that_is_cancelled_ends_its_sandbox(backend: Any, shop: Shop) -> None:
    shop.open(name_of(backend), {})
    shop.start("threads")
    handle = shop.engine.enqueue("slow", {}, client_id="c", idempotency_key="k")
    shop.wait_for_sandbox()
    begun = time.monotonic()
    shop.engine.cancel(handle.run_id, reason="test", actor="test")
    shop.wait_for_its_end()
    assert time.monotonic() - begun < 10
    eventually(lambda: handle.status() is RunStatus.CANCELLED, within=20, what="the run to be cancelled")


def test_a_timeout_ends_its_sandbox(backend: Any, shop: Shop) -> None:
    shop.open(name_of(backend), {"timeout": 1.5, "on_unknown": "retry"})
    shop.start()
    handle = shop.engine.enqueue("slow", {}, client_id="c", idempotency_key="k")
    shop.wait_for_sandbox()
    (shop.directory / "quick").touch()
    shop.wait_for_its_end()
    assert handle.run_id in handle.result(timeout=60)["tool"]["files"]["result.txt"].decode()
    assert shop.worker.poll() is None
