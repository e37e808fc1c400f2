"""What proves the end of a process, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from stageflow_durable.engine import processes
from stageflow_durable.engine.processes import HOST_NAMESPACE, has_ended, mark_of
from stageflow_durable.store.values import Awaited

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
HOST = "pay-7"


@dataclass
class Sleeper:
    """A process, and the owner that it was."""

    process: subprocess.Popen[bytes]

    @property
    def owner(self) -> Awaited:
        return Awaited("o", HOST, self.process.pid, *mark_of(self.process.pid))


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper(subprocess.Popen(["sleep", "60"]))


def test_a_process_that_runs_has_not_ended_and_one_that_was_killed_has_reaped_or_not(sleeper: Sleeper) -> None:
    owner = sleeper.owner
    assert not has_ended(owner, HOST)
    sleeper.process.kill()
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(owner, HOST), "nobody has asked for its exit code yet"
    sleeper.process.wait()
    assert has_ended(owner, HOST)


def test_a_number_that_another_process_has_now_is_no_longer_its(sleeper: Sleeper) -> None:
    owner = sleeper.owner._replace(born="1")
    assert has_ended(owner, HOST)
    sleeper.process.kill()
    sleeper.process.wait()


def test_a_process_of_another_boot_namespace_or_unknown_origin_is_not_judged() -> None:
    here = mark_of(os.getpid())
    gone = Awaited("o", HOST, 2**22 + 1, here.machine, here.kernel, "1")
    assert has_ended(gone, HOST)
    assert here.kernel is not None
    boot, _slash, namespace = here.kernel.partition("/")
    others = [f"{boot}/1", f"another/{int(namespace) + 1}", None]
    assert not any(has_ended(gone._replace(kernel=kernel), HOST) for kernel in others)
    assert not has_ended(gone._replace(born=None), HOST)


@pytest.mark.parametrize(
    ("namespace", "machine", "host", "ended"),
    [
        (HOST_NAMESPACE, "m", HOST, True),
        (HOST_NAMESPACE, "m", "pay-8", False),
        (HOST_NAMESPACE, "other", HOST, False),
        (HOST_NAMESPACE, None, HOST, False),
        (4026532999, "m", HOST, False),  # a container: its name and its image's id prove nothing
    ],
)
def test_after_a_boot_only_a_machine_that_is_no_container_knows_its_processes_gone(
    monkeypatch: pytest.MonkeyPatch, namespace: int, machine: str | None, host: str, *, ended: bool
) -> None:
    monkeypatch.setattr(processes, "kernel", lambda: f"second/{namespace}")
    monkeypatch.setattr(processes, "_machine", lambda: machine)
    assert has_ended(Awaited("o", HOST, 1, "m", f"first/{namespace}", "1"), host) is ended
