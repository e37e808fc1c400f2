"""Bounds hold, the end is the end of everything, and nothing of a sandbox is left: processes, mounts, cgroups,
descriptors, files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stageflow_durable.sandbox import LimitExceeded, SandboxBusy, SandboxLimits, SandboxPolicy, ToolFailed, run
from stageflow_durable.sandbox.backends import Backend
from tests.sandbox.outside import PYTHON, Outside
from tests.sandbox.test_escapes import policy
from tests.services.process import eventually

PARALLEL = int(os.environ.get("STAGEFLOW_TEST_SANDBOXES", "200"))


def processes(marker: str) -> list[str]:
    """Processes whose command line has it, by their numbers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def groups() -> set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").glob("**/stageflow-sandbox-*")}


def left_files() -> set[str]:
    return {str(path) for path in Path("/tmp").glob("stageflow-sandbox-*")}


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever a test does."""
    before = (groups(), left_files(), mounts(), len(list(Path("/proc/self/fd").iterdir())))
    yield
    eventually(lambda: groups() <= before[0], within=20, what="the cgroups to go")
    assert left_files() <= before[1]
    assert mounts() == before[2]
    assert len(list(Path("/proc/self/fd").iterdir())) <= before[3] + 1  # a pool of threads may keep one
    assert processes("stageflow_durable.sandbox.keeper") == []


def ended(backend: Backend, place: Outside, *words: str, **limits: float) -> LimitExceeded:
    bounds = SandboxLimits(**{"wall": 20.0, "cpu": 10.0, "memory": 200 << 20, "processes": 32, **limits})  # type: ignore[arg-type]  # by name
    with pytest.raises(LimitExceeded) as failed:
        run([PYTHON, place.hostile, *words], policy(backend, place, limits=bounds))
    return failed.value


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["ignore_signals", "spin"])
def test_what_takes_too_long_is_ended(backend: Backend, place: Outside, what: str) -> None:
    begun = time.monotonic()
    error = ended(backend, place, what, wall=1.0)
    assert error.limit == "wall"
    assert time.monotonic() - begun < 10
    assert "1 s" in str(error) or "limit of wall, 1.0" in str(error)


def test_what_computes_too_much_is_ended(backend: Backend, place: Outside) -> None:
    assert ended(backend, place, "spin", cpu=0.5).limit == "cpu"


def test_what_writes_too_much_is_ended(backend: Backend, place: Outside) -> None:
    error = ended(backend, place, "output_flood", "100", output=1 << 20)
    assert error.limit == "output"
    assert len(error.result.stdout) <= 1 << 20


def test_many_processes_together_are_bounded_in_memory(backend: Backend, place: Outside) -> None:
    assert ended(backend, place, "shared_memory_bomb", "800", memory=200 << 20).limit == "memory"


def test_files_that_are_too_large_together_are_not_taken_out(backend: Backend, place: Outside) -> None:
    command = [PYTHON, "-c", "open('result.txt', 'wb').truncate(10 << 20)"]
    with pytest.raises(LimitExceeded) as failed:
        run(command, policy(backend, place))
    assert failed.value.limit == "output"


def test_a_bomb_of_processes_ends_with_its_time(backend: Backend, place: Outside) -> None:
    """Children of children of children, which hold no pipe and start the next before they end."""
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    begun = time.monotonic()
    with pytest.raises(LimitExceeded):
        run([PYTHON, "-c", bomb, place.marker], policy(backend, place, limits=SandboxLimits(wall=2.0, processes=64)))
    assert time.monotonic() - begun < 20
    assert processes(place.marker) == []


# --- the end ----------------------------------------------------------------------------------------------------------


def test_nothing_outlives_the_program(backend: Backend, place: Outside) -> None:
    result = run([PYTHON, place.hostile, "outlive", place.marker], policy(backend, place))
    assert result.stdout.startswith("DONE")
    assert processes(place.marker) == []


def test_a_program_that_kills_what_it_can_reaches_nobody(backend: Backend, place: Outside) -> None:
    bystander = place.bystander()
    result = run([PYTHON, place.hostile, "kill_everything"], policy(backend, place))
    assert result.stdout == "DONE killed\n"
    assert bystander.poll() is None


def test_an_answer_cannot_be_forged(backend: Backend, place: Outside) -> None:
    with pytest.raises(ToolFailed) as failed:
        run([PYTHON, place.hostile, "forge_result"], policy(backend, place))
    assert failed.value.result.exit_code == 7
    assert failed.value.result.stdout == ""


def test_the_exit_code_is_the_programs(backend: Backend, place: Outside) -> None:
    for code in (1, 3, 125, 127, 255):
        with pytest.raises(ToolFailed, match=f"exit code {code}:"):
            run(["/bin/sh", "-c", f"exit {code}"], policy(backend, place))
    with pytest.raises(ToolFailed, match="exit code 139:"):
        run(["/bin/sh", "-c", "kill -SEGV $$"], policy(backend, place))


def test_directories_may_lie_in_each_other_as_deep_as_they_like(backend: Backend, place: Outside) -> None:
    deep = "import os\nfor _ in range(3000):\n os.mkdir('d'); os.chdir('d')\n"
    assert run([PYTHON, "-c", deep], policy(backend, place)).exit_code == 0


class Stop(Exception):
    """Raised while a sandbox runs."""


def test_whoever_waits_can_end_it(backend: Backend, place: Outside) -> None:
    looks = []

    def look() -> None:
        looks.append(time.monotonic())
        if running(place.marker, f"{PYTHON}\0-c\0import time"):
            raise Stop

    begun = time.monotonic()
    with pytest.raises(Stop):
        run([PYTHON, "-c", "import time; time.sleep(300)", place.marker], policy(backend, place), look=look)
    assert processes(place.marker) == []
    assert time.monotonic() - begun < 15


WORKER = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
from stageflow_durable.sandbox import SandboxPolicy, run
policy = SandboxPolicy(minimum_level=1, backend={backend!r})
def work():
    run([{python!r}, "-c", "import os, time; os.fork() or os.setsid(); time.sleep(300)", {marker!r}], policy)
{start}
"""
IN_MAIN = "work()"
IN_THREAD = "threading.Thread(target=work, daemon=True).start(); time.sleep(300)"
BESIDE_A_FORK = """
if os.fork() == 0:
    time.sleep(300)  # it has a copy of every descriptor that the worker had then
threading.Thread(target=work).start()
time.sleep(3)
if os.fork() == 0:
    os.setsid()
    time.sleep(12)
    os._exit(0)
time.sleep(300)
"""


