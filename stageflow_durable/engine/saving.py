"""Saving how an attempt ended: its outcome, or if that cannot be saved a substitute, so that every attempt ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from stageflow_durable.clock import World
from stageflow_durable.engine.attempt_log import log_failure
from stageflow_durable.engine.lease import Owner
from stageflow_durable.engine.outcome import (
    Again,
    AwaitsCallback,
    History,
    Outcome,
    Over,
    Succeeded,
    in_ascii,
    mistake,
    outcome_of_error,
    text_of,
)
from stageflow_durable.engine.process_end import is_end_of_process
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.engine.services import Services, logged
from stageflow_durable.engine.tracing import traced
from stageflow_durable.errors import SchemaBehind, StoreUnavailable
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.work import Claimant, Done, Ending, Kept, Work
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import BusinessKey

log = logging.getLogger("stageflow.executor")
T = TypeVar("T")

AWAY = (StoreUnavailable, SchemaBehind)
"""What says nothing about an outcome: the database is away, or not yet upgraded."""


class SessionLost(StoreUnavailable):
    """A stage's own transaction was lost with its connection."""


def never() -> bool:
    """Nothing is begun in place."""
    return False


class Saving:
    """Saves how the attempts of one owner ended. ``claimant``: that owner, where the next stage may begin in place;
    ``policy``: the retry policy of an attempt; ``hold_seconds``: how long a commit is tried while the database is away.
    """

    def __init__(
        self,
        store: Store,
        owner: Owner,
        world: World,
        *,
        claimant: Callable[[], Claimant],
        policy: Callable[[Work], RetryPolicy],
        hold_seconds: float,
    ) -> None:
        self._store = store
        self._owner = owner
        self._world = world
        self._claimant = claimant
        self._policy = policy
        self._hold_seconds = hold_seconds

    def of_stage(
        self,
        work: Work,
        outputs: RunOutputs,
        outcome: Outcome,
        services: Services,
        key: BusinessKey | None,
        go_on: Callable[[], bool],
        history: History | None = None,
        noted: Kept = (),
    ) -> tuple[Ending, Outcome]:
        """Save the outcome of a stage, or the error that kept it from being saved; returns what became of the attempt,
        and what was saved. ``noted``: events that the engine adds.

        If the body wrote through its session, such an error counts as the body's own. Any other one parks the run, and
        the body is not called again.
        """
        if isinstance(outcome, Succeeded) and outcome.doubt:
            services.abandon()  # the body raised: roll back what it wrote through its session
        written = services.holder is not None

        def save(this: Outcome) -> Ending:
            return self._save_once(work, outputs, this, services, key, go_on if this is outcome else never, noted)

        def substitute(error: BaseException) -> Outcome:
            if written and history is not None:
                return outcome_of_error(error, self._policy(work), history, self._world.draw)
            services.events.clear()
            return mistake(error)

        return save_with_fallbacks(work, outcome, save, substitute)

    def of_undo(
        self, work: Work, outcome: Outcome, key: BusinessKey | None, go_on: Callable[[], bool]
    ) -> tuple[Ending, Outcome]:
        """Save the outcome of an undo, in the same way. ``key``: the business key of its stage, to be closed."""
        return save_with_fallbacks(work, outcome, lambda this: self._save_undo_once(work, this, key, go_on), mistake)

    def of_question(self, work: Work, outcome: Over, outputs: RunOutputs, services: Services) -> Ending:
        """Save that the function of a stage that only waits did not answer."""
        return save_with_fallbacks(
            work, outcome, lambda this: self._save_once(work, outputs, this, services, None, never), mistake
        )[0]

    def _save_once(
        self,
        work: Work,
        outputs: RunOutputs,
        outcome: Outcome,
        services: Services,
        key: BusinessKey | None,
        go_on: Callable[[], bool],
        noted: Kept = (),
    ) -> Ending:
        work, events = logged(work, services.context), (*services.asked_for(), *noted)
        if isinstance(outcome, Succeeded):
            done = self.commit(
                work,
                lambda: self._store.succeed(
                    work,
                    self._claimant(),
                    outcome.delta,
                    skipped=outcome.skipped,
                    replayed=outcome.replayed,
                    doubt=outcome.doubt,
                    events=events,
                    go_on=go_on(),
                    key=key,
                    session=services.holder,
                ),
                give_up=None if services.holder is None else services.abandon,
            )
            if isinstance(done, Done):
                outputs.add(work, outcome.delta)
                services.committed()
            return done
        if isinstance(outcome, AwaitsCallback):
            return self._await_callback(work, outcome, services, events)
        services.abandon()
        if isinstance(outcome, Again):
            return self._commit_and_log(
                work,
                outcome,
                lambda: self._store.retry_later(work, outcome.failure, outcome.delay, outcome.drawn, events),
            )
        return self._commit_and_log(
            work,
            outcome,
            lambda: self._store.fail(
                work,
                outcome.failure,
                cause=outcome.cause,
                park=outcome.park,
                exhausted=outcome.exhausted,
                events=events,
                key=key,
            ),
        )

    def _await_callback(self, work: Work, outcome: AwaitsCallback, services: Services, events: Kept) -> Ending:
        expired = outcome.expired
        retry_after = expired.drawn if isinstance(expired, Again) else None
        done = self.commit(
            work,
            lambda: self._store.await_callback(work, outcome.timeout, retry_after, events, services.holder),
            give_up=None if services.holder is None else services.abandon,
        )
        if isinstance(done, Done):
            services.committed()
        return done

    def _save_undo_once(
        self, work: Work, outcome: Outcome, key: BusinessKey | None, go_on: Callable[[], bool]
    ) -> Ending:
        if isinstance(outcome, Succeeded):
            return self.commit(work, lambda: self._store.undo_done(work, self._claimant(), go_on=go_on(), key=key))
        if isinstance(outcome, Again):
            return self._commit_and_log(
                work, outcome, lambda: self._store.retry_later(work, outcome.failure, outcome.delay, outcome.drawn)
            )
        assert not isinstance(outcome, AwaitsCallback)  # an undo cannot wait
        return self._commit_and_log(
            work, outcome, lambda: self._store.undo_failed(work, self._claimant(), outcome.failure, go_on=go_on())
        )

    # --- committing ---------------------------------------------------------------------------------------------------

    def _commit_and_log(self, work: Work, outcome: Again | Over, save: Callable[[], Ending]) -> Ending:
        return log_failure(work, outcome, self.commit(work, save))

    def commit(self, work: Work, save: Callable[[], T], *, give_up: Callable[[], None] | None = None) -> T | Done:
        """Commit by ``save``; while the database is away, keep the outcome and try again. A commit whose answer was
        lost is looked up by its attempt. ``give_up``: closes the body's own transaction, which cannot be committed
        twice.
        """
        until = self._world.clock.monotonic() + self._hold_seconds
        pause, asked = 0.1, False
        while True:
            try:
                found = self._store.recall(work, self._owner.id) if asked else False
                if found is not False:
                    return Done(granted=found) if isinstance(found, Work) else Done()
                if asked and give_up is not None:
                    # The body's session was lost with its connection, so the body has to run again.
                    raise SessionLost(f"run {work.run.id}: the session of stage {work.stage} was lost; it runs again")
                return save()
            except SessionLost:
                raise
            except StoreUnavailable:
                if self._world.clock.monotonic() > until:
                    raise
                asked = True
                if give_up is not None:
                    give_up()  # its locks would block the look-up
                self._world.clock.sleep(pause)
                pause = min(1.0, pause * 2)


