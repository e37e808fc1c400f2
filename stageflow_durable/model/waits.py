"""Why a run does not move: what each of its strands waits for, derived from their rows and from the roster. Pure.

This is the only place that puts it into words: ``stageflow show``, ``runs``, ``runs --attention``, their JSON and
``describe().waits`` have them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from stageflow_durable.clock import as_moment, as_optional_moment
from stageflow_durable.masking import masked
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.roster import Missing
from stageflow_durable.model.run import AwaitedWorker, RunSummary, Wait, WaitKind
from stageflow_durable.model.status import ParkReason, Phase, RunStatus, StrandState, WaitingFor

PARKED_WORDS: Mapping[ParkReason, str] = {
    ParkReason.UNKNOWN: "outcome unknown",
    ParkReason.POISON: "kills its worker each time",
    ParkReason.DEFINITION: "definition changed",
    ParkReason.BUG: "has a bug",
    ParkReason.OPERATOR: "waits for a decision",
}
"""What is said of a parked run, or of the stage that it is parked for."""

WAITING_WORDS: Mapping[WaitingFor, str] = {
    WaitingFor.SIGNAL: "for a signal",
    WaitingFor.APPROVAL: "for an approval",
    WaitingFor.CALLBACK: "for its callback",
    WaitingFor.CHILD: "for a run that it started",
    WaitingFor.LIMIT: "for its turn",
    WaitingFor.WORKER: "for a worker",
    WaitingFor.ITEMS: "for its items",
}
"""What is said beside a stage that waits for more than its time."""

LATE_SECONDS = 5.0
"""How old a message is before it is said how many there are in its queue."""

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_KINDS = {
    WaitingFor.SIGNAL: WaitKind.SIGNAL,
    WaitingFor.APPROVAL: WaitKind.APPROVAL,
    WaitingFor.CALLBACK: WaitKind.CALLBACK,
    WaitingFor.CHILD: WaitKind.CHILD,
    WaitingFor.ITEMS: WaitKind.ITEMS,
    WaitingFor.LIMIT: WaitKind.LIMIT,
}


class Strand(NamedTuple):
    """The columns of a strand's row that say what it waits for. Times in seconds since the epoch."""

    stage: str
    direction: str
    state: str
    attempt: int
    tries: int
    delay: float | None
    first_at: float | None
    wake_at: float | None
    published_at: float | None
    nudges: int
    queue: str
    waiting_for: str | None


class Behind(NamedTuple):
    """Of which limit a stage waits for a slot: how many there are, are held, and are waited for before it; ``lost``:
    dead owners whose end nobody has confirmed, which therefore hold some of them. ``rate``: of a rate limit, how many
    begin in a second. ``due``: when its turn has come, where that is known; ``paused_until``: 0.0, or until when
    nothing is given. Times in seconds since the epoch.
    """

    pool: PoolId
    limit: int
    held: int
    before: int
    lost: tuple[str, ...] = ()
    rate: float | None = None
    due: float | None = None
    paused_until: float = 0.0


class About:
    """What has to be known besides the rows. ``now``: by the database's clock; ``sleeps``: the stages that are sleeps;
    ``missing``: why no live worker carries what is in a queue, or None; ``most``: attempts by stage, where the retry
    policies are known; ``end_at``: stands for a time that never comes; ``behind``: of which limits a stage waits for
    slots.
    """

    def __init__(
        self,
        now: datetime,
        sleeps: frozenset[str],
        missing: Callable[[str], Missing | None],
        most: Mapping[str, int],
        end_at: float,
        behind: Callable[[str], Sequence[Behind]] = lambda _stage: (),
    ) -> None:
        self.now = now
        self.sleeps = sleeps
        self.missing = missing
        self.most = most
        self.end_at = end_at
        self.behind = behind

    def moment(self, at: float) -> datetime | None:
        """A time of a row; None: none is set."""
        return None if at >= self.end_at else as_moment(at)

    def until(self, row: Strand) -> datetime | None:
        """When the strand is due; None: no time is set."""
        return None if row.wake_at is None or row.wake_at >= self.end_at else as_moment(row.wake_at)


