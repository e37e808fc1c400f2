"""Rows as transitions see them. Each row's columns are declared here only, in the order of the table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stageflow_durable.model.limits import PoolId


class StrandRow(NamedTuple):
    """A strand as stored. Times are seconds since the epoch by the database's clock.

    ``delay``, ``first_at`` and ``nudges`` mean something else in each state::

        state                 first_at               delay                           nudges
        ready, running        its first attempt      the delay that the retry        messages since it became ready
                              began                  policy drew last
        waiting: a retry      the same               the same                        0
        waiting: a sleep      it fell asleep         seconds to sleep                0
        waiting: a signal or  it began to wait       seconds at the most, or None    0
        an approval
        waiting: a callback   its first attempt      seconds until a retry if none   0
                              began                  comes, or None: no retry
        waiting: a worker     the same as ready      the same as ready               offers: > 0, it was handed back

    ``published_at``: since when a message is presumed under way; None: it is known that none is. ``wake_at``: when a
    waiting strand is due.
    """

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
"""Stands for "no time limit" where a time is expected: the body may act until its process ends, so the end of its owner
has to be confirmed. It is a date because earlier releases wait for it and show it.
"""


class AttemptRow(NamedTuple):
    """An attempt that is over, as far as decisions need it. ``may_act``: the end of its owner is not confirmed.
    ``delay``: of one that waits for the outside, for how many seconds at the most.
    """

    stage: str
    direction: str
    n: int
    state: str
    doubt: bool
    kill_by: float | None
    owner: str
    may_act: bool = True
    item: int = 0
    delay: float | None = None

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What identifies it, besides its run."""
        return self.stage, self.item, self.direction, self.n


class ItemRow(NamedTuple):
    """An item: its stage, its group, what it brings to its attempts, and the stage's encoded output of it (None: it has
    saved nothing).
    """

    item: int
    stage: str
    grp: int
    input: str
    delta: str | None = None
    saved_schema: int | None = None


class GroupRow(NamedTuple):
    """A group of items of one strand: how many there are, run now, are done, and failed for good while the others go on
    (``collects``). ``digest``: the sum of the codes of the events by which they ended.
    """

    strand: str
    grp: int
    total: int
    running: int
    done: int
    failed: int
    collects: bool
    digest: str

    @property
    def is_over(self) -> bool:
        """Whether each of them has ended."""
        return self.done + self.failed == self.total


class HeldKey(NamedTuple):
    """A business key that a stage of the run holds; its result is remembered for ``ttl_seconds``."""

    client_id: str
    operation: str
    key: str
    stage: str
    ttl_seconds: float


class SignalRow(NamedTuple):
    """A signal that came for a wait of the run. ``n``: which of those for that stage; ``payload``: encoded text;
    ``saved_schema``: the schema number of the pipeline's data when it came; ``consumed_at``: when the wait ended with
    it, or None while it is kept.
    """

    stage: str
    n: int
    key: str | None
    fingerprint: str
    payload: str
    saved_schema: int
    actor: str
    reason: str
    received_at: float
    consumed_at: float | None = None
    item: int = 0


class ApprovalRow(NamedTuple):
    """What somebody was asked to approve. ``n``: which of those at that stage; ``content``: encoded text, of which
    ``digest`` is the fingerprint. ``decision``: ``approved``, ``denied``, or None while nobody has decided;
    ``authenticated``: whether it is known that ``actor`` is who they say. ``consumed_at``: when the run went on with
    it, for better or worse.
    """

    stage: str
    n: int
    content: str
    digest: str
    asked_at: float
    decision: str | None = None
    actor: str | None = None
    authenticated: bool = False
    reason: str | None = None
    decided_at: float | None = None
    consumed_at: float | None = None
    item: int = 0


class LinkRow(NamedTuple):
    """A link by which one person may decide at ``stage``, once. ``token``: the hash of its token, which nobody can turn
    back into the link; ``actor``: whom it was made for; ``used_at``: when they decided by it, or None.
    """

    token: str
    stage: str
    actor: str
    made_by: str
    made_at: float
    expires_at: float
    used_at: float | None = None


class CallRow(NamedTuple):
    """A saved step of a stage, or a tool's call. ``call``: what identifies it, as a digest; ``n``: its number
    within its stage; ``fingerprint``: of its arguments. ``action`` and ``arguments`` (encoded text): of a tool's call.
    ``attempt``: which wrote it last. ``result``: encoded text; ``saved_at``: None while it is not known to have been
    made. ``undoable``: its undo is owed until ``undone_at``.
    """

    stage: str
    item: int
    call: str
    n: int
    name: str
    key: str | None
    fingerprint: str
    action: str | None
    arguments: str | None
    attempt: int
    result: str | None = None
    saved_at: float | None = None
    undoable: bool = False
    undone_at: float | None = None


class OwnerRow(NamedTuple):
    """The owner of a strand. ``dead_at``: when it was declared dead, or None; ``confirmed``: its end is confirmed."""

    id: str
    host: str
    pid: int
    dead_at: float | None
    confirmed: bool


class EndedOwner(NamedTuple):
    """An owner whose end is confirmed: by whom, and the reason if a person confirmed it."""

    id: str
    host: str
    pid: int
    confirmed_by: str | None
    reason: str | None


SlotKey = tuple[str, str, str, str, str, int]
"""What identifies a slot's row: limit, key, run, strand, stage and attempt."""


class SlotRow(NamedTuple):
    """A slot of a limit that an attempt of the strand holds, or, with ``attempt`` 0, that the strand waits for.

    ``rank``: the lower goes first; ``since``: since when it waits, or had waited. ``turn``: the key of another limit of
    the stage, among which the waiting take turns. Of one that waits: ``short``: there was none when it asked;
    ``behind``: the first limit of which there was none; ``offered_at``: when one became, or becomes, free for it;
    ``passed_at``: when a younger one was first let past. Of one that is held: ``until``: its attempt was lost, and may
    act until then.
    """

    name: str
    key: str
    run: str
    strand: str
    stage: str
    attempt: int
    gen: int
    owner: str | None
    rank: int
    since: float
    turn: str = ""
    short: bool = False
    behind: str = ""
    offered_at: float | None = None
    passed_at: float | None = None
    until: float | None = None

    @property
    def pool(self) -> PoolId:
        """Whose slots it is counted with."""
        return PoolId(self.name, self.key)

    @property
    def place(self) -> SlotKey:
        """What identifies it."""
        return self[:6]


class Pool(NamedTuple):
    """The slots of one limit and key, as far as a decision needs them: how many there are, how many are held, by turn,
    and some rows: the run's own, and of those that wait the ones that may be next. ``paused_until``: nothing is given
    before; 0.0: it is not paused.

    Of a rate limit ``rate`` says how many tokens come in a second, ``limit`` how many are kept at the most, and
    ``tokens`` how many there were at ``filled_at``; nothing of it is held.
    """

    limit: int
    held: Mapping[str, int]
    rows: tuple[SlotRow, ...]
    rate: float | None = None
    tokens: float = 0.0
    filled_at: float = 0.0
    paused_until: float = 0.0


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

OF_A_STAGE: dict[str, Any] = {"tries": 0, "lost": 0, "delay": None, "first_at": None, "nudges": 0}
"""What a strand has gathered at its stage, cleared: for the next stage, or because a person lets this one begin anew.
"""
