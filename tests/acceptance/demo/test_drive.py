"""The loop between the first order and the last: blows fall in time, what dies is started again, patience ends."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from stageflow_durable.demo.chaos import Blow, Target, plan_blows
from stageflow_durable.demo.drive import drive
from stageflow_durable.demo.progress import Progress, reporter


@dataclass
class Scripted:
    """A scene in which ``pace`` runs end between two looks; strikes at a ``bare`` target find nothing."""

    total: int
    pace: int
    bare: Target | None = None
    ended: int = 0
    seconds: float = 0.0
    did: list[str] = field(default_factory=list)
    shown: list[Progress] = field(default_factory=list)

    def statuses(self) -> Mapping[str, int]:
        return {"succeeded": self.ended, "running": self.total - self.ended}

    def spoiled(self) -> int:
        return 3

    def strike(self, target: Target) -> str | None:
        if target is self.bare:
            return None
        self.did.append(f"{target} at {self.ended}")
        return f"{target} killed"

    def heal(self) -> None:
        self.did.append("healed")

    def show(self, progress: Progress) -> None:
        self.shown.append(progress)

    def clock(self) -> float:
        return self.seconds

    def pause(self, seconds: float) -> None:
        self.seconds += seconds
        self.ended = min(self.total, self.ended + self.pace)

    def run(self, blows: list[Blow], patience: float = 60.0) -> Progress:
        return drive(self, self.total, blows, self, patience=patience, clock=self.clock, pause=self.pause)

    def strikes(self) -> list[str]:
        return [what for what in self.did if what != "healed"]


def test_given_due_blows_when_driven_then_each_falls_at_its_time_and_is_healed_after() -> None:
    scene = Scripted(total=10, pace=1)
    last = scene.run([Blow(2, Target.CHILD), Blow(5, Target.BROKER)])
    assert scene.strikes() == ["pool child at 2", "Valkey at 5"]
    assert scene.did[scene.did.index("Valkey at 5") + 1] == "healed"
    assert (last.done, last.kills) == (True, ("pool child killed", "Valkey killed"))


def test_given_two_blows_due_at_once_when_driven_then_they_fall_one_a_look() -> None:
    scene = Scripted(total=10, pace=1)
    scene.run([Blow(0, Target.CHILD), Blow(0, Target.CHILD)])
    assert scene.strikes() == ["pool child at 0", "pool child at 1"]


def test_given_nothing_to_hit_when_driven_then_no_kill_is_claimed() -> None:
    last = Scripted(total=4, pace=1, bare=Target.CHILD).run([Blow(0, Target.CHILD)])
    assert (last.done, last.kills) == (True, ())


def test_given_runs_that_never_end_when_patience_is_over_then_the_drive_ends_undone() -> None:
    last = Scripted(total=4, pace=0).run(plan_blows(2, 4, seed=1), patience=5.0)
    assert not last.done
    assert last.seconds == pytest.approx(5.0, abs=0.25)


def test_given_every_look_then_the_reporter_sees_it() -> None:
    scene = Scripted(total=3, pace=1)
    scene.run([])
    assert [progress.at_rest for progress in scene.shown] == [0, 1, 2, 3]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "compensated", "compensation_failed", "parked"])
def test_given_a_status_that_nothing_automatic_leaves_then_the_run_is_at_rest(status: str) -> None:
    assert Progress(2, {status: 1, "compensating": 1}).at_rest == 1


def test_given_no_terminal_when_shown_then_each_tenth_and_each_kill_is_one_plain_line() -> None:
    console = Console(file=io.StringIO(), width=160)
    with reporter(console) as lines:
        for ended in (0, 1, 1, 2):
            kills = ("killed [812]",) if ended else ()
            lines.show(Progress(10, {"running": 10 - ended, "succeeded": ended}, kills, 4, ended * 1.5))
    assert _text(console).splitlines() == [
        "  0.0s  0/10 at rest  running 10  succeeded 0  kills 0  faults 4",
        "  1.5s  killed [812]",
        "  1.5s  1/10 at rest  running 9  succeeded 1  kills 1  faults 4",
        "  3.0s  2/10 at rest  running 8  succeeded 2  kills 1  faults 4",
    ]


def test_given_a_terminal_when_shown_then_one_table_is_redrawn() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with reporter(console) as live:
        live.show(Progress(10, {"succeeded": 4}, ("whole worker killed [812]",), 4, 2.0))
    assert "4 of 10 orders at rest" in _text(console)
    assert "whole worker killed [812]" in _text(console)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