def save_with_fallbacks(
    work: Work,
    outcome: Outcome,
    save: Callable[[Outcome], Ending],
    substitute: Callable[[BaseException], Outcome],
) -> tuple[Ending, Outcome]:
    """Save ``outcome``; returns what became of it, and what was saved. Where saving raises: a failure in ASCII, for a
    database whose encoding lacks its characters; else what ``substitute`` makes of the error. Raises what the database
    raises about either, and what ends the process.
    """
    try:
        return save(outcome if isinstance(outcome, Succeeded) else traced(outcome)), outcome
    except AWAY:
        raise
    except BaseException as error:
        if is_end_of_process(error):
            raise
        return _otherwise(work, outcome, error, save, substitute)


def _otherwise(
    work: Work,
    outcome: Outcome,
    error: BaseException,
    save: Callable[[Outcome], Ending],
    substitute: Callable[[BaseException], Outcome],
) -> tuple[Ending, Outcome]:
    ways: list[Callable[[], Outcome]] = [lambda: substitute(error), lambda: in_ascii(mistake(error))]
    if isinstance(outcome, Again | Over):
        ways.insert(0, lambda: in_ascii(outcome))
    else:
        _log(work, error)
    for way in ways[:-1]:
        try:
            return save(traced(found := way())), found
        except AWAY:
            raise
        except Exception as again:  # noqa: BLE001  # the next way is plainer; what the last raises is the database's own
            _log(work, again)
    found = ways[-1]()
    return save(traced(found)), found


def _log(work: Work, error: BaseException) -> None:
    said, why = "run %s: the outcome of stage %s could not be saved: %s", text_of(error)
    log.error(said, work.run.id, work.stage, why, exc_info=loggable(error))
