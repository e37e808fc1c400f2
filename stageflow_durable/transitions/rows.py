"""Rows as decisions see them. The columns of a row are declared once, here, in the order of the table's columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple


class StrandRow(NamedTuple):
    """A strand as stored. Times are seconds since the epoch by the database's clock."""

    run: str
    strand: str
    direction: str
    stage: str
    state: str
    gen: int
    owner: str | None
    attempt: int
    tries: int
    lost: int
    delay: float | None
    first_at: float | None
    wake_at: float | None
    published_at: float | None
    nudges: int
    queue: str
    progress: str | None
    began_at: float | None
    kill_by: float | None
    waiting_for: str | None = None
    item: int = 0


UNTIL_CONFIRMED = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
"""In the place of a time until which a body may act: nothing ends it but its process, so that the end of its owner has
to be confirmed. A date, for earlier releases wait for it and show it.
"""


class AttemptRow(NamedTuple):
    """What decisions need of an attempt that is over. ``may_act``: nobody has confirmed that its owner has ended."""

    stage: str
    direction: str
    n: int
    state: str
    doubt: bool
    kill_by: float | None
    owner: str
    may_act: bool = True
    item: int = 0

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What identifies it, besides its run."""
        return self.stage, self.item, self.direction, self.n


class HeldKey(NamedTuple):
    """A business key that a stage of the run holds, and how many seconds its end will be remembered."""

    client_id: str
    operation: str
    key: str
    stage: str
    ttl_seconds: float


class OwnerRow(NamedTuple):
    """Who held a strand. ``dead_at`` is None while nobody declared it dead; ``confirmed``: its process was seen to
    end.
    """

    id: str
    host: str
    pid: int
    dead_at: float | None
    confirmed: bool


class EndedOwner(NamedTuple):
    """An owner whose end is confirmed: by whom, and why, where a person said so."""

    id: str
    host: str
    pid: int
    confirmed_by: str | None
    reason: str | None


NEW_STRAND = StrandRow(
    run="",
    strand="",
    direction="forward",
    stage="",
    state="ready",
    gen=0,
    owner=None,
    attempt=0,
    tries=0,
    lost=0,
    delay=None,
    first_at=None,
    wake_at=None,
    published_at=None,
    nudges=0,
    queue="",
    progress=None,
    began_at=None,
    kill_by=None,
)
"""A strand that nobody has begun."""
