"""What the scans of all stores share."""

from __future__ import annotations

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import Nudge
from stageflow_durable.store.values import Missed
from stageflow_durable.transitions.rows import StrandRow

DOUBLED = 12
"""After so many publications the patience with a message does not double any more."""

MOVE_SECONDS = 60.0
"""Within them all processes notice that the clock has moved: each renews four times a lease."""


def more(nudges: int) -> float:
    """By how much more time a message counts as lost after so many further publications."""
    return float(2 ** min(nudges, DOUBLED))


def missed_of(row: StrandRow, plan: Plan, seq: int, priority: int | None) -> Missed:
    """The message to publish again for a ready strand. Nothing is written before the broker has taken it, so that
    histories do not grow while the broker is away. ``seq``: the run's, or the item's; ``priority``:
    the run's.
    """
    links = 1 if row.item or row.direction == Phase.BACKWARD else plan.remaining_on_strand(row.stage)
    # The mark is the number of the event that will record it: for the gate in Redis it is no duplicate.
    nudge = Nudge(row.run, row.strand, row.gen, row.queue, seq + 1, links, priority, None, row.item)
    return Missed(nudge, row.published_at, row.nudges)
