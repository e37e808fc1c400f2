"""Those who submit runs and those who steer them: processes that can die between two steps like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stageflow_durable.engine.accept import Acceptor, Submission
from stageflow_durable.engine.operations import DatabaseOperations, Operations
from stageflow_durable.engine.recover import Sweeper
from stageflow_durable.errors import IdempotencyParamMismatch, NotAllowed, OperatorConflict, StageflowError
from stageflow_durable.model.run import Run
from stageflow_durable.model.status import StageState, StepState
from stageflow_durable.model.verbs import VerbName, refusal, standing
from tests.simulation.ledger import Violation
from tests.simulation.process import Process, sweep

if TYPE_CHECKING:
    from tests.simulation.process import Worker
    from tests.simulation.simulation import Simulation

DEADLINES = [None, 5.0, 60.0]
HAD = {StageState.OK, StageState.SKIPPED, StageState.UNDONE}


class Client:
    """Submits runs; one that does not know whether it was heard submits again, under the same key."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._submissions: list[tuple[str, str, str | None]] = []
        self._processes = 0
        self.waits = 0
        self.runs: dict[str, set[str]] = {}

    def submit(self) -> None:
        """What the seed begins with."""
        for _number in range(self._sim.chance.number("runs", 1, 3, [6, 3, 1])):
            self._new()

    def _new(self) -> None:
        pipeline = self._sim.chance.pick("of pipeline", list(self._sim.pipelines))
        keyed = self._sim.chance.flip("without key", 0.2)
        number = len(self._submissions)
        text = self._sim.chance.pick("order", ["order A", "order B", "order C"])
        self._submissions.append((pipeline, text, None if keyed else f"key {number}"))
        self._start(number)

    def again(self) -> None:
        """One more run, or one of them once more."""
        number = self._sim.chance.number("submission", 0, len(self._submissions))
        if number == len(self._submissions) and len(self._submissions) < 4:
            self._new()
        elif number < len(self._submissions) and self._submissions[number][2] is not None:
            self._start(number)

    def _start(self, number: int) -> None:
        self._processes += 1
        process = Process(self._sim, f"c{self._processes}")
        self.waits += 1
        process.start(f"submits {number}", lambda: self._submit(process, number))

    def _submit(self, process: Process, number: int) -> None:
        sim = self._sim
        pipeline, text, key = self._submissions[number]
        acceptor = Acceptor(process.store, process.publisher, process.clock, "stageflow")
        seconds = sim.chance.one_of(f"deadline of {number}", DEADLINES, [8, 1, 1])
        heard = False
        try:
            deadline = None if seconds is None else _from(sim.now(), seconds)
            created = acceptor.accept(
                sim.pipelines[pipeline], Submission({"text": text}, idempotency_key=key, deadline=deadline)
            )
            heard = True
            sim.note(process, "submitted", f"{sim.short(created.run_id)}{', again' if created.replayed else ''}")
            if key is not None:
                self.runs.setdefault(key, set()).add(created.run_id)
                if len(self.runs[key]) > 1:
                    raise Violation(f"{key} has the runs {', '.join(sorted(self.runs[key]))}")
            if key is not None and sim.chance.flip("with other parameters", 0.1):
                self._mismatch(acceptor, sim.pipelines[pipeline], key)
        except StageflowError as error:
            sim.note(process, "failed", f"{type(error).__name__}: {error}")
        finally:
            self.waits -= 1
            if not heard and key is not None and self._sim.violation is None:
                self._start(number)

    def _mismatch(self, acceptor: Acceptor, pipeline: Any, key: str) -> None:
        try:
            acceptor.accept(pipeline, Submission({"text": "something else"}, idempotency_key=key))
        except IdempotencyParamMismatch as refused:
            refused.__traceback__ = None  # it leads to a frame that holds the error: a circle for the collector
            return
        raise Violation(f"{key} was accepted with other parameters")


def _failed_undos(run: Run) -> list[str]:
    return [one.name for one in run.stages if one.undo and one.undo.state is StepState.COMPENSATION_FAILED]


def _from(now: float, seconds: float) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(now + seconds, UTC)


def _is_sound(sim: Simulation, worker: Worker) -> bool:
    """Whether a worker has renewed its lease by the clock as it is now."""
    return worker.owner._id is not None and worker.is_renewed() and sim.jumped_at < worker.renewed_at


