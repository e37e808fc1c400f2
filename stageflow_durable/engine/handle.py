"""A handle on a run: its status, its result, its history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Generic, NoReturn, cast

from stageflow_durable.clock import Clock
from stageflow_durable.codec import decode
from stageflow_durable.duration import LONGEST, is_duration, seconds_of, shown
from stageflow_durable.engine.inside import run_inside
from stageflow_durable.engine.twins import in_thread
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import (
    CompensationFailed,
    InvalidInput,
    NotAllowedInStage,
    ResultTimeout,
    RunCancelled,
    RunCompensated,
    RunError,
    RunFailed,
    RunParked,
    UnknownRun,
)
from stageflow_durable.model.migrate import migrated_output
from stageflow_durable.model.pipeline import Pipeline, ResultT
from stageflow_durable.model.plan import SLEEP
from stageflow_durable.model.run import Event, Run
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.store.protocol import Store

_ERRORS: dict[RunStatus, type[RunError]] = {
    RunStatus.FAILED: RunFailed,
    RunStatus.CANCELLED: RunCancelled,
    RunStatus.COMPENSATED: RunCompensated,
    RunStatus.COMPENSATION_FAILED: CompensationFailed,
    RunStatus.PARKED: RunParked,
}


class RunHandle(Generic[ResultT]):
    """A run of this engine, with the type of its result where its pipeline says one. ``replayed``: it was there already
    under the idempotency key.
    """

    def __init__(
        self,
        run_id: str,
        store: Store,
        describe: Callable[[str], Run],
        clock: Clock,
        *,
        replayed: bool = False,
        pipeline: Pipeline[Any, ResultT] | None = None,
    ) -> None:
        self.run_id = run_id
        self.replayed = replayed
        self._store = store
        self._describe = describe
        self._clock = clock
        self._pipeline = pipeline

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id}>"

    def status(self) -> RunStatus:
        """The run's status now."""
        return self._facts().status

    astatus = in_thread(status)

    def describe(self) -> Run:
        """The run in full: cause, stages, attempts, times."""
        return self._describe(self.run_id)

    adescribe = in_thread(describe)

    def history(self) -> list[Event]:
        """The run's events, oldest first."""
        return self._store.history(self._store.full_id(self.run_id))

    ahistory = in_thread(history)

    def outputs(self) -> dict[str, Any]:
        """What each stage saved so far, by name."""
        return self._outputs(for_people=False)

    aoutputs = in_thread(outputs)

    def _outputs(self, *, for_people: bool) -> dict[str, Any]:
        saved = self._store.outputs(self.run_id)
        return {
            stage: self._read(stage, *found, for_people=for_people)
            for stage, found in saved.items()
            if found.delta is not None
        }

    def _read(self, stage: str, delta: str | None, schema: int, *, for_people: bool = False) -> Any:
        value = decode(delta or "null", shown=for_people)
        return value if self._pipeline is None else migrated_output(self._pipeline, stage, value, schema)

    def result(self, timeout: float | timedelta | None = None, *, for_people: bool = False) -> ResultT:
        """Wait for the end and return the last stage's output as the pipeline's ``result_type``, or all outputs where
        it has none.

        ``timeout`` in seconds or as a timedelta, None: for ever. ``for_people``: all outputs are without what models do
        not show. Raises ResultTimeout, or InvalidInput for a timeout that is no time; RunFailed, RunCancelled,
        RunCompensated, CompensationFailed or RunParked for a run that ended otherwise; NotAllowedInStage inside a
        stage, whose worker slot it would hold.
        """
        inside = run_inside()
        if inside is not None:
            raise NotAllowedInStage(
                self.run_id, "result()", f"called inside a stage of run {inside}, it would hold the worker's slot"
            )
        if timeout is not None and not is_duration(timeout, low=-LONGEST):  # what is below 0 has just run out
            wrong = f"timeout: {shown(timeout)} is no number of seconds up to ten years, or None"
            raise InvalidInput(f"result of run {self.run_id}", [wrong])
        facts = self._at_rest(None if timeout is None else seconds_of(timeout, low=-LONGEST))
        if facts.status is not RunStatus.SUCCEEDED:
            self._raise(facts)
        if self._pipeline is None or self._pipeline.result_type is None:
            return cast("ResultT", self._outputs(for_people=for_people))  # a pipeline that declares no type
        stages = self._describe(self.run_id).stages
        last = next((stage for stage in reversed(stages) if stage.kind != SLEEP), stages[-1]).name
        return self._typed(last, self._pipeline, self._store.outputs(self.run_id).get(last))

    aresult = in_thread(result)

    def _typed(self, stage: str, pipeline: Pipeline[Any, ResultT], saved: Saved | None) -> ResultT:
        declared, what = typed(pipeline.result_type), f"result of run {self.run_id}"
        found: ResultT
        if saved is None or saved.delta is None:
            found = declared.validated(None, what)
        elif saved.schema == pipeline.schema:
            found = declared.read_output(saved.delta, what)
        else:
            found = declared.migrated(self._read(stage, *saved), what)
        return found

    def _at_rest(self, timeout: float | None) -> RunFacts:
        started, pause = self._clock.monotonic(), 0.01
        while True:
            facts = self._facts()
            if facts.status in AT_REST:
                return facts
            waited = self._clock.monotonic() - started
            if timeout is not None and waited >= timeout:
                raise ResultTimeout(f"run {self.run_id} is still {facts.status} after {timeout:g} s; it goes on")
            self._clock.sleep(pause if timeout is None else min(pause, timeout - waited))
            pause = min(0.25, pause * 1.5)

    def _facts(self) -> RunFacts:
        facts = self._store.facts(self.run_id)
        if facts is None:
            self._store.full_id(self.run_id)  # says that it was pruned, where it was
            raise UnknownRun(f"no run {self.run_id}")
        return facts

    def _raise(self, facts: RunFacts) -> NoReturn:
        raise _ERRORS[facts.status](facts.id, facts.status.value, facts.cause, facts.error_stage, facts.error)
