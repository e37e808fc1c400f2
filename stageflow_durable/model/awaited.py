"""Who awaits a run: what its row says of that, so that whoever changes the run knows whom to tell after the commit.

``runs.awaited_by`` is a list of entries, the latest first. An entry is a letter and the token of a process that
listens: ``r`` on Redis, ``p`` on PostgreSQL. A small letter asks for the run's end, a capital one for every change.
A process that is gone leaves its entry behind, and then nobody hears what is told.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

MOST = 10
"""Entries that a row keeps. Who is dropped looks by itself, from time to time."""

ENTRY_LENGTH = 17
_ENTRY = re.compile(r"([rp])([0-9a-f]{16})", re.IGNORECASE)

_ENDED = "."


class By(StrEnum):
    """How a process that awaits runs is told."""

    REDIS = "r"
    POSTGRESQL = "p"


class Listener(NamedTuple):
    """A process that listens; ``token``: 16 hexadecimal digits of its own."""

    by: By
    token: str

    def entry(self, *, follows: bool) -> str:
        """Its entry in the row of a run; ``follows``: it asks for every change."""
        return (self.by.upper() if follows else self.by.value) + self.token


class Told(NamedTuple):
    """What a listener is told: something of this run changed; ``ended``: it is at rest."""

    run_id: str
    ended: bool

    def text(self) -> str:
        """As it is sent."""
        return self.run_id + (_ENDED if self.ended else "")

    @classmethod
    def read(cls, text: str) -> Told:
        """Read what :meth:`text` wrote. Anybody may have sent it: it only says where to look."""
        return cls(text.removesuffix(_ENDED), text.endswith(_ENDED))


def listeners(awaited_by: str | None, *, ended: bool) -> list[Listener]:
    """Whom to tell of a change, by the text in the run's row; each once."""
    found = dict.fromkeys(
        Listener(By(kind.lower()), token)
        for kind, token in map(_parts, (awaited_by or "").split())
        if kind and (ended or kind.isupper())
    )
    return list(found)


def _parts(entry: str) -> tuple[str, str]:
    found = _ENTRY.fullmatch(entry)  # a text that was cut may end in half of one
    return ("", "") if found is None else (found[1], found[2].lower())
