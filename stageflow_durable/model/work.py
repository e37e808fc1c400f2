"""The values that pass between engine and store: what a message says, the row of a run, who begins an attempt, one
begun attempt, how it failed, and what a transaction answers.

The words of the documents and the names of the fields and columns: the *fence* of a strand is ``gen``, the *number* of
a run ``seq``, the *code* of an event ``mac``, the *head* of a run the code of its last event, and the *mark* of a
message the number of its publication.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Missing
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, Phase, RunStatus

UNDO_PREFIX = "undo:"

ITEM_SIGN = "#"
"""Stands between a strand and its item in a message. No strand's name contains it."""


def address(strand: str, item: int) -> str:
    """A strand and its item, as messages name them."""
    return f"{strand}{ITEM_SIGN}{item}" if item else strand


class Hint(NamedTuple):
    """What a run looked like when its message was published: the number and the code of its last event, its definition,
    and the stage of its strand, which had not begun. It is used only if the database confirms that it still holds.
    """

    seq: int
    head: str
    definition: str
    stage: str

    @classmethod
    def read(cls, text: str) -> Hint | None:
        """Read what :meth:`text` wrote; None for anything else."""
        found = _HINT.fullmatch(text)
        return None if found is None else cls(int(found[1]), found[2], found[3], found[4])

    def text(self) -> str:
        """The text that a message carries."""
        return f"{self.seq} {self.head} {self.definition} {self.stage}"


_HINT = re.compile(r"([0-9]{1,9}) ([0-9a-f]{64}) ([0-9a-f]{24}) (.+)", re.DOTALL)


class Nudge(NamedTuple):
    """A message before it is published: look at this strand. It has no payload and does not say how far the run is;
    ``gen`` is the strand's fence.

    ``mark`` tells two publications for one strand apart; a message that is delivered twice has the same mark.
    ``links``: how many stages are left on the strand, the length of the chain to compile. ``hint`` saves a read if
    nothing has happened since. ``item``: which of the stage's items the strand carries; 0: it has none.
    """

    run_id: str
    strand: str
    gen: int
    queue: str
    mark: int = 0
    links: int = 1
    priority: int | None = None
    hint: Hint | None = None
    item: int = 0

    @property
    def address(self) -> str:
        """The strand and its item, as the message names them."""
        return address(self.strand, self.item)

    def marked(self, link: int) -> str:
        """The mark of one link of the chain, as the message carries it; that of the first link contains the hint."""
        mark = f"{self.mark}.{link}"
        return mark if link or self.hint is None else f"{mark} {self.hint.text()}"


class RunFacts(NamedTuple):  # a tuple, for speed: one is made of each row that is read
    """A row of ``runs``. ``input`` and ``metadata`` are encoded text; times are seconds by the database's clock.
    ``item_count``: how many items its stages have so far. ``awaited_by``: whom to tell of changes, see ``awaited``.
    ``erased_at``: when its values went; None: they are there.
    """

    id: str
    client_id: str
    pipeline: str
    version: str
    key: str | None
    fingerprint: str
    definition: str
    input: str
    input_schema: int
    metadata: str
    queue: str
    priority: int | None
    phase: Phase
    status: RunStatus
    cause: Cause | None
    park_reason: ParkReason | None
    error: str | None
    error_stage: str | None
    op_version: int
    pivot_passed: bool
    past_pivot: bool
    deadline: float | None
    seq: int
    head: str
    created_at: float
    updated_at: float
    finished_at: float | None
    parent: str | None = None
    item_count: int = 0
    awaited_by: str | None = None
    erased_at: float | None = None

    def is_late(self, clock: float) -> bool:
        """Whether its deadline stops it at ``clock`` (seconds since the epoch). Past the pivot no deadline does."""
        bound = self.phase is Phase.FORWARD and not self.pivot_passed
        return bound and self.deadline is not None and self.deadline <= clock


