"""Letting a strand stand again where it stood: it goes on waiting for what it waited for, or is published."""

from __future__ import annotations

from stageflow_durable.transitions.callback import keep_awaiting_callback
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.finish import advance
from stageflow_durable.transitions.groups import wait_for_items
from stageflow_durable.transitions.rows import StrandRow
from stageflow_durable.transitions.sleep import fall_asleep, sleep_on
from stageflow_durable.transitions.waiting import fulfil, keep_awaiting_signal, kept_for


def stand_again(draft: Draft, row: StrandRow) -> None:
    """Let a strand that was made ready go on. ``row``: the strand as it was before."""
    if wait_for_items(draft, row) or keep_awaiting_callback(draft, row):
        return
    signal = kept_for(draft, draft.strand(row.strand))
    if signal is not None:
        fulfil(draft, row, signal)
        advance(draft, row.strand, row.stage)
    elif not (sleep_on(draft, row) or keep_awaiting_signal(draft, row) or fall_asleep(draft, row.strand)):
        draft.publish(row.strand)