class Operator:
    """Somebody looks at a run, and a while later does what was allowed then."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._processes = 0
        self.looked: dict[tuple[str, str], int] = {}

    def begin(self) -> None:
        """Somebody sits down."""
        self._processes += 1
        process = Process(self._sim, f"o{self._processes}")
        process.start("looks", lambda: self._look(process))

    def give_up(self) -> None:
        """Somebody ends the parked runs that others wait for."""
        self._processes += 1
        process = Process(self._sim, f"o{self._processes}")
        process.start("gives up", lambda: self._give_up(process))

    def _give_up(self, process: Process) -> None:
        sweeper = Sweeper(process.store, process.publisher, process.patience())
        operations = DatabaseOperations(process.store, process.publisher, sweeper, process.clock)
        for run_id in sorted(row.id for row in self._sim.database.see("runs") if row.status == "parked"):
            operations.cancel(run_id, past_pivot=True, reason="others wait for it", actor=process.name)

    def _look(self, process: Process) -> None:
        sim = self._sim
        runs = sorted(row.id for row in sim.database.see("runs"))
        if not runs:
            return
        sweeper = Sweeper(process.store, process.publisher, process.patience())
        if sim.chance.flip("sweeps by hand", 0.1):
            sweep(sim, process, sweeper)
            return
        if sim.chance.flip("confirms an end", 0.15):
            self._confirm(process, sweeper)
            return
        run_id = runs[sim.chance.number("which run", 0, len(runs) - 1)]
        operations = DatabaseOperations(process.store, process.publisher, sweeper, process.clock)
        try:
            self._act(process, operations, run_id)
        except (NotAllowed, OperatorConflict) as error:
            sim.note(process, "refused", str(error))
        except StageflowError as error:
            sim.note(process, "failed", f"{type(error).__name__}: {error}")

    def _confirm(self, process: Process, sweeper: Sweeper) -> None:
        """Somebody says of a process that it has ended. Who says so of one that lives and has renewed is refused."""
        sim = self._sim
        operations = DatabaseOperations(process.store, process.publisher, sweeper, process.clock)
        sound = [one for one in sim.workers if _is_sound(sim, one)]
        if sound and sim.chance.flip("is mistaken", 0.2):
            worker = sound[sim.chance.number("which worker lives", 0, len(sound) - 1)]
            began = sim.passed
            told = self._say_dead(process, operations, str(worker.owner._id))
            if told and sim.passed == began and _is_sound(sim, worker):
                raise Violation(f"{worker.name} was confirmed to have ended, though its lease holds")
            return
        awaited = [row for row in sim.database.see("owners") if row.awaited and not row.confirmed]
        ended = sorted(row.id for row in awaited if sim.has_ended(row.pid))
        if ended:
            self._say_dead(process, operations, ended[sim.chance.number("which process", 0, len(ended) - 1)])

    def _say_dead(self, process: Process, operations: Operations, owner: str) -> bool:
        self._sim.note(process, "confirms", owner)
        try:
            operations.confirm_dead(owner, reason="I looked", actor=process.name)
        except StageflowError as error:
            self._sim.note(process, "refused", str(error))
            return False
        return True

    def _act(self, process: Process, operations: Operations, run_id: str) -> None:
        sim = self._sim
        run = operations.run(run_id)
        if sim.chance.flip("forks", sim.setup.forks):
            self._fork(process, operations, run)
            return
        facts = standing(run)
        past = sim.chance.flip("past the pivot", 0.3)
        allowed = [verb for verb in VerbName if refusal(verb, facts, past_pivot=past) is None]
        if not allowed:
            return
        verb = sim.chance.pick("verb", [str(one) for one in allowed])
        version = run.op_version if sim.chance.flip("as seen", 0.6) else None
        if version is not None:
            self.looked[run_id, process.name] = version
        given = {"reason": "because", "actor": process.name, "op_version": version}
        if not sim.healing and sim.chance.flip("thinks about it", 0.3):
            sim.sleep(sim.chance.one_of("thinks for", [1.0, 8.0, 40.0]))
        sim.note(process, verb, f"{sim.short(run_id)}, {run.status}{', past the pivot' if past else ''}")
        if verb == VerbName.SETTLE:
            doubtful = [stage.name for stage in run.stages if stage.state in (StageState.UNKNOWN, StageState.FAILED)]
            if doubtful:
                self._settle(process, operations, run_id, sim.chance.pick("stage", doubtful), given)
        elif verb == VerbName.RESUME:
            operations.resume(run_id, **given)  # type: ignore[arg-type]  # their types are as named
        elif verb == VerbName.COMPENSATE:
            skip = _failed_undos(run) if sim.chance.flip("skip what failed", 0.2) else ()
            operations.compensate(run_id, past_pivot=past, skip=skip, **given)  # type: ignore[arg-type]  # as above
        else:
            operations.cancel(run_id, past_pivot=past, **given)  # type: ignore[arg-type]  # as above

    def _fork(self, process: Process, operations: Operations, run: Run) -> None:
        """From the last stage that has what it needs, or had."""
        had = {stage.name for stage in run.stages if stage.state in HAD}
        stages = [stage.name for stage in reversed(run.stages) if had.issuperset(stage.after)]
        stage = self._sim.chance.pick("from stage", stages)
        self._sim.note(process, "forks", f"{self._sim.short(run.run_id)} from {stage}")
        operations.fork(run.run_id, stage, reason="once more", actor=process.name)

    def _settle(self, process: Process, operations: Operations, run_id: str, stage: str, given: dict[str, Any]) -> None:
        """Tell the truth: what stands in the ledger, and only while nobody is in that stage any more."""
        sim = self._sim
        if any((run, where) == (run_id, stage) for run, where, _owner in sim.bodies.inside.values()):
            return
        if sim.ledger.stands(run_id, stage):
            operations.settle(run_id, stage, done={"found": stage}, **given)
        else:
            operations.settle(run_id, stage, not_done=True, **given)
            sim.ledger.found_not_done(run_id, stage, sim.passed)
