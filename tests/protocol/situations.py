"""How a run may stand, each with the transactions that may meet there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stageflow_durable.model.status import ParkReason
from stageflow_durable.model.work import Refused, RetryDue
from stageflow_durable.store.values import StrandRef
from stageflow_durable.transitions.operate import Order
from tests.protocol.moves import (
    ASLEEP,
    BARE,
    DOUBTFUL,
    FORK,
    GUARDED,
    HALT,
    LINE,
    NO,
    PAST,
    PIVOT,
    RESTED,
    Line,
    World,
    nudge_for,
)

RUN, KEY = "R", "key"
Make = Callable[[World], None]


@dataclass(frozen=True)
class Situation:
    """How a run stands, and what may happen to it now.

    ``rivals``: groups of transactions that contradict each other: of any two, exactly one wins. ``core``: what is
    played in triples.
    """

    name: str
    make: Callable[[World], None]
    acts: tuple[str, ...]
    rivals: tuple[frozenset[str], ...]
    core: tuple[str, ...]

    def contradict(self, *names: str) -> bool:
        """Whether only one of them can win."""
        return any(group.issuperset(names) for group in self.rivals)


SITUATIONS: dict[str, Situation] = {}


def situation(acts: str, *, rivals: str = "", core: str = "") -> Callable[[Make], Make]:
    """Lists are written with commas, groups with a bar between them."""

    def add(make: Make) -> Make:
        name = make.__name__
        groups = tuple(frozenset(_names(group)) for group in rivals.split("|"))
        SITUATIONS[name] = Situation(name, make, _names(acts), groups, _names(core))
        return make

    return add


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@situation("enqueue A, enqueue B, fork b key", rivals="")
def nothing_yet(world: World) -> None:
    """A key that nobody has used; its fork takes the same one."""
    world.accept(LINE)
    world.begin("a")
    world.succeed("a")
    world.sql("UPDATE stageflow_runs SET key = NULL")


@situation(
    "begin a me, begin a other, begin_hinted a other, cancel, cancel_anyway, expire, fork a, nudged, unpublish a,"
    " mark_killed me, note, enqueue A",
    rivals="begin a me, begin a other, begin_hinted a other",
    core="begin a me, begin_hinted a other, cancel_anyway, nudged",
)
def ready(world: World) -> None:
    world.accept(LINE)
    world.sql("UPDATE stageflow_strands SET published_at = NULL")
    world.missed = next(iter(world.store.missed([StrandRef(RUN, "a", 0)])))


@situation(
    "begin a me, begin a other, begin_hinted a me, cancel_anyway, expire, note",
    core="begin a me, begin_hinted a me, cancel_anyway, expire",
)
def late(world: World) -> None:
    world.accept(LINE, deadline=PAST)


@situation(
    "succeed a, succeed a on, wait a, postpone a, fail a, fail a vouched, cancel, expire, fork a, recall a, report a,"
    " note, reveal, erase, renew me, mark_killed me, begin a other",
    rivals="succeed a, succeed a on, wait a, postpone a, fail a, fail a vouched",
    core="succeed a on, fail a, cancel",
)
def running(world: World) -> None:
    world.accept(LINE)
    world.begin("a")
    world.sql(f"UPDATE stageflow_runs SET deadline = {PAST}")


@situation(
    "succeed a, succeed a on, wait a, fail a, take a, take a 1, cancel, expire, begin a other 1, retire me",
    rivals="succeed a, succeed a on, wait a, fail a, take a, take a 1",
    core="succeed a on, take a, cancel, begin a other 1",
)
def orphaned(world: World) -> None:
    world.accept(LINE)
    world.begin("a", "gone")
    world.kill()


@situation(
    "succeed a on, renew me, mark_expired, take a, begin a other 1, wait a",
    core="succeed a on, renew me, mark_expired, take a",
)
def lease_over(world: World) -> None:
    world.accept(LINE)
    world.begin("a")
    world.sql("UPDATE stageflow_owners SET expires_at = 2 WHERE pid = 1")


@situation(
    "take a, succeed a, confirm gone, confirm_dead gone, mark_killed gone, retire gone, release gone, cancel",
    rivals="take a, succeed a | confirm gone, confirm_dead gone",
    core="take a, confirm gone, release gone",
)
def unconfirmed(world: World) -> None:
    """Its lease ran out, and its body may act."""
    world.accept(DOUBTFUL)
    world.begin("a", "gone")
    world.expire()


@situation(
    "confirm gone, confirm_dead gone, mark_killed gone, retire gone, release gone, cancel, note, skip a",
    rivals="confirm gone, confirm_dead gone",
    core="confirm gone, confirm_dead gone, release gone",
)
def undo_waits_for_an_end(world: World) -> None:
    unconfirmed(world)
    world.take("a")


@situation(
    "release gone, begin undo:a me, begin undo:a other, cancel, note",
    core="release gone, begin undo:a me, begin undo:a other",
)
def end_confirmed(world: World) -> None:
    undo_waits_for_an_end(world)
    assert world.store.confirm(world.owners["gone"], "its host")


@situation(
    "wake a, begin a me, begin a other, cancel, expire, fork a, mark_killed me",
    rivals="begin a me, begin a other",
    core="wake a, begin a me, cancel",
)
def waiting(world: World) -> None:
    world.accept(LINE)
    world.begin("a")
    assert isinstance(world.store.retry_later(world.works["a"], NO, 0.0, 0.0), RetryDue)


def _asleep(world: World, pipeline: Line) -> None:
    world.accept(pipeline)
    world.begin("a")
    world.succeed("a")


@situation(
    "wake a, begin a me, cancel, cancel_anyway, expire, compensate, fork pause, fork b, note, mark_killed me",
    rivals="cancel, compensate",
    core="wake a, begin a me, cancel_anyway",
)
def asleep(world: World) -> None:
    _asleep(world, ASLEEP)


@situation(
    "wake a, begin a me, cancel, cancel_anyway, compensate, fork pause, note",
    rivals="cancel, compensate",
    core="wake a, begin a me, cancel_anyway",
)
def sleep_is_over(world: World) -> None:
    _asleep(world, RESTED)


@situation(
    "succeed l, succeed l on, succeed r, succeed r on, fail l, fail r, wait l, postpone r, cancel, fork l, note,"
    " mark_killed me",
    rivals="succeed l, succeed l on, fail l, wait l | succeed r, succeed r on, fail r, postpone r",
    core="succeed l on, succeed r on, cancel, fail r",
)
def branches(world: World) -> None:
    world.accept(FORK)
    world.begin("l")
    world.begin("r", "other")


@situation(
    "take l, succeed l, succeed r on, fail r, cancel, begin l other 1",
    rivals="take l, succeed l | succeed r on, fail r",
    core="take l, succeed r on, cancel",
)
def one_branch_orphaned(world: World) -> None:
    world.accept(FORK)
    world.begin("l", "gone")
    world.begin("r")
    world.kill()


@situation(
    "succeed l on, succeed r on, fail l, wait l, postpone r, take r, cancel, cancel_anyway, begin l other",
    rivals="succeed l on, fail l, wait l | succeed r on, postpone r, take r",
    core="succeed l on, take r, succeed r on",
)
def stopping(world: World) -> None:
    world.accept(FORK)
    world.begin("l")
    world.begin("r", "gone")
    world.kill()
    world.store.order(Order(RUN, "cancel", "because", "somebody"))


@situation(
    "succeed a on, begin a me, cancel_anyway, expire, compensate, wait a, fail a",
    core="succeed a on, cancel_anyway, expire",
)
def before_the_pivot(world: World) -> None:
    world.accept(PIVOT)
    world.begin("a")


@situation("succeed a on, take a, cancel_anyway, fail a, fail a vouched, succeed a", core="")
def in_the_pivot(world: World) -> None:
    world.accept(PIVOT)
    world.begin("a")
    world.succeed("a")
    world.begin("a", "gone")
    world.kill()


def _undoing(world: World, pipeline: Line) -> None:
    world.accept(pipeline)
    for name in ("l", "r"):
        world.begin(name)
        world.succeed(name)
    world.begin("join")
    world.fail("join")


@situation(
    "begin undo:l me, begin undo:l other, begin undo:r other, cancel, note, fork l",
    rivals="begin undo:l me, begin undo:l other",
    core="begin undo:l me, begin undo:l other, begin undo:r other",
)
def undos_ready(world: World) -> None:
    _undoing(world, FORK)


def _both_undone_by(world: World, pipeline: Line, left: str) -> None:
    _undoing(world, pipeline)
    world.begin("undo:l", left)
    world.begin("undo:r", "other")


@situation(
    "undo_done undo:l on, undo_done undo:r on, undo_failed undo:l, undo_failed undo:r on, wait undo:l, postpone undo:r,"
    " cancel, note, compensate",
    rivals="undo_done undo:l on, undo_failed undo:l, wait undo:l |"
    " undo_done undo:r on, undo_failed undo:r on, postpone undo:r",
    core="undo_done undo:l on, undo_done undo:r on, undo_failed undo:r on",
)
def undos_running(world: World) -> None:
    _both_undone_by(world, FORK, "me")


@situation(
    "undo_done undo:l, undo_failed undo:l, undo_done undo:r, undo_failed undo:r, take undo:l, take undo:l 1,"
    " wait undo:r",
    rivals="undo_done undo:l, undo_failed undo:l, take undo:l, take undo:l 1 |"
    " undo_done undo:r, undo_failed undo:r, wait undo:r",
    core="undo_done undo:l, take undo:l 1, undo_failed undo:r",
)
def one_undo_orphaned(world: World) -> None:
    _both_undone_by(world, HALT, "gone")
    world.kill()


def _parked(world: World, reason: ParkReason) -> None:
    world.accept(LINE)
    world.begin("a")
    world.succeed("a")
    world.begin("a")
    world.fail("a", reason)


@situation(
    "resume, compensate, cancel, cancel_anyway, skip a, fork b, begin a me, begin a me 1, note, expire",
    rivals="resume, compensate, cancel, skip a",
    core="resume, compensate, begin a me 1, skip a",
)
def parked(world: World) -> None:
    _parked(world, ParkReason.BUG)


@situation(
    "settle b done, settle b not, compensate, cancel, resume, reveal, fork b, begin a me 2",
    rivals="settle b done, settle b not, compensate, cancel",
    core="settle b done, settle b not, compensate",
)
def in_doubt(world: World) -> None:
    world.accept(GUARDED)
    world.begin("a")
    world.succeed("a")
    world.begin("a", "gone")
    world.kill()
    world.take("a")


@situation(
    "resume, settle b done, settle b not, fork b, compensate, cancel, erase, begin a me 1",
    rivals="resume, settle b done, settle b not",
    core="resume, settle b done, fork b",
)
def failed(world: World) -> None:
    world.accept(BARE)
    world.begin("a")
    world.succeed("a")
    world.begin("a")
    world.fail("a")


@situation(
    "compensate, skip b, resume, fork a, begin undo:b me 1, note",
    rivals="compensate, skip b",
    core="compensate, skip b, begin undo:b me 1",
)
def undo_failed(world: World) -> None:
    _parked(world, ParkReason.BUG)
    world.store.order(Order(RUN, "compensate", "because", "somebody"))
    world.begin("undo:b")
    world.store.undo_failed(world.works["undo:b"], world.claimant("me"), NO, go_on=False)
    world.begin("undo:a")
    world.store.undo_done(world.works["undo:a"], world.claimant("me"), go_on=False)


# --- items ------------------------------------------------------------------------------------------------------------


@situation(
    "begin m#1 me, begin m#1 other, begin m#2 other, cancel_anyway, expire, note, begin m me",
    rivals="begin m#1 me, begin m#1 other",
    core="begin m#1 me, begin m#2 other, cancel_anyway",
)
def items_ready(world: World) -> None:
    """Two items of one group."""
    world.open_items(2)


@situation(
    "succeed m#1, fail m#1, wait m#1, take m#2, succeed m#2, begin m#3 other, cancel_anyway, recall m#1",
    rivals="succeed m#1, fail m#1, wait m#1 | succeed m#2, take m#2",
    core="succeed m#1, fail m#1, take m#2, cancel_anyway",
)
def items_running(world: World) -> None:
    """One is in hand, of another the owner is dead, the third is ready."""
    world.open_items(3)
    world.begin("m#1")
    world.begin("m#2", "gone")
    world.kill()


@situation(
    "succeed m#17, succeed m#18, wait m#18, fail m#17, cancel_anyway, begin z me",
    rivals="succeed m#17, fail m#17 | succeed m#18, wait m#18",
    core="succeed m#17, succeed m#18, cancel_anyway",
)
def last_items(world: World) -> None:
    """The last two, each the last of its group."""
    world.open_items(18)
    for item in range(1, 19):
        world.begin(f"m#{item}")
        if item < 17:
            world.succeed(f"m#{item}")


@situation(
    "succeed m#1, wait m#1, fail m#1, cancel_anyway, resume, expire",
    rivals="succeed m#1, wait m#1, fail m#1",
    core="succeed m#1, fail m#1, cancel_anyway",
)
def items_draining(world: World) -> None:
    """A run that stops, with one item in hand; another is done."""
    world.open_items(3)
    for item in ("m#1", "m#2"):
        world.begin(item)
    world.succeed("m#2")
    world.store.order(Order(RUN, "cancel", "because", "somebody"))


@situation(
    "undo_done undo:m#1, undo_failed undo:m#1, wait undo:m#1, begin undo:m#2 other, undo_done undo:m#2, cancel_anyway",
    rivals="undo_done undo:m#1, undo_failed undo:m#1, wait undo:m#1",
    core="undo_done undo:m#1, undo_failed undo:m#1, undo_done undo:m#2",
)
def items_undone(world: World) -> None:
    """The undos of both items that had begun are in hand."""
    world.open_items(3)
    for item in ("m#1", "m#2"):
        world.begin(item)
        world.succeed(item)
    world.store.order(Order(RUN, "cancel", "because", "somebody"))
    assert isinstance(world.store.begin(nudge_for("undo:m"), world.claimant("me")), Refused)
    for item in ("undo:m#1", "undo:m#2"):
        world.begin(item)
