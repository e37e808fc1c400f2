"""A handle on a run: its status, its result, its history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Generic, cast

from stageflow_durable.clock import Clock
from stageflow_durable.codec import decode
from stageflow_durable.duration import shown
from stageflow_durable.engine.awaiting import Awaiting
from stageflow_durable.engine.run_ended import require_result, require_values
from stageflow_durable.engine.run_outputs import migrated_output
from stageflow_durable.engine.run_wait import RunWait
from stageflow_durable.engine.twins import documented_as, in_thread
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import InvalidInput, UnknownRun
from stageflow_durable.model.pipeline import Pipeline, ResultT
from stageflow_durable.model.plan import SLEEP
from stageflow_durable.model.run import Event, Run
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import AtRest
from stageflow_durable.store.views import shown_output


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
        awaiting: Awaiting | None = None,
    ) -> None:
        self.run_id = run_id
        self.replayed = replayed
        self._store = store
        self._describe = describe
        self._clock = clock
        self._pipeline = pipeline
        self._awaiting = awaiting

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
        """What each stage saved so far, by name. Raises ValuesErased once that is gone."""
        require_values(self._facts())
        return self._outputs(for_people=False)

    aoutputs = in_thread(outputs)

    def _outputs(self, *, for_people: bool) -> dict[str, Any]:
        return self._shown(self._store.outputs(self.run_id), for_people=for_people)

    def _shown(self, saved: Mapping[str, Saved], *, for_people: bool) -> dict[str, Any]:
        return {
            stage: self._read(stage, *found, for_people=for_people)
            for stage, found in saved.items()
            if found.delta is not None
        }

    def _read(self, stage: str, delta: str | None, schema: int, *, for_people: bool = False) -> Any:
        """What a stage saved; for people as it was saved: a migration wants the value as it is, and may rename it."""
        if for_people:
            known = None if self._pipeline is None else self._pipeline.plan.by_name.get(stage)
            return shown_output(known, delta or "null")
        value = decode(delta or "null")
        return value if self._pipeline is None else migrated_output(self._pipeline, stage, value, schema)

    def result(self, timeout: float | timedelta | None = None, *, for_people: bool = False) -> ResultT:
        """Wait for the end and return the last stage's output as the pipeline's ``result_type``, or all outputs where
        it has none.

        ``timeout`` in seconds or as a timedelta, None: for ever. ``for_people``: as plain data, as it was saved, masked
        and without what models do not show. Raises ResultTimeout, or InvalidInput for a timeout that is no time;
        RunFailed, RunCancelled, RunCompensated, CompensationFailed or RunParked for a run that ended otherwise;
        ValuesErased once the result is gone;
        NotAllowedInStage inside a stage, whose worker slot it would hold; StoreUnavailable if the database is away at
        the beginning.
        """
        return self._result(self._wait("result", timeout).until_rest(), for_people)

    @documented_as(result)
    async def aresult(self, timeout: float | timedelta | None = None, *, for_people: bool = False) -> ResultT:
        """Awaitable :meth:`result`: all that a process awaits share one connection, and take no thread each."""
        rest = await self._wait("aresult", timeout).auntil_rest()
        asks = rest.saved is None or not self._is_newest(rest.run)
        if asks and rest.run.status is RunStatus.SUCCEEDED:
            return await asyncio.to_thread(self._result, rest, for_people)
        return self._result(rest, for_people)

    def events(
        self, *, after: int = 0, follow: bool = False, timeout: float | timedelta | None = None
    ) -> Iterator[Event]:
        """The run's events as they come, oldest first, until the run is at rest.

        ``after``: only events with a higher ``seq``: to go on where one left off. ``follow``: go on when the run is at
        rest, for somebody may resume it. ``timeout`` in seconds or as a timedelta, None: for ever, for all of it.
        Raises as :meth:`result` does, except for how the run ended.
        """
        wait, after = self._wait("events", timeout), _number(after)
        while True:
            stands, found = self._events(after)
            yield from found
            after = found[-1].seq if found else after
            if stands.status in AT_REST and not follow:
                return
            wait.until_change(stands.seq)

    @documented_as(events)
    async def aevents(
        self, *, after: int = 0, follow: bool = False, timeout: float | timedelta | None = None
    ) -> AsyncIterator[Event]:
        """:meth:`events` for ``async for event in handle.aevents()``, likewise."""
        wait, after = self._wait("aevents", timeout), _number(after)
        while True:
            stands, found = await asyncio.to_thread(self._events, after)
            for event in found:
                yield event
            after = found[-1].seq if found else after
            if stands.status in AT_REST and not follow:
                return
            await wait.auntil_change(stands.seq)

    def _events(self, after: int) -> tuple[RunFacts, list[Event]]:
        """The run's row, and its events: those that come between the two are for the next time."""
        stands = self._facts()
        return stands, [event for event in self._store.history(self.run_id, after) if event.seq <= stands.seq]

    def _wait(self, asked: str, timeout: float | timedelta | None) -> RunWait:
        return RunWait(self.run_id, asked, timeout, self._facts, self._awaiting, self._clock)

    def _result(self, rest: AtRest, for_people: bool) -> ResultT:
        run = rest.run
        require_result(run)
        saved = self._store.outputs(self.run_id) if rest.saved is None else rest.saved
        if self._pipeline is None or self._pipeline.result_type is None:
            return cast("ResultT", self._shown(saved, for_people=for_people))  # a pipeline that declares no type
        last = self._last_stage(self._pipeline, run)
        found = saved.get(last)
        if for_people:  # an object of the declared type would show what is not for people
            return cast("ResultT", None if found is None else self._read(last, *found, for_people=True))
        return self._typed(last, self._pipeline, found)

    def _is_newest(self, run: RunFacts) -> bool:
        return self._pipeline is None or self._pipeline.plan.digest == run.definition

    def _last_stage(self, pipeline: Pipeline[Any, ResultT], run: RunFacts) -> str:
        if self._is_newest(run):
            return pipeline.plan.result_stage
        stages = self._describe(self.run_id).stages
        return next((stage for stage in reversed(stages) if stage.kind != SLEEP), stages[-1]).name

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

    def _facts(self) -> RunFacts:
        facts = self._store.facts(self.run_id)
        if facts is None:
            self._store.full_id(self.run_id)  # says that it was pruned, where it was
            raise UnknownRun(f"no run {self.run_id}")
        return facts


def _number(after: Any) -> int:
    """The number of an event, as a program gives it. Raises InvalidInput."""
    if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after < 2**31:
        raise InvalidInput("events", [f"after: {shown(after)} given; the seq of an event, a whole number from 0"])
    return after
