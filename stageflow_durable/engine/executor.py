"""Carrying a message: begin the stage it names, run it, commit, and go on in place while the next stage is granted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

from stageflow_durable.clock import World
from stageflow_durable.engine import body
from stageflow_durable.engine.asking import Asking
from stageflow_durable.engine.attempt_log import RefusalLog, log_fenced
from stageflow_durable.engine.business_key import business_key, claim
from stageflow_durable.engine.chain import Chain
from stageflow_durable.engine.interrupt import TakenOver, ending_with_lease, ends_process, killed_after
from stageflow_durable.engine.lease import Owner
from stageflow_durable.engine.observers import call_observers, end_of
from stageflow_durable.engine.outcome import (
    Again,
    AwaitsCallback,
    History,
    Outcome,
    Over,
    Succeeded,
    apply_on_unknown,
    in_doubt,
    limited,
    mistake,
    mistake_before_body,
    not_called,
    outcome_of_error,
    outcome_of_value,
    text_of,
    unjudged,
)
from stageflow_durable.engine.payload import PAYLOAD_BYTES
from stageflow_durable.engine.process_end import interruptible_by_hand, is_end_of_process
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.engine.saving import AWAY, Saving
from stageflow_durable.engine.services import Services, logged, own_context
from stageflow_durable.engine.stage_extras import steps_of, undo_of
from stageflow_durable.errors import StageCancelled
from stageflow_durable.masking import masking
from stageflow_durable.model.context import Observer
from stageflow_durable.model.output import StageOutput
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import OnLeaseLost, StageSpec
from stageflow_durable.model.status import Cause
from stageflow_durable.model.work import Claimant, Ending, Failure, Fenced, Nudge, Refused, RetryDue, Work
from stageflow_durable.retry import Category
from stageflow_durable.retry.look import is_a
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import BusinessKey

log = masking(logging.getLogger("stageflow.executor"))


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one message may carry a run, how long a commit is tried while the database is away (seconds), and how
    large an output may be. ``log_bytes``: how much is kept of what an attempt logs; 0: nothing.
    """

    in_place_stages: int = 200
    in_place_seconds: float = 5.0
    hold_seconds: float = 30.0
    payload_bytes: int = PAYLOAD_BYTES
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Executed:
    """What is left to do after a message was executed. ``nudges``: what to publish. ``retry``: when the last
    stage is to be tried again. ``stages``: how many stages were committed. ``refused``: why nothing began.
    """

    nudges: tuple[Nudge, ...] = ()
    retry: RetryDue | None = None
    stages: int = 0
    refused: Refused | None = None

    @property
    def moved(self) -> bool:
        """Whether a stage was committed, so that the message's view of the run is out of date."""
        return self.stages > 0


