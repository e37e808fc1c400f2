"""Telling a person that a run needs one: once for each run and reason, and again only once somebody acted on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stageflow_durable.model.run import Event
from stageflow_durable.model.sinks import RunEvent, Sink
from stageflow_durable.model.status import ParkReason
from stageflow_durable.model.waits import PARKED_WORDS
from stageflow_durable.store.protocol import Store

TYPE = "attention"
"""The type of what is told."""

_ASKED = "approval.asked"
_ENDED = ("run.parked", "run.failed", "run.compensation_failed")
_BY_PEOPLE = ("operator.", "signal.")


class AttentionSink:
    """Tells ``target`` of runs that need a person: parked, failed, with an undo that failed, or asking for an approval.

    It is told an event of the type ``attention``, whose data has ``reason``, ``stage``, ``error`` and ``next``, the
    command to type.
    """

    kinds: tuple[str, ...] = (*_ENDED, _ASKED)

    def __init__(self, name: str, target: Sink, store: Store) -> None:
        self.name = name
        self._target, self._store = target, store

    def deliver(self, event: RunEvent) -> None:
        """Tell it, unless it was told of the same since somebody acted on the run."""
        reason = reason_of(event.type, event.data)
        if event.item or was_told(self._store.history(event.run_id), event.seq, reason):
            return
        stage, error = event.data.get("stage"), event.data.get("error")
        data = {"reason": reason, "stage": stage, "error": error, "next": f"stageflow show {event.run_id}"}
        self._target.deliver(replace(event, type=TYPE, data=data))

    def close(self) -> None:
        """Close what the target has open."""
        getattr(self._target, "close", lambda: None)()


def reason_of(kind: str, data: Mapping[str, Any]) -> str:
    """Why a person is needed, in words."""
    if kind == _ASKED:
        return f"{data.get('stage')} waits for an approval"
    if kind == "run.parked":
        parked = data.get("park_reason")
        return f"parked: {PARKED_WORDS[ParkReason(parked)] if parked in set(ParkReason) else 'waits for a decision'}"
    return kind.removeprefix("run.").replace("_", " ")


def was_told(history: Iterable[Event], seq: int, reason: str) -> bool:
    """Whether an event before number ``seq`` had the same reason, and nobody has acted on the run since then."""
    told = False
    for event in history:
        if event.seq >= seq:
            break
        if event.type.startswith(_BY_PEOPLE):
            told = False
        elif event.type in AttentionSink.kinds and reason_of(event.type, event.data) == reason:
            told = True
    return told