class Saved(NamedTuple):
    """An output as stored: encoded text (None for a skipped stage), and its schema number."""

    delta: str | None
    schema: int


class Given(NamedTuple):
    """What an item brings to its attempts: its input, as encoded text, and the output that it saved, for its undo."""

    input: str
    output: Saved | None = None


class Work(NamedTuple):  # a tuple, for speed: one is made for each stage
    """One begun attempt. ``(gen, owner, stage, attempt)`` is its fence: every write of its owner names all four.

    ``tries``: attempts that the retry policy counts, before this one; ``lost``: attempts whose process died; ``delay``:
    the previous delay in seconds; ``first_at``: when the stage first began; ``began_at``: when this attempt did;
    ``sent_at``: when the message that led here was published, or None. ``seq`` and ``head`` are the run's after the
    transaction that began it. ``saved``: the outputs of the run's stages by then, or None if they were not read.
    ``item``: which of the stage's items it is for, with what the item brings as ``given``; ``seq`` and ``head`` are
    then those of the item. 0: the stage has none. ``log``: what its code has logged, as it is stored, once it is over.
    """

    run: RunFacts
    plan: Plan
    strand: str
    direction: Phase
    stage: str
    gen: int
    owner: str
    attempt: int
    tries: int
    lost: int
    delay: float | None
    first_at: float
    began_at: float
    queue: str
    seq: int
    head: str
    sent_at: float | None = None
    saved: Mapping[str, Saved] | None = None
    item: int = 0
    given: Given | None = None
    log: str | None = None

    @property
    def undoing(self) -> bool:
        """Whether this is the undo of ``stage``."""
        return self.direction is Phase.BACKWARD


class Refusal(StrEnum):
    """Why a message found nothing to take."""

    GONE = "gone"
    NOT_READY = "not_ready"
    NOT_DUE = "not_due"
    FENCED = "fenced"
    STOPPED = "stopped"
    DEAD_OWNER = "dead_owner"
    HANDED_BACK = "handed_back"
    PARKED = "parked"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was taken: the message is acknowledged and dropped. ``nudges``: what has to be published nevertheless.

    After a hand-back ``about`` names pipeline and version, and ``missing`` says why no live worker can carry the run,
    or is None. ``keys_of``: the attempt that begins once the keys of its limits are told.
    """

    why: Refusal
    nudges: tuple[Nudge, ...] = ()
    about: str | None = None
    missing: Missing | None = None
    keys_of: Work | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A commit went through. ``granted``: the next stage, begun in it; ``nudges``: what to publish now."""

    granted: Work | None = None
    nudges: tuple[Nudge, ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class RetryDue:
    """The attempt is over, and another one is due: by ``nudge``, in ``delay`` seconds. ``nudges``: to publish now."""

    nudge: Nudge
    delay: float
    nudges: tuple[Nudge, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Fenced:
    """The strand was taken over: nothing was written, and this owner may not write."""


Ending = Done | RetryDue | Fenced
"""What the owner of an attempt gets back for its end."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """The owner that asks to begin work: its id, the plans that its process can run, by pipeline, and the time limits
    of bodies in seconds, by pipeline and stage. ``keys``: of the stage's limits, by name, where its functions
    were asked; ``unlimited``: one of them failed, so that no body is called and no slot is needed.
    """

    owner: str
    plans: Mapping[str, Plan]
    timeouts: Mapping[tuple[str, str], float]
    keys: Mapping[str, str] | None = None
    unlimited: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    ``doubt``: it may have had an effect that we do not know of. ``vouched``: the body said that neither this attempt
    nor an earlier one had an effect. ``called``: whether the body was called. ``trace``: where it raised.
    """

    error: str
    category: str
    doubt: bool
    state: AttemptState = AttemptState.FAILED
    vouched: bool = False
    called: bool = True
    trace: str | None = None


Kept = tuple[tuple[str, dict[str, object]], ...]
"""Events that the body asked for: type and data."""
