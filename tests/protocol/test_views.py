"""A run is read without a lock, in several statements: whatever commits between them, no attempt is lost from sight."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import AttemptState
from stageflow_durable.model.work import Claimant, Done, Failure, RetryDue, Work
from stageflow_durable.state import schema
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Identity
from stageflow_durable.transitions.accept import NewRun
from tests.protocol.stepping import Stage

PLAN = Pipeline("two").stage("a", lambda _ctx: None).stage("b", lambda _ctx: None).plan

Ending = Callable[[SqlStore, Work, Claimant], object]


def succeeds(store: SqlStore, work: Work, claimant: Claimant) -> object:
    return store.succeed(work, claimant, "1", go_on=True)


def waits(store: SqlStore, work: Work, _claimant: Claimant) -> object:
    return store.retry_later(work, Failure("busy", "transient", doubt=True), 60.0, 60.0)


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("ends", [succeeds, waits])
def test_given_an_attempt_that_ends_while_a_run_is_read_then_it_is_seen_once_as_running_or_as_it_ended(
    postgres_url: str, ends: Ending, at: int
) -> None:
    schema.upgrade(postgres_url)
    stage = Stage(postgres_url, 2, optimistic=True)
    store = stage.sessions[1].store
    store.register([PLAN])
    (nudge,) = store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q")).nudges
    claimant = Claimant(store.join(Identity("host", 1, "boot"), 3600.0), {"two": PLAN}, {})
    work = store.begin(nudge, claimant)
    assert isinstance(work, Work)
    seen, ended = stage.interleave(
        (lambda store: store.run("R"), lambda store: ends(store, work, claimant)), at
    ).answers
    assert isinstance(ended, Done | RetryDue)
    (attempt,) = seen.stage("a").attempts
    assert attempt.n == 1
    assert attempt.state in (AttemptState.RUNNING, AttemptState.OK, AttemptState.RETRY)
    assert (attempt.state is AttemptState.RUNNING) == (attempt.ended_at is None)
    stage.close()
