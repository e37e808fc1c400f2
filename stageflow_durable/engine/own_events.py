"""Which events a stage's body may emit: none that would pass for one of the engine's or of a person's."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.store.vouched import AUDIT, ORIGIN

ENGINE_EVENTS = (
    "run",
    "stage",
    "work",
    "undo",
    "operator",
    "interceptor",
    "observer",
    "owner",
    "worker",
    "sweep",
    "audit",
    "engine",
)
"""What types of the engine's own events begin with, before a dot; ``stageflow`` is kept for later ones."""

_RESERVED = frozenset({*ENGINE_EVENTS, "stageflow"})
_ENGINE_FIELDS = ("actor", AUDIT, ORIGIN, "stage")


def own_event(event: str, data: Mapping[str, Any]) -> None:
    """Refuse an event of a body's that would pass for one of the engine's or of a person's. Raises InvalidKey,
    ConfigurationError.
    """
    valid_key(event, what="event type")
    # As a reader would take it: no look-alikes in full width, in capitals or behind a space or an invisible character.
    seen = "".join(char for char in unicodedata.normalize("NFKC", event) if char.isprintable()).strip().casefold()
    if seen.split(".")[0].strip() in _RESERVED:
        raise ConfigurationError(
            f"ctx.emit({event!r}): types that begin with {seen.split('.')[0]!r} are the engine's own; name yours after "
            "your application, as in ctx.emit('shop.booked')"
        )
    taken = [name for name in _ENGINE_FIELDS if name in data]
    if taken:
        raise ConfigurationError(
            f"ctx.emit({event!r}): the field {taken[0]!r} is filled in by the engine; give yours another name"
        )
