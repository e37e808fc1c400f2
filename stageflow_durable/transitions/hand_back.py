"""Handing back: a message reached a worker that does not know its run's definition, in a rolling deploy or on a queue
that several applications share.

A hand-back is neither an attempt nor an event. While a live worker knows the definition, the strand is offered again
at once, then after some seconds. While none does it rests, and a worker that knows it wakes it when it joins.
"""

from __future__ import annotations

from stageflow_durable.model.roster import Need
from stageflow_durable.model.status import StrandState, WaitingFor
from stageflow_durable.model.work import Refusal, Refused
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.rows import StrandRow

AT_ONCE = 3
"""How often a strand is offered again without a pause, while a live worker knows it."""

LONGEST_SECONDS = 4.0
"""The longest pause while a live worker knows it: that worker may be busy, and those that do not know it idle."""

RESTS_SECONDS = 60.0
"""How long it rests while no live worker knows it."""

MOST_NUDGES = 7
"""The count stops here: it also says after how long a message counts as lost."""


def hand_back(draft: Draft, row: StrandRow) -> Refused:
    """Leave the strand to a worker that knows its run's definition: offer it again, or let it rest."""
    run, known = draft.run, draft.facts.roster
    definitions = draft.facts.definitions
    newest = max(definitions, key=lambda one: definitions[one], default=run.definition)
    missing = known.missing(Need(run.pipeline, run.version, frozenset({run.definition, newest}), row.queue))
    nudges = min(row.nudges + 1, MOST_NUDGES)
    about = f"{run.pipeline} v{run.version}"
    if missing is None and not known.silent and row.nudges < AT_ONCE:
        draft.set_strand(row.strand, state=StrandState.READY, published_at=draft.clock, nudges=nudges, **AWAKE)
        draft.publish(row.strand, offer_mark(draft.clock))
        return Refused(Refusal.HANDED_BACK, about=about)
    pause = RESTS_SECONDS / 2 if missing is not None else _pause(row.nudges, silent=known.silent)
    draft.wait(row.strand, WaitingFor.WORKER, draft.clock + pause, nudges=nudges)
    return Refused(Refusal.HANDED_BACK, about=about, missing=missing)


def _pause(nudges: int, *, silent: bool) -> float:
    """Seconds until it is offered again. ``silent``: a live worker of an older release has no profile, so it is not
    known whether any worker knows the definition.
    """
    return min(RESTS_SECONDS, 5.0 * 2**nudges) if silent else min(LONGEST_SECONDS, 2.0 ** max(nudges - AT_ONCE, 0))


def offer_mark(clock: float) -> int:
    """The mark of a message that offers a strand again. A hand-back has no event, so the mark comes from the clock:
    else the gate in Redis would take the message for a duplicate of the one before.
    """
    return int(clock * 1000) % 10**9


def is_handed_back(row: StrandRow) -> bool:
    """Whether the strand waits because it was handed back: no other wait has a count of nudges."""
    return row.state == StrandState.WAITING and row.nudges > 0