def waits_of(run: RunSummary, strands: Iterable[Strand], about: About | None) -> tuple[Wait, ...]:
    """What the run waits for, what is soonest due first. Empty: it is at rest and needs nobody, or all of it runs.
    ``about``: None for a run that neither goes forward nor backward.
    """
    if run.status is RunStatus.PARKED:
        return (_parked(run),)
    if about is None:
        return ()
    rows = [row for row in strands if row.state in (StrandState.WAITING, StrandState.READY)]
    found = [_of(run, row, about) for row in rows]
    return tuple(sorted(found, key=lambda wait: (wait.until is None, wait.until or about.now, wait.stage or "")))


def _parked(run: RunSummary) -> Wait:
    at = f"{run.error_stage} " if run.error_stage else ""
    words = PARKED_WORDS[run.park_reason or ParkReason.OPERATOR]
    return Wait(
        WaitKind.PERSON,
        run.error_stage,
        None,
        run.finished_at or run.updated_at,
        f"{at}{words}",
        f"stageflow show {run.run_id}",
    )


def _of(run: RunSummary, row: Strand, about: About) -> Wait:
    if row.state == StrandState.READY or row.nudges > 0:
        return _for_a_worker(run, row, about)
    what, until = WaitingFor(row.waiting_for or WaitingFor.TIME), about.until(row)
    if what is WaitingFor.WORKER:
        return _for_an_end(run, row)
    if what is not WaitingFor.TIME:
        return _for_somebody(run, row, what, until, about)
    if row.direction == Phase.BACKWARD and not row.attempt:
        text = f"{_named(row)} waits until what was lost cannot act any more, {_due(until, about.now)}"
        return Wait(WaitKind.END, row.stage, until, run.updated_at, text)
    if row.stage in about.sleeps and not row.attempt:
        text = f"sleep {row.stage} until {_clock(until)}, {_due(until, about.now)}"
        return Wait(WaitKind.SLEEP, row.stage, until, as_optional_moment(row.first_at) or run.updated_at, text)
    most = about.most.get(row.stage) if row.direction == Phase.FORWARD else None
    text = f"try {row.tries + 1}{f' of {most}' if most else ''} of {_named(row)}, {_due(until, about.now)}"
    since = _before(until, row.delay) or run.updated_at
    return Wait(WaitKind.RETRY, row.stage, until, since, text)


def _for_somebody(run: RunSummary, row: Strand, what: WaitingFor, until: datetime | None, about: About) -> Wait:
    if what is WaitingFor.LIMIT and until is None:
        return _for_slots(run, row, about.behind(row.stage), about)
    end = f", {_due(until, about.now)} at the latest" if until is not None else ""
    if what is WaitingFor.LIMIT:
        text = f"{_named(row)} waits for its turn, which another run has; looked at again {_due(until, about.now)}"
    else:
        text = f"{_named(row)} waits {WAITING_WORDS[what]}{end}"
    return Wait(_KINDS[what], row.stage, until, run.updated_at, text)


def _for_slots(run: RunSummary, row: Strand, behind: Sequence[Behind], about: About) -> Wait:
    dues = [one.due for one in behind if one.due is not None]
    until = about.moment(max(dues)) if dues else None
    end = f", {_due(until, about.now)}" if until is not None and until > about.now else ""
    what = " and of ".join(_taken(one, about) for one in behind) or "a limit"
    by_rate = bool(behind) and all(one.rate is not None for one in behind)
    text = f"{_named(row)} waits for {'its turn by' if by_rate else 'a slot of'} {what}{end}"
    fixes = [f"stageflow workers confirm-dead {owner} --reason …" for one in behind for owner in one.lost]
    return Wait(WaitKind.LIMIT, row.stage, until, run.updated_at, text, "; ".join(fixes) or None)


def _taken(one: Behind, about: About) -> str:
    paused = about.moment(one.paused_until)
    if paused is not None and paused > about.now:
        return masked(f"{one.pool.text} (paused until {_clock(paused)})")
    if one.rate is not None:
        return masked(f"{one.pool.text} ({one.rate:g} a second{f', {one.before} before it' if one.before else ''})")
    lost = f", {len(one.lost)} by workers that are not confirmed dead" if one.lost else ""
    before = f", {one.before} before it" if one.before else ""
    return masked(f"{one.pool.text} ({one.held} of {one.limit} taken{lost}{before})")


