"""What the model knows: the outside world in which stages act, and what users are promised about each run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stageflow_durable import PermanentError, Pipeline, StageOutput
from stageflow_durable.model.run import Run
from stageflow_durable.model.status import AT_REST, RUN_TRANSITIONS, RunStatus, StepState
from stageflow_durable.testing import Crash, InProcessEngine

_R = RunStatus
FINAL = frozenset({_R.SUCCEEDED, _R.COMPENSATED})

AFTER_VERB = {
    "cancel": {_R.STOPPING, _R.COMPENSATING, _R.CANCELLED, _R.PARKED},
    "resume": {_R.RUNNING},
    "compensate": {_R.STOPPING, _R.COMPENSATING, _R.CANCELLED, _R.COMPENSATED, _R.COMPENSATION_FAILED},
    "settle": {_R.RUNNING, _R.SUCCEEDED, _R.PARKED, _R.FAILED},
}
"""How a run may stand once a person was obeyed."""

AT_WILL = {
    "cancel": frozenset(_R) - FINAL - {_R.FAILED, _R.CANCELLED, _R.COMPENSATION_FAILED},
    "resume": {_R.PARKED, _R.FAILED, _R.CANCELLED},
    "compensate": frozenset(_R) - FINAL - {_R.STOPPING, _R.COMPENSATING},
    "settle": {_R.PARKED, _R.FAILED},
}
"""From where a person may be obeyed."""


def may_become(status: RunStatus) -> set[RunStatus]:
    """Where automatic work may bring a run: along the table, and never on from rest."""
    found, edge = {status}, {status} - AT_REST
    while edge:
        edge = {after for before in edge for after in RUN_TRANSITIONS[before]} - found
        found |= edge
        edge -= AT_REST
    return found


@dataclass
class Outside:
    """A remote system that keeps a ledger by idempotency key, and bodies that act in it as ``plays`` says.

    ``effects``: by key of the action, True while it stands, False once it was undone. ``wrong``: what no body should
    have seen; to a body an exception of its own would be one of the stage's.
    """

    effects: dict[str, bool] = field(default_factory=dict)
    plays: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    engine: InProcessEngine = field(init=False, repr=False)

    def stage(self, ctx: Any) -> Any:
        """Every action."""
        ancestors = _ancestors(self.engine.run(ctx.run_id), ctx.stage)
        self._is(ctx.stage not in self.engine.handle(ctx.run_id).outputs(), f"{ctx.stage} runs again")
        self._is(dict(ctx.outputs) == {name: made(name, ctx.input) for name in ancestors}, f"given {ctx.outputs}")
        self._is(self.effects.get(ctx.idempotency_key) is not False, f"{ctx.stage} acts after it was undone")
        return self._play(ctx.idempotency_key, True, made(ctx.stage, ctx.input))

    def undo(self, ctx: Any) -> Any:
        """Every undo."""
        run = self.engine.run(ctx.run_id)
        later = [name for name in descendants(run, ctx.stage) - {ctx.stage} if owed(run, name)]
        self._is(run.status is RunStatus.COMPENSATING, f"an undo in a run that is {run.status}")
        self._is(later == [], f"{ctx.stage} is undone before {later}")
        self._is(ctx.outcome == "unknown" or ctx.action_key in self.effects, f"{ctx.stage} is said to have happened")
        return self._play(ctx.action_key, False, None)

    def _is(self, so: bool, what: str) -> None:
        if not so:
            self.wrong.append(what)

    def _play(self, key: str, acts: bool, answer: Any) -> Any:
        play = self.plays.pop(0) if self.plays else "well"
        if play == "dies before":
            raise Crash(play)
        if play == "rejects" and acts:
            return StageOutput.reject("nothing happened")
        if play in ("fails", "rejects"):
            raise PermanentError("no")
        if acts or key in self.effects:
            self.effects[key] = acts
        if play == "dies after":
            raise Crash(play)
        if play == "answer lost":
            raise TimeoutError("the remote did not answer in time")
        if play == "bug":
            raise TypeError("a mistake")
        return answer


PLAYS = ("well", "well", "rejects", "fails", "answer lost", "bug", "dies before", "dies after")


def made(stage: str, given: Any) -> str:
    """What a stage makes of its run's input."""
    return f"{stage} of {given['n']}"