class Executor:
    """Runs stages for one owner."""

    def __init__(
        self,
        store: Store,
        owner: Owner,
        pipelines: Mapping[str, Pipeline[Any, Any]],
        *,
        world: World,
        retry: RetryPolicy | None = None,
        interceptors: Sequence[Any] = (),
        observers: Sequence[Observer] = (),
        limits: Limits | None = None,
        stopping: Callable[[], bool] = lambda: False,
        publish: Callable[[tuple[Nudge, ...]], object] | None = None,
        on_lease_lost: OnLeaseLost = "continue",
        bounded: Callable[[], bool] = ends_process,
        callback_url: Callable[[str, str], str] | None = None,
    ) -> None:
        self._store = store
        self._owner = owner
        self._pipelines = pipelines
        self._world = world
        self._retry = retry or RetryPolicy()
        self._call = Chain(interceptors).call if interceptors else body.call
        self._observers = observers
        self._limits = limits or Limits()
        self._stopping = stopping
        self._publish = publish
        self._refusals = RefusalLog(world.clock.monotonic, store.note_strangers)
        self._callback_url = callback_url
        self._end_with_lease = ending_with_lease(pipelines.values(), on_lease_lost)
        plans = {name: pipeline.plan for name, pipeline in pipelines.items()}
        self._claimant = partial(_claimant, owner, plans, killed_after(pipelines.values()), bounded)
        self._policy = partial(_policy, pipelines, self._retry)
        hold = self._limits.hold_seconds
        self._saving = Saving(store, owner, world, claimant=self._claimant, policy=self._policy, hold_seconds=hold)
        self._asking = Asking(store, self._saving, world.clock, self._claimant, self._limits.payload_bytes)

    def execute(self, nudge: Nudge) -> Executed:
        """Begin what the message names and go on in place. Raises StoreUnavailable if the database is away; nothing is
        lost.
        """
        self._owner.begin_work()
        try:
            with interruptible_by_hand():
                begun = self._store.begin(nudge, self._claimant())
                if isinstance(begun, Refused) and begun.keys_of is not None:
                    begun = self._asking.keys_and_begin(nudge, begun.keys_of, self._pipelines)
                if isinstance(begun, Refused):
                    self._refusals.add(nudge, begun)
                    return Executed(begun.nudges, refused=begun)
                if begun.sent_at is not None:
                    self._owner.served(begun.queue, begun.sent_at)  # from the row: what a message says may be forged
                return self._run_in_place(begun)
        except BaseException as error:
            # An attempt may have begun whose end nobody will write: give up this owner id, so that it is taken over.
            self._owner.abandon()
            if not isinstance(error, TakenOver):  # raised just after its body had ended
                raise
            return Executed()
        finally:
            self._owner.end_work()

    def _run_in_place(self, work: Work) -> Executed:
        outputs, stages = RunOutputs(self._store, self._pipelines[work.run.pipeline]), 0
        until = self._world.clock.monotonic() + self._limits.in_place_seconds
        current: Work | None = work
        left: list[Nudge] = []
        while current is not None:
            go_on = partial(self._may_go_on, stages + 1, until)
            ending: Ending = Fenced()  # declared dead since it began: whoever takes over calls the body
            if self._owner.is_still(current.owner):
                ending = self._run_one(current, outputs, go_on)
            if isinstance(ending, Fenced):
                log_fenced(current)
                self._owner.find_out()
                return Executed(tuple(left), None, stages)
            if isinstance(ending, RetryDue):
                return Executed((*left, *ending.nudges), ending, stages)
            left.extend(ending.nudges)
            current, stages = ending.granted, stages + 1
            if current is not None and left and self._publish is not None:
                self._publish(tuple(left))  # other branches begin without waiting for this one
                left.clear()
        return Executed(tuple(left), None, stages)

    def _may_go_on(self, stages: int, until: float) -> bool:
        """Whether the next stage may begin here. Asked when a stage ends, since the process may have been told to stop
        while the body ran.
        """
        in_time = self._world.clock.monotonic() < until
        return stages < self._limits.in_place_stages and in_time and not self._stopping()

    def _run_one(self, work: Work, outputs: RunOutputs, go_on: Callable[[], bool]) -> Ending:
        if work.undoing:
            return self._undo(work, outputs, go_on)
        spec = self._pipelines[work.run.pipeline].by_name[work.stage]
        if spec.approval is not None:
            return self._asking.approval(work, spec, outputs, go_on)
        return self._stage(work, outputs, go_on) if spec.sleep is None else self._asking.until(work, spec, outputs)

    # --- a stage ------------------------------------------------------------------------------------------------------

    def _stage(self, work: Work, outputs: RunOutputs, go_on: Callable[[], bool]) -> Ending:
        pipeline = self._pipelines[work.run.pipeline]
        spec = pipeline.by_name[work.stage]
        steps = partial(steps_of, self._world, self._limits, spec)
        is_async, url, log_bytes = body.is_async(spec.runner), self._callback_url, self._limits.log_bytes
        services = Services(self._store, work, is_async=is_async, url=url, steps=steps, log_bytes=log_bytes)
        policy = self._policy(work)
        began = self._world.clock.monotonic()
        try:
            ctx = services.context.run(body.stage_context, work, outputs, services)
            key = services.context.run(business_key, work, pipeline, spec, ctx)
            found, noted = (None, ()) if key is None else claim(self._store, work, pipeline, key)
        except AWAY:
            raise
        except BaseException as error:  # an error before the body comes from the application's code
            if is_end_of_process(error):
                raise
            failed = body.Called(error=error, called=False)
            before = self._judged(failed, services, policy, self._history(work, began), "retry")
            return self._saving.of_stage(work, outputs, mistake_before_body(before), services, None, go_on)[0]
        if isinstance(found, float):
            return self._saving.commit(work, lambda: self._store.postpone(work, found))
        if isinstance(found, Fenced):
            return found
        if isinstance(found, Succeeded | Over):
            return self._saving.of_stage(work, outputs, found, services, None, go_on, noted=noted)[0]
        if not self._owner.is_still(work.owner):
            return Fenced()  # the claim may have taken long, and a person may have settled the stage meanwhile
        called: body.Called | None = None
        try:
            with self._owner.interruption.of(ends_with_lease=(pipeline.name, spec.name) in self._end_with_lease):
                called = body.run_stage(self._call, spec.runner, ctx, services, spec.timeout)
            work = services.work  # with the number of the run after the steps that were saved
            on_unknown = work.plan.by_name[work.stage].on_unknown
            history = self._history(work, began)
            outcome = self._judged(called, services, policy, history, on_unknown)
            if isinstance(outcome, Again) and is_a(called.value, StageOutput) and called.value.pause is not None:
                outcome = self._asking.pause(work, spec, ctx, services, called.value.pause, outcome)
            ending, kept = self._saving.of_stage(work, outputs, outcome, services, key, go_on, history)
        except BaseException as error:
            self._call_observers_unsaved(ctx, called, error, services.context, services.at_end)
            raise
        self._call_observers(ctx, called, kept, ending, services.context, services.at_end)
        return ending

    def _call_observers(
        self,
        ctx: Any,
        called: body.Called,
        outcome: Outcome,
        ending: Ending,
        context: Context,
        asked: Sequence[Observer] = (),
    ) -> None:
        """Tell observers how an attempt ended. ``asked``: functions that the attempt itself registered."""
        if asked or self._observers:
            end = end_of(ctx, called, outcome, committed=not isinstance(ending, Fenced))
            call_observers(end, asked, self._observers, context, self._store)

    def _call_observers_unsaved(
        self,
        ctx: Any,
        called: body.Called | None,
        error: BaseException,
        context: Context,
        asked: Sequence[Observer] = (),
    ) -> None:
        """Tell observers of an attempt that was not saved: the database stayed away, or the work was taken over. Tells
        nobody when the process ends.
        """
        if not is_end_of_process(error) and (asked or self._observers):
            end = end_of(ctx, called or body.Called(error=error), None, committed=False)
            call_observers(end, asked, self._observers, context, self._store)

    def _history(self, work: Work, began: float) -> History:
        """``began``: when this attempt began, by this process's clock; its duration counts towards ``retry_for``."""
        elapsed = max(0.0, work.began_at - work.first_at) + self._world.clock.monotonic() - began
        return History(work.tries, work.delay, elapsed, self._world.clock.time())

    def _judged(
        self, called: body.Called, services: Services, policy: RetryPolicy, history: History, on_unknown: str
    ) -> Outcome:
        """The outcome of a call. Code of the returned value or of the error may run here, and may fail too."""
        try:
            outcome = apply_on_unknown(
                services.context.run(self._outcome, called, services, policy, history), on_unknown
            )
        except BaseException as why:
            if is_end_of_process(why):
                raise
            return unjudged(why)
        if services.holder is None or (isinstance(outcome, Succeeded) and not outcome.doubt):
            return outcome
        misused = services.holder.refused()
        return outcome if misused is None else mistake(misused, called.error)

    def _outcome(self, called: body.Called, services: Services, policy: RetryPolicy, history: History) -> Outcome:
        if is_a(called.error, StageCancelled):
            return Over(Failure(text_of(called.error), Category.PERMANENT, doubt=True), cause=Cause.CANCELLED)
        if called.error is not None:
            return outcome_of_error(called.error, policy, history, self._world.draw, called=called.called)
        ended = outcome_of_value(called.value, policy, history, self._world.draw, services.result_type)
        if isinstance(ended, AwaitsCallback) and not services.gave_url:
            ended = mistake(TypeError("StageOutput.wait() without ctx.callback_url(): nothing could end the wait"))
        outcome = limited(ended, self._limits.payload_bytes)
        if not called.called:
            return not_called(outcome)
        return in_doubt(outcome) if called.raised else outcome

    # --- an undo ------------------------------------------------------------------------------------------------------

    def _undo(self, work: Work, outputs: RunOutputs, go_on: Callable[[], bool]) -> Ending:
        pipeline = self._pipelines[work.run.pipeline]
        spec = pipeline.by_name.get(work.stage)
        undo = None if spec is None else spec.compensate
        policy = (None if undo is None else undo.retry) or pipeline.retry or self._retry
        key, began, ctx, called = None, self._world.clock.monotonic(), None, None
        context = own_context(work.run.id, log_bytes=self._limits.log_bytes)
        try:
            if spec is None or undo is None:
                raise TypeError(f"stage {work.stage!r} has no undo in this version of the pipeline")
            outcome = self._store.outcome_of(work.run.id, work.stage, work.item)
            ctx = context.run(body.undo_context, work, outputs, outcome)
            with self._owner.interruption.of(ends_with_lease=(pipeline.name, spec.name) in self._end_with_lease):
                action = undo_of(work, spec, undo.action, self._store, self._world, self._limits)
                called = body.call(action, ctx, spec.timeout, context)
            key = self._key_to_close(work, pipeline, spec, outputs)
            ended = context.run(self._undone, called, policy, self._history(work, began))
        except AWAY:
            raise
        except BaseException as error:
            if is_end_of_process(error):
                raise
            ended = outcome_of_error(error, policy, self._history(work, began), self._world.draw)
        try:
            ending, kept = self._saving.of_undo(logged(work, context), ended, key, go_on)
        except BaseException as error:
            if called is not None:
                self._call_observers_unsaved(ctx, called, error, context)
            raise
        if called is not None:
            self._call_observers(ctx, called, kept, ending, context)
        return ending

    def _undone(self, called: body.Called, policy: RetryPolicy, history: History) -> Outcome:
        if called.error is not None:
            return outcome_of_error(called.error, policy, history, self._world.draw)
        said = called.value if is_a(called.value, StageOutput) else None  # any other return value of an undo is ignored
        ended = outcome_of_value(said, policy, history, self._world.draw)
        if isinstance(ended, AwaitsCallback) or (said is not None and said.pause is not None):
            return mistake(TypeError("an undo can neither wait for a callback nor pause a limit"))
        return ended

    def _key_to_close(
        self, work: Work, pipeline: Pipeline[Any, Any], spec: StageSpec, outputs: RunOutputs
    ) -> BusinessKey | None:
        try:
            services = Services(self._store, work, is_async=False)
            ctx = services.context.run(body.stage_context, work, outputs, services)
            return services.context.run(business_key, work, pipeline, spec, ctx)
        except AWAY:
            raise
        except BaseException as error:
            if is_end_of_process(error):
                raise
            said = "run %s: the key of %s cannot be told any more; it runs out by itself"
            log.error(said, work.run.id, work.stage, exc_info=loggable(error))  # noqa: TRY400  # it may have none
            return None


def _claimant(
    owner: Owner,
    plans: Mapping[str, Plan],
    timeouts: Mapping[tuple[str, str], float],
    bounded: Callable[[], bool],
) -> Claimant:
    """Who begins. ``bounded``: whether a body of this thread that does not heed its timeout ends with its process."""
    return Claimant(owner.id, plans, timeouts if bounded() else {})


def _policy(pipelines: Mapping[str, Pipeline[Any, Any]], default: RetryPolicy, work: Work) -> RetryPolicy:
    pipeline = pipelines[work.run.pipeline]
    return pipeline.by_name[work.stage].retry or pipeline.retry or default
