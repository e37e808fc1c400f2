"""Asking a stage's functions that are no body: until when it sleeps, what is to be approved, the keys of its limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from stageflow_durable.clock import Clock
from stageflow_durable.codec import encode_and_fingerprint
from stageflow_durable.duration import LONGEST, shown
from stageflow_durable.engine import body
from stageflow_durable.engine.body import Called
from stageflow_durable.engine.outcome import Again, Over, mistake, text_of
from stageflow_durable.engine.payload import within
from stageflow_durable.engine.process_end import is_end_of_process
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.engine.saving import AWAY, Saving
from stageflow_durable.engine.services import Services
from stageflow_durable.idempotency.keys import key_text
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.stage import StageSpec
from stageflow_durable.model.status import ParkReason
from stageflow_durable.model.work import Claimant, Done, Ending, Failure, Fenced, Nudge, Refusal, Refused, Work
from stageflow_durable.retry import Category
from stageflow_durable.retry.look import is_a
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import LimitWord
from stageflow_durable.transitions.approval import Asked

T = TypeVar("T")


class Asking:
    """Asks the functions of stages that only wait. ``claimant``: the owner, where the next stage may begin in place."""

    def __init__(
        self, store: Store, saving: Saving, clock: Clock, claimant: Callable[[], Claimant], payload_bytes: int
    ) -> None:
        self._store = store
        self._saving = saving
        self._clock = clock
        self._claimant = claimant
        self._payload_bytes = payload_bytes

    def until(self, work: Work, spec: StageSpec, outputs: RunOutputs) -> Ending:
        """Ask a sleep's function until when."""
        return self._ask(
            work,
            spec,
            outputs,
            lambda called: moment_of(called, self._clock.time()),
            lambda until, services: self._store.sleep(work, until, services.asked_for()),
        )

    def approval(self, work: Work, spec: StageSpec, outputs: RunOutputs, go_on: Callable[[], bool]) -> Ending:
        """Ask an approval's function what is to be approved."""
        return self._ask(
            work,
            spec,
            outputs,
            lambda called: content_of(called, work.stage, self._payload_bytes),
            lambda asked, services: self._store.ask(work, asked, self._claimant(), services.asked_for(), go_on=go_on),
        )

    def keys_and_begin(self, nudge: Nudge, work: Work, pipelines: Mapping[str, Pipeline[Any, Any]]) -> Work | Refused:
        """Ask for the keys of the stage's limits, and begin with them. Where a function fails, the run is parked as a
        bug. ``work``: the attempt that would begin.
        """
        pipeline = pipelines[work.run.pipeline]
        spec, outputs = pipeline.by_name[work.stage], RunOutputs(self._store, pipeline)
        services = Services(self._store, work, is_async=body.is_async(spec.runner), only_asked=True)
        try:
            keys = services.context.run(_keys, work, spec, outputs, services)
        except AWAY:
            raise
        except BaseException as error:
            if is_end_of_process(error):
                raise
            begun = self._store.begin(nudge, replace(self._claimant(), unlimited=True))
            if isinstance(begun, Refused):
                return begun
            self._saving.of_question(begun, unanswered(error), outputs, services)
            return Refused(Refusal.PARKED)
        finally:
            services.abandon()
        return self._store.begin(nudge, replace(self._claimant(), keys=keys))

    def pause(self, work: Work, spec: StageSpec, ctx: Any, services: Services, name: str, again: Again) -> Again | Over:
        """Pause a limit of the stage until it is tried again. A name that it does not have parks the run as a bug.
        While the store is away there is no pause: the retry that has to be saved waits for it.
        """
        limit = next((one for one in spec.limits if one.name == name), None)
        if limit is None:
            known = ", ".join(one.name for one in spec.limits) or "none"
            return mistake(TypeError(f"pause={shown(name)}: stage {work.stage} has no such limit; it has: {known}"))
        try:
            key = None if limit.key is None else services.context.run(limit.key, ctx)
            until = self._store.clock() + again.delay
            said = f"{work.run.pipeline}: stage {work.stage} asked for it"
            self._store.say_of_limit(LimitWord(name, key, said, paused_until=until, longer=True))
        except AWAY:
            pass
        except Exception as error:  # noqa: BLE001  # the application's function
            return mistake(error)
        return again

    def _ask(
        self,
        work: Work,
        spec: StageSpec,
        outputs: RunOutputs,
        read: Callable[[Called], T],
        save: Callable[[T, Services], Done | Fenced],
    ) -> Ending:
        """Ask the function of a stage that only waits, and save its answer. It is no body: its error parks the run as a
        bug, and no interceptor wraps it.
        """
        services = Services(self._store, work, is_async=body.is_async(spec.runner), only_asked=True)
        try:
            ctx = services.context.run(body.stage_context, work, outputs, services)
        except AWAY:
            raise
        except BaseException as error:
            if is_end_of_process(error):
                raise
            called = Called(error=error, called=False)
        else:
            called = body.run_stage(body.call, spec.runner, ctx, services, None)
        services.abandon()
        try:
            answer = read(called)
        except BaseException as error:  # the function's own, also where it says that a database is away
            if is_end_of_process(error):
                raise
            return self._saving.of_question(work, unanswered(error), outputs, services)
        return self._saving.commit(work, lambda: save(answer, services))


def _keys(work: Work, spec: StageSpec, outputs: RunOutputs, services: Services) -> dict[str, str]:
    ctx = body.stage_context(work, outputs, services)
    return {
        limit.name: key_text(limit.key(ctx), what=f"what key= of limit {limit.name} gave")
        for limit in spec.limits
        if limit.key is not None
    }


def moment_of(called: Called, now: float) -> float:
    """The moment, in seconds since the epoch as ``now``. Raises what the function raised, TypeError for what is no
    aware datetime, ValueError for one that lies too far ahead.
    """
    if called.error is not None:
        raise called.error
    given = called.value
    if not is_a(given, datetime) or given.tzinfo is None:
        raise TypeError(f"until= has to give an aware datetime, not {shown(given)}")
    until = given.timestamp()
    if not until - now <= LONGEST:  # nor where it is no number
        raise ValueError(f"until= gave {shown(given)}, which lies more than ten years ahead")
    return until


def content_of(called: Called, stage: str, limit: int) -> Asked:
    """What is to be approved. Raises what the function raised; UnsavableValue for what is no JSON, InvalidInput for
    what is larger than ``limit`` bytes.
    """
    if called.error is not None:
        raise called.error
    text, digest = encode_and_fingerprint(called.value, None, "of")
    return Asked(within(text, called.value, limit, f"of= of {stage}", "of"), digest)


def unanswered(error: BaseException) -> Over:
    """What follows where the function does not say it: a person fixes it and resumes. Nothing has been done."""
    failure = Failure(text_of(error), Category.BUG, doubt=False, vouched=True)
    return Over(failure, park=ParkReason.BUG, error=error)