def _ancestors(run: Run, stage: str) -> set[str]:
    after = set(run.stage(stage).after)
    return after.union(*(_ancestors(run, name) for name in after))


def descendants(run: Run, stage: str) -> set[str]:
    """The stage, and what comes after it."""
    return {stage} | {one.name for one in run.stages if stage in _ancestors(run, one.name)}


def owed(run: Run, stage: str) -> bool:
    """Whether its undo is still to come."""
    undo = run.stage(stage).undo
    return undo is not None and undo.state in (StepState.INTENDED, StepState.RECORDED, StepState.COMPENSATING)


def pipelines(outside: Outside, version: int) -> list[Pipeline[Any, Any]]:
    """Three pipelines; of the first there are three versions: with a stage more, with one that was renamed."""
    act, back = outside.stage, outside.undo
    line = Pipeline[Any, Any]("line").stage("a", act, compensate=back)
    line = line.stage("b2" if version == 3 else "b", act, compensate=back).stage("c", act)
    if version == 2:
        line = line.stage("d", act, compensate=back, on_unknown="park")
    tree = Pipeline[Any, Any]("tree", on_compensation_failure="halt").stage("a", act, compensate=back)
    for name in ("l", "r"):
        tree = tree.stage(name, act, after=("a",), compensate=back, on_unknown="compensate")
    tree = tree.stage("z", act, after=("l", "r"), compensate=back)
    paid = Pipeline[Any, Any]("paid", on_failure="park").stage("a", act, compensate=back)
    return [line, tree, paid.stage("pay", act, compensate=back, pivot=True).stage("z", act)]


@dataclass
class Fate:
    """A run in the model: its key (and the pipeline that it is one of), its input, which statuses it may have now, what
    is saved of it for good.
    """

    key: tuple[str, str] | None
    given: dict[str, int]
    may: set[RunStatus] = field(default_factory=lambda: {RunStatus.PENDING})
    was: RunStatus = RunStatus.PENDING
    saved: dict[str, Any] = field(default_factory=dict)
    copied: frozenset[str] = frozenset()

    def see(self, run: Run, outputs: dict[str, Any], effects: dict[str, bool]) -> None:
        """Compare with what the engine says, and go on from there."""
        assert run.status in self.may, f"{run.status}, not one of {sorted(self.may)}"
        assert self.saved.items() <= outputs.items(), "an outcome that was saved is gone or another"
        assert outputs.items() <= {stage.name: made(stage.name, self.given) for stage in run.stages}.items()
        self.was, self.may, self.saved = run.status, may_become(run.status), outputs
        standing = {stage.name for stage in run.stages if effects.get(stage.key)}
        self._agree(run, standing)

    def _agree(self, run: Run, standing: set[str]) -> None:
        """The ledger and the run: what is saved has happened, what is undone stands no more."""
        undone = {stage.name for stage in run.stages if stage.undo and stage.undo.state is StepState.COMPENSATED}
        assert standing.isdisjoint(undone), f"undone, and there: {standing & undone}"
        given_up = _named(run, StepState.SKIPPED, StepState.COMPENSATION_FAILED)
        being_undone = _named(run, StepState.COMPENSATING)  # an attempt may have acted whose outcome is not saved
        assert self.saved.keys() - self.copied - undone - given_up - being_undone <= standing, "saved, and not there"
        undoable = {stage.name for stage in run.stages if stage.undo}
        if run.status is RunStatus.SUCCEEDED:
            assert self.saved.keys() == {stage.name for stage in run.stages}
            assert standing == self.saved.keys() - self.copied
        if run.status is RunStatus.COMPENSATED:
            assert standing & undoable <= _named(run, StepState.SKIPPED)
        if run.status in (RunStatus.FAILED, RunStatus.CANCELLED) and not run.pivot_passed:
            assert standing & undoable <= _named(run, StepState.SKIPPED), f"left behind: {standing & undoable}"
        if run.status is RunStatus.COMPENSATION_FAILED and run.pipeline != "tree":
            assert standing & undoable <= given_up, f"left behind: {standing & undoable - given_up}"


def _named(run: Run, *states: StepState) -> set[str]:
    return {stage.name for stage in run.stages if stage.undo and stage.undo.state in states}
