"""The supervisor: children are started again, shown, stopped in order, and do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stageflow_durable.embedded import children, processes
from stageflow_durable.embedded.children import Follower
from stageflow_durable.embedded.identity import Identity, identify
from stageflow_durable.embedded.processes import QUICK_DEATHS, Role, Supervisor, pause_after
from stageflow_durable.embedded.reload import changes
from tests.services.process import eventually

ROOT = Path(__file__).parents[3]
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.1; done"

Supervise = Callable[..., Supervisor]


@pytest.fixture
def out() -> list[str]:
    """What the terminal shows."""
    return []


@pytest.fixture
def supervise(tmp_path: Path, out: list[str]) -> Iterator[Supervise]:
    """Makes supervisors that are stopped at once when the test ends."""
    made: list[Supervisor] = []

    def make(*roles: Role, **options: object) -> Supervisor:
        made.append(Supervisor(roles, logs=tmp_path, out=out.append, **options))  # type: ignore[arg-type]  # passed on
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop(hurry=lambda: True)


def shell(name: str, script: str, rank: int = 0, stop_seconds: float = 10.0) -> Role:
    return Role(name, ["sh", "-c", script], rank=rank, stop_seconds=stop_seconds)


def ticks_until(supervisor: Supervisor, check: Callable[[], object], what: str) -> None:
    eventually(lambda: supervisor.tick() or check(), what=what)


def test_given_a_child_that_prints_then_its_lines_are_shown_with_its_name_and_logged(
    supervise: Supervise, out: list[str], tmp_path: Path
) -> None:
    supervisor = supervise(shell("worker", "echo one; echo two >&2; sleep 60"), shell("a", "sleep 60"))
    ticks_until(supervisor, lambda: len(out) == 2, "both lines")
    assert out == ["worker | one", "worker | two"]
    assert (tmp_path / "worker.log").read_text() == "one\ntwo\n"


def test_given_a_child_that_is_killed_then_it_is_started_again_and_that_is_said(
    supervise: Supervise, out: list[str]
) -> None:
    known: list[dict[str, Identity]] = []
    supervisor = supervise(shell("worker", "sleep 60"), changed=known.append)
    supervisor.tick()
    first = supervisor.pid("worker")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    ticks_until(supervisor, lambda: supervisor.pid("worker") not in (None, first), "a new one")
    assert out == ["worker | ended (signal 9); starting it again"]
    assert [one["worker"].pid for one in known] == [first, supervisor.pid("worker")]


def test_given_a_leader_that_is_killed_then_what_it_started_is_ended_too(supervise: Supervise, out: list[str]) -> None:
    supervisor = supervise(shell("worker", "sleep 60 & echo $!; wait"))
    ticks_until(supervisor, lambda: out, "the pid")
    grandchild = int(out[0].rpartition(" ")[2])
    os.kill(supervisor.pid("worker") or 0, signal.SIGKILL)
    ticks_until(supervisor, lambda: identify(grandchild) is None, "the grandchild is gone")


def test_given_a_child_that_never_starts_then_the_supervisor_gives_up_with_a_line(
    supervise: Supervise, out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "FIRST_PAUSE_SECONDS", 0.01)
    supervisor = supervise(shell("worker", "echo no such module; exit 3"))
    assert supervisor.run(threading.Event()) is False
    assert out.count("worker | no such module") == QUICK_DEATHS
    assert f"ended {QUICK_DEATHS} times right after its start (status 3); see" in out[-1]


def test_given_children_that_are_to_be_renewed_then_they_end_in_order_and_start_again(
    supervise: Supervise, out: list[str]
) -> None:
    stopping = threading.Event()
    first: list[int | None] = []

    def renew() -> bool:
        if len(out) == 1 and not first:
            first.append(supervisor.pid("worker"))
            return True
        if len(out) == 3:
            stopping.set()
        return False

    script = "trap 'echo ended; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    supervisor = supervise(shell("worker", script), doing=lambda _name: "charge")
    assert supervisor.run(stopping, renew=renew) is True
    assert out == ["worker | up", "worker | ended", "worker | up"]
    assert supervisor.pid("worker") not in (None, *first)


def test_given_one_that_does_not_start_then_it_is_tried_again_once_something_has_changed(
    supervise: Supervise, out: list[str], tmp_path: Path
) -> None:
    stopping, sound = threading.Event(), tmp_path / "sound"

    def renew() -> bool:
        if "worker | up" in out:
            stopping.set()
        if any("right after its start" in line for line in out) and not sound.exists():
            sound.touch()
            return True
        return False

    supervisor = supervise(shell("worker", f"test -e {sound} && echo up && sleep 60"), deaths=1)
    assert supervisor.run(stopping, renew=renew) is True
    assert out == [f"worker | ended right after its start (status 1); see {tmp_path / 'worker.log'}", "worker | up"]


def test_given_source_that_changes_then_it_is_told_once_and_what_is_no_source_is_not(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    with changes([tmp_path]) as changed:
        eventually(lambda: (tmp_path / "shop.py").write_text("a = 1") and changed(), what="a change", within=10)
        (tmp_path / "site-packages" / "lib.py").write_text("")
        (tmp_path / "notes.txt").write_text("")
        (tmp_path / "cart.py").write_text("")
        seen: list[str] = []

        def another() -> bool:
            seen.append(changed() or "")
            return "cart.py" in seen[-1]

        eventually(another, what="another", within=10)
        assert not [one for one in seen if "lib" in one or "notes" in one]


def test_given_a_child_that_lived_for_a_while_then_its_early_deaths_are_forgotten(
    supervise: Supervise, out: list[str]
) -> None:
    now = [0.0]
    supervisor = supervise(shell("worker", "sleep 60"), clock=lambda: now[0])
    for _ in range(QUICK_DEATHS * 2):
        supervisor.tick()
        now[0] += 100
        os.kill(supervisor.pid("worker") or 0, signal.SIGKILL)
        ticks_until(supervisor, lambda: supervisor.pid("worker") is None, "its death")
        now[0] += 100
    assert supervisor.tick() is None


def test_given_deaths_in_a_row_then_the_pause_doubles_up_to_a_bound() -> None:
    assert [pause_after(deaths) for deaths in (0, 1, 2, 3)] == [0.0, 0.25, 0.5, 1.0]
    assert pause_after(1000) == 15.0


def test_given_ranks_then_the_lower_have_ended_before_the_next_is_asked(supervise: Supervise, out: list[str]) -> None:
    script = "trap 'echo asked; sleep 0.2; echo ended; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    supervisor = supervise(shell("beat", script, rank=1), shell("worker", script, rank=0))
    ticks_until(supervisor, lambda: len(out) == 2, "both are up")
    supervisor.stop()
    assert out[2:] == ["worker | asked", "worker | ended", "beat   | asked", "beat   | ended"]
    assert supervisor.pid("worker") is supervisor.pid("beat") is None


def test_given_a_child_that_ignores_sigterm_then_it_is_killed_after_its_time(
    supervise: Supervise, out: list[str]
) -> None:
    supervisor = supervise(shell("worker", STUBBORN, stop_seconds=0.3))
    ticks_until(supervisor, lambda: out, "it is up")
    supervisor.stop()
    assert supervisor.pid("worker") is None
    assert "did not end in time: killed" in out[-1]


def test_given_a_line_with_control_characters_then_none_of_them_reaches_the_terminal(
    supervise: Supervise, out: list[str]
) -> None:
    supervisor = supervise(shell("worker", r"printf 'a\033[2J\rb\342\200\250c\n'; sleep 60"))
    ticks_until(supervisor, lambda: out, "the line")
    assert out == [r"worker | a\x1b[2J\rb\u2028c"]


def test_given_a_child_that_takes_its_time_to_end_then_it_is_told_who_is_waited_for(
    supervise: Supervise, out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stageflow_durable.embedded.processes.TOLD_SECONDS", 0.1)
    supervisor = supervise(shell("worker", STUBBORN, stop_seconds=0.5))
    ticks_until(supervisor, lambda: out, "it is up")
    supervisor.stop()
    assert "worker | finishes what it runs; killed in 0 s if it does not" in out


def test_given_a_second_ctrl_c_then_nobody_is_waited_for(supervise: Supervise, out: list[str]) -> None:
    supervisor = supervise(shell("worker", STUBBORN, stop_seconds=60))
    ticks_until(supervisor, lambda: out, "it is up")
    supervisor.stop(hurry=lambda: True)
    assert supervisor.pid("worker") is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_given_the_supervisor_is_killed_then_its_children_die_with_it(tmp_path: Path) -> None:
    script = """
import sys, threading
from pathlib import Path
from stageflow_durable.embedded.processes import Role, Supervisor
supervisor = Supervisor([Role("worker", ["sleep", "60"])], logs=Path(sys.argv[1]), out=print)
supervisor.tick()
print(supervisor.pid("worker"), flush=True)
supervisor.run(threading.Event())
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        supervisor.kill()
    eventually(lambda: identify(child) is None, what="the child is gone")


def test_given_a_log_grown_too_large_then_the_next_start_keeps_one_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "LARGEST_LOG_BYTES", 10)
    log = tmp_path / "worker.log"
    log.write_text("x" * 11)
    children.end(children.spawn(["true"], log=log, at_our_death=signal.SIGKILL), within=5)
    assert (log.read_text(), (tmp_path / "worker.log.1").read_text()) == ("", "x" * 11)


def test_given_a_line_half_written_then_it_is_shown_once_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    follower = Follower(log)
    with log.open("a") as file:
        for part, expected in [("on", []), ("e\ntw", ["one"]), ("", []), ("o\n", ["two"])]:
            file.write(part)
            file.flush()
            assert follower.lines() == expected
