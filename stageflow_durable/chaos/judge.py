"""The verdict on runs that went through chaos: read from the engine's record, and from nothing that remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stageflow_durable.model.run import Event, Run, StageView
from stageflow_durable.model.status import AT_REST, AttemptState, RunStatus

COMMITS = ("stage.ok", "stage.skipped")
LOST = "stage.lost"
UNDONE = "work.compensation_executed"


@dataclass(frozen=True, slots=True)
class StageTally:
    """One stage over all runs. ``bodies``: calls of its body; ``again``: runs in which it was called more than once;
    ``lost``: how often a killed process took it along; ``undone``: runs in which it was undone.
    """

    name: str
    runs: int = 0
    bodies: int = 0
    again: int = 0
    lost: int = 0
    undone: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it. ``unfinished``: runs that did not come to rest; ``missing``: accepted, and not there any more;
    ``twice``: ``run/stage`` whose outcome, or undo, was recorded more than once. ``asked``: how many kills were wanted;
    ``kills``: those that were made; ``interrupted``: stages and undos that a kill took away while they ran.
    """

    pipeline: str
    seed: int
    accepted: int
    statuses: Mapping[str, int]
    stages: Sequence[StageTally]
    kills: Sequence[str]
    seconds: float
    unfinished: Sequence[str] = ()
    missing: Sequence[str] = ()
    twice: Sequence[str] = ()
    attention: Sequence[str] = field(default=())
    """Runs at rest that need a person."""
    asked: int = 0
    interrupted: int = 0

    @property
    def holds(self) -> bool:
        """Whether the engine kept its promise, as far as it was put to the test."""
        return not (self.unfinished or self.missing or self.twice)

    @property
    def proves(self) -> bool:
        """Whether it was put to the test: a kill that hits no stage at work is none."""
        return self.interrupted > 0


def judge(
    pipeline: str,
    accepted: Iterable[str],
    found: Iterable[tuple[Run, Sequence[Event]]],
    *,
    seed: int,
    kills: Sequence[str],
    seconds: float,
    asked: int = 0,
) -> Verdict:
    """The verdict on the runs that were accepted, of which those were found, each with its history."""
    wanted, runs, twice, interrupted = list(accepted), list[Run](), list[str](), 0
    tallies: dict[str, StageTally] = {}
    for run, history in found:
        runs.append(run)
        interrupted += sum(event.type == LOST for event in history)
        twice += [f"{run.run_id}/{stage}" for stage in _twice(history)]
        lost, undone = _stages(history, LOST), _stages(history, UNDONE)
        for stage in run.stages:
            tallies[stage.name] = _with(tallies.get(stage.name, StageTally(stage.name)), stage, lost, undone)
    there = {run.run_id for run in runs}
    return Verdict(
        pipeline,
        seed,
        len(wanted),
        dict(sorted(Counter(run.status.value for run in runs).items())),
        list(tallies.values()),
        kills,
        seconds,
        unfinished=[run.run_id for run in runs if run.status not in AT_REST],
        missing=[run_id for run_id in wanted if run_id not in there],
        twice=twice,
        attention=[run.run_id for run in runs if run.status in (RunStatus.PARKED, RunStatus.COMPENSATION_FAILED)],
        asked=asked,
        interrupted=interrupted,
    )


def _twice(history: Sequence[Event]) -> list[str]:
    outcomes = _stages(history, *COMMITS)
    undos = _stages(history, UNDONE)
    return [name for counts in (outcomes, undos) for name, times in counts.items() if times > 1]


def _stages(history: Sequence[Event], *kinds: str) -> Counter[str]:
    return Counter(str(event.data.get("stage")) for event in history if event.type in kinds)


def _with(tally: StageTally, stage: StageView, lost: Mapping[str, int], undone: Mapping[str, int]) -> StageTally:
    called = [attempt for attempt in stage.attempts if attempt.state is not AttemptState.VOID]
    return StageTally(
        tally.name,
        tally.runs + bool(called),
        tally.bodies + len(called),
        tally.again + (len(called) > 1),
        tally.lost + lost.get(stage.name, 0),
        tally.undone + (stage.name in undone),
    )