@pytest.mark.parametrize("start", [IN_MAIN, IN_THREAD, BESIDE_A_FORK], ids=["main", "thread", "fork"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_sandbox_ends_with_its_worker(backend: Backend, place: Outside, start: str, number: int) -> None:
    root = str(Path(__file__).parents[2])
    text = WORKER.format(root=root, backend=backend.name, python=PYTHON, marker=place.marker, start=start)
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)], start_new_session=True)
    try:
        inside = f"{PYTHON}\0-c\0import os"
        eventually(lambda: len(running(place.marker, inside)) >= 2, within=30, what="the sandbox to run")
        worker.send_signal(number)
        worker.wait()
        eventually(lambda: running(place.marker, inside) == [], within=10, what="the sandbox to end")
        eventually(lambda: processes("sandbox.keeper") == [], within=20, what="the keeper to end")
    finally:
        os.killpg(worker.pid, signal.SIGKILL) if processes(place.marker) else None
        worker.kill()
        worker.wait()


def running(marker: str, beginning: str) -> list[str]:
    found = []
    for number in processes(marker):
        try:
            if Path(f"/proc/{number}/cmdline").read_bytes().startswith(beginning.encode()):
                found.append(number)
        except OSError:
            continue
    return found


def test_a_sandbox_ends_with_its_keeper(backend: Backend, place: Outside) -> None:
    """Nobody of the sandbox can kill it; an operator can."""
    failures: list[SandboxBusy] = []

    def work() -> None:
        try:
            run([PYTHON, "-c", "import time; time.sleep(300)", place.marker], policy(backend, place))
        except SandboxBusy as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    beginning = f"{PYTHON}\0-c\0import time"
    eventually(lambda: running(place.marker, beginning), within=30, what="the sandbox to run")
    for number in processes("sandbox.keeper"):
        os.kill(int(number), signal.SIGKILL)
    thread.join(30)
    assert "the keeper of a sandbox ended with -9" in str(failures[0])
    eventually(lambda: running(place.marker, beginning) == [], within=10, what="the sandbox to end")
    run(["/bin/true"], policy(backend, place))  # removes what that keeper left
    for path in left_files():
        subprocess.run(["rm", "-rf", path], check=True)


# --- many -------------------------------------------------------------------------------------------------------------


def test_two_hundred_at_once_leave_nothing(backend: Backend, place: Outside) -> None:
    wide = policy(backend, place, limits=SandboxLimits(wall=300, memory=64 << 20, processes=8), outputs=("result.txt",))

    def one(number: int) -> bool:
        command = ["/bin/sh", "-c", f"sleep 2; cat > result.txt; echo {number}; sleep 300 &"]
        result = run(command, wide, input={"number": number})
        return result.stdout == f"{number}\n" and result.files["result.txt"] == f'{{"number": {number}}}'.encode()

    with ThreadPoolExecutor(PARALLEL) as pool:
        assert all(pool.map(one, range(PARALLEL)))
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is(path, b"sleep\x00300")] == []


def _is(path: Path, words: bytes) -> bool:
    try:
        return path.read_bytes().startswith(words)
    except OSError:
        return False


def test_sandboxes_do_not_meet(backend: Backend, place: Outside) -> None:
    """Neither files nor processes of one are there in another."""
    listing = ["/bin/sh", "-c", "echo mine > /tmp/mine; touch mine; sleep 1; ls /tmp /work; ls -d /proc/[0-9]* | wc -l"]
    if backend.name != "bubblewrap":
        pytest.skip("processes and /tmp are the machine's there")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: run(listing, SandboxPolicy()).stdout.split(), range(4)))
    assert all(one[:4] == ["/tmp:", "mine", "/work:", "mine"] and int(one[4]) < 8 for one in found)