def _for_an_end(run: RunSummary, row: Strand) -> Wait:
    text = undo_waits(run.awaits) if run.awaits else f"{_named(row)} waits until the end of a worker is confirmed"
    fix = "; ".join(confirmations(run.awaits)) or None
    return Wait(WaitKind.END, row.stage, None, run.updated_at, text, fix)


def _for_a_worker(run: RunSummary, row: Strand, about: About) -> Wait:
    missing, until = about.missing(row.queue), about.until(row)
    if missing is not None:
        text = f"{missing.message}; {_lasted(run.updated_at, about.now)}"
        return Wait(WaitKind.WORKER, row.stage, until, run.updated_at, text, missing.way_out, row.queue)
    if row.state == StrandState.WAITING:
        text = f"{_named(row)} is offered to the workers that know it again {_due(until, about.now)}"
        return Wait(WaitKind.WORKER, row.stage, until, run.updated_at, text, None, row.queue)
    if row.published_at is None:
        text = f"the message for {_named(row)} is still to be published to queue {row.queue}; a sweep does that"
        return Wait(WaitKind.MESSAGE, row.stage, None, run.updated_at, text, "stageflow doctor", row.queue)
    sent = as_moment(row.published_at)
    text = f"message for {_named(row)} published {_lasted(sent, about.now)} ago to queue {row.queue}"
    return Wait(WaitKind.MESSAGE, row.stage, None, sent, text, None, row.queue)


def waits_long(waits: Iterable[Wait], now: datetime) -> Iterator[str]:
    """Queues whose depth is worth saying, because a message waits there for long."""
    for wait in waits:
        late = wait.since is not None and now - wait.since > timedelta(seconds=LATE_SECONDS)
        if wait.kind is WaitKind.MESSAGE and wait.queue is not None and late:
            yield wait.queue


def with_depths(waits: Iterable[Wait], depths: Mapping[str, int]) -> tuple[Wait, ...]:
    """The same, with how many messages wait in the queues."""
    return tuple(
        replace(wait, text=f"{wait.text}, queue depth {depth}")
        if wait.kind is WaitKind.MESSAGE and (depth := depths.get(wait.queue or "")) is not None
        else wait
        for wait in waits
    )


def undo_waits(awaited: Iterable[AwaitedWorker]) -> str:
    """For whose end an undo waits, and what was lost with it."""
    lost = ", ".join(f"{one.host} (pid {one.pid}), lost in {one.stage}" for one in awaited)
    return f"its undo waits until a worker is confirmed dead: {lost}"


def confirmations(awaited: Iterable[AwaitedWorker]) -> list[str]:
    """The commands by which a person says that these processes have ended."""
    owners = dict.fromkeys(one.owner for one in awaited)
    return [f"stageflow workers confirm-dead {owner} --reason …" for owner in owners]


def _before(until: datetime | None, seconds: float | None) -> datetime | None:
    """So many seconds before then; None where no date is so far away, as a row may say."""
    if until is None or seconds is None:
        return None
    try:
        return until - timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return None


def _named(row: Strand) -> str:
    return f"undo of {row.stage}" if row.direction == Phase.BACKWARD else row.stage


def _due(until: datetime | None, now: datetime) -> str:
    if until is None:
        return "with no time set"
    return f"in {_lasted(now, until)}" if until > now else f"due for {_lasted(until, now)}"


def _lasted(since: datetime, until: datetime) -> str:
    """``12 s``, ``13 min``, ``5 h``, ``2 d``; never negative, clocks differ a little."""
    seconds = max(0.0, (until - since).total_seconds())
    return next((f"{int(seconds // size)} {unit}" for size, unit in _UNITS if seconds >= size), f"{int(seconds)} s")


def _clock(at: datetime | None) -> str:
    return "?" if at is None else at.strftime("%Y-%m-%d %H:%M:%S UTC")
