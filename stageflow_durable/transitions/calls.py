"""Saved steps: what the body of a stage has done is saved while the body goes on, so that a later attempt gets the
result and does not do it again.

Only the owner of the attempt writes, under its fence; an attempt that was taken over can save nothing more. So of two
processes that make the same call, one saves, and the other is told that its work was taken over::

    owner A         begins the stage, makes the call … is paused … saves: refused, its fence is old
    sweep                                     takes the stage
    owner B                                      begins the stage, makes the call under the same key, saves

A call that can be undone has its row before it is made, as a stage has its saga step: what may have happened is undone.
"""

from __future__ import annotations

from typing import Any

from stageflow_durable.model.work import Fenced, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted
from stageflow_durable.transitions.rows import CallRow


def save_call(facts: Facts, work: Work, call: CallRow, told: dict[str, Any], *, doubt: bool = False) -> Change | Fenced:
    """Write a call of the attempt ``work``: what is about to be made (without ``saved_at``), what it brought, or that
    it was undone (``undone_at``); the times are filled in here. ``told``: what its event says of it. ``doubt``: an
    earlier try to write the same may have gone through.

    Fenced against a zombie whose strand was taken, and against a thread that still runs when its attempt is over.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    there = _there(facts, call) if doubt else None
    if there is not None and _stages_of(there) >= _stages_of(call):
        return draft.done()  # it did
    write(draft, work, call, told)
    if work.lost and call.saved_at is not None:
        draft.set_strand(work.strand, lost=0)  # it gets on: what kills its process is not what it has just done
    return draft.done()


def _there(facts: Facts, call: CallRow) -> CallRow | None:
    return next((row for row in facts.calls if (row.stage, row.call) == (call.stage, call.call)), None)


def _stages_of(call: CallRow) -> int:
    """How far it has come: begun, saved, undone."""
    return (call.saved_at is not None) + 2 * (call.undone_at is not None)


def write(draft: Draft, work: Work, call: CallRow, told: dict[str, Any]) -> None:
    """Insert a call, or save the result of one that was about to be made, or that it was undone."""
    about = {"stage": work.stage, "attempt": work.attempt, "step": call.name, "number": call.n, **told}
    if call.undone_at is not None:
        draft.set_call(call, undone_at=draft.clock)
        draft.emit("stage.step_undone", **about)
        return
    if call.saved_at is None:
        draft.add_call(call)
        draft.emit("stage.step_begun", **about)
        return
    if call.undoable:  # it has its row
        draft.set_call(call, attempt=call.attempt, result=call.result, saved_at=draft.clock)
    else:
        draft.add_call(call._replace(saved_at=draft.clock))
    draft.emit("stage.step_saved", **about)
