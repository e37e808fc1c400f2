"""Where a process may die: before and after each transaction and each publication.

A fault is raised at a *point*, named by what is called there (``"begin"``, ``"succeed"``, ``"fail"``, ``"take"`` …:
the methods of :class:`stageflow_durable.store.protocol.Store`; ``"publish"``) and by whether its effect is still to
come or has happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any, Literal, NamedTuple, cast

from stageflow_durable.engine.process_end import ProcessEnds
from stageflow_durable.engine.services import Services
from stageflow_durable.store.protocol import Accepting, Carrying, Operating, Owning, Recovering, Store

When = Literal["before", "after"]


class Crash(ProcessEnds):
    """The process is dead: nothing catches it, nothing is tidied up.

    Raised at a crash point; a stage's body that raises it dies there.
    """


class Point(NamedTuple):
    """A place in the course of things: before or after a call."""

    when: When
    call: str


@dataclass(slots=True)
class _Plan:
    point: Point
    number: int
    action: Callable[[], object] | None = None
    error: BaseException | None = None


@dataclass(slots=True)
class Faults:
    """What goes wrong, and where.

    ``trace`` lists every point that was reached, in order. ``watch`` is called at each of them, before anything is
    raised there: to check what has to hold at every step. Reads have a point before them that is in neither: dying
    there is like dying at the point before.
    """

    trace: list[Point] = field(default_factory=list)
    watch: Callable[[Point], None] = lambda _point: None
    _plans: list[_Plan] = field(default_factory=list)
    _steps: dict[int, BaseException] = field(default_factory=dict)

    def at(self, when: When, call: str, *, number: int = 1, error: BaseException | None = None) -> None:
        """Raise ``error`` (left out: :class:`Crash`) at this point, the ``number``-th time from now on that it is
        reached.
        """
        self._plans.append(_Plan(Point(when, call), number, error=error or Crash(f"{when} {call}")))

    def meanwhile(self, when: When, call: str, action: Callable[[], object], *, number: int = 1) -> None:
        """Call ``action`` at this point, the ``number``-th time from now on that it is reached: what others do while
        the process that got there stands still.
        """
        self._plans.append(_Plan(Point(when, call), number, action))

    def at_step(self, number: int, error: BaseException | None = None) -> None:
        """Raise at the ``number``-th point of all, counted from 0 as in ``trace``: to try every crash point of a
        run, one after another.
        """
        self._steps[number] = error or Crash(f"at step {number}")

    def clear(self) -> None:
        """Forget what was planned."""
        self._plans.clear()
        self._steps.clear()

    def reach(self, when: When, call: str) -> None:
        """Note that a point is reached, and do what is planned there."""
        point = Point(when, call)
        self.trace.append(point)
        self.watch(point)
        self._perform(point, self._steps.pop(len(self.trace) - 1, None))

    def reach_read(self, call: str) -> None:
        """Do what is planned before a read."""
        self._perform(Point("before", call))

    def _perform(self, point: Point, error: BaseException | None = None) -> None:
        here = [plan for plan in self._plans if plan.point == point]
        for plan in here:
            plan.number -= 1
        due = [plan for plan in here if not plan.number]
        self._plans = [plan for plan in self._plans if plan.number]
        for plan in due:
            if plan.action is not None:
                plan.action()
        error = next((error for error in (error, *(plan.error for plan in due)) if error is not None), None)
        if error is not None:
            raise error


_SEE = ("facts", "full_id", "run", "summaries", "stuck", "history", "workers", "outputs", "phase", "outcome_of")
_ABOUT_OWNERS = ("unmoved", "may_judge", "awaited", "runs_waiting_for", "unconfirmed")
_ABOUT_WORKERS = ("roster", "waits", "strangers", "unserved")
_ABOUT_SIGNALS = ("plan", "waiting_for_signal", "unapproved", "link")
_ABOUT_MESSAGES = ("overdue", "undelivered", "missed")
_ABOUT_WHO_AWAITS = ("announce_by", "note_awaiting", "stand", "at_rest", "notify", "listen")
_ABOUT = (*_SEE, "calls", *_ABOUT_OWNERS, *_ABOUT_WORKERS, *_ABOUT_SIGNALS, *_ABOUT_MESSAGES, *_ABOUT_WHO_AWAITS)
READS = frozenset({*_ABOUT, "after_commit"})
"""Methods of a store that change nothing: dying there is like dying at the point before."""

_OPEN = frozenset({"open_session", "before_joining", "joined"})
"""What only begins: the transactions within have points of their own, or none."""


class StoreWithPoints:
    """A store as one process reaches it: ``reach`` is called before and after each of its transactions, and
    ``reach_read`` before each read. What neither is (its database) is the store's own.
    """

    def __init__(self, store: Store, reach: Callable[[When, str], object], reach_read: Callable[[str], object]) -> None:
        self._store = store
        self._reach = reach
        self._reach_read = reach_read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _transaction(name: str) -> Callable[..., Any]:
    def call(self: StoreWithPoints, *given: Any, **options: Any) -> Any:
        self._reach("before", name)
        answer = getattr(self._store, name)(*given, **options)
        self._reach("after", name)
        return answer

    return call


def _read(name: str) -> Callable[..., Any]:
    def call(self: StoreWithPoints, *given: Any, **options: Any) -> Any:
        self._reach_read(name)
        return getattr(self._store, name)(*given, **options)

    return call


for _part in (Accepting, Carrying, Owning, Recovering, Operating, Store):
    for _name, _member in vars(_part).items():
        if callable(_member) and not _name.startswith("_") and _name not in READS | _OPEN:
            setattr(StoreWithPoints, _name, _transaction(_name))
for _name in READS:
    setattr(StoreWithPoints, _name, _read(_name))


def with_points(store: Store, reach: Callable[[When, str], object], reach_read: Callable[[str], object]) -> Store:
    """The store behind a :class:`StoreWithPoints`, which has all that it has."""
    return cast("Store", StoreWithPoints(store, reach, reach_read))


def with_crash_points(store: Store, faults: Faults) -> Store:
    """A store with crash points around each of its transactions; a read raises what is planned before it."""
    return with_points(store, faults.reach, faults.reach_read)


def bury(crash: Crash) -> None:
    """End what a dead process held open, as the operating system would: the transaction of the body that it died in."""
    for frame, _line in walk_tb(crash.__traceback__):
        services = frame.f_locals.get("services")
        if isinstance(services, Services):
            services.abandon()
    crash.__traceback__ = None
