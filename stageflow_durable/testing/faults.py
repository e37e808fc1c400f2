"""Where a process may die: before and after each transaction and each publication.

A fault is raised at a *point*, named by what is called there (``"begin"``, ``"succeed"``, ``"wait"``, ``"take"`` …:
the methods of :class:`stageflow_durable.state.store.Store`; ``"publish"``) and by whether its effect is still to
come or has happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from traceback import walk_tb
from typing import Literal, NamedTuple, ParamSpec, TypeVar

from stageflow_durable.engine.ends import ProcessEnds
from stageflow_durable.engine.services import Services
from stageflow_durable.state.owning import Owning
from stageflow_durable.state.store import Store

P = ParamSpec("P")
T = TypeVar("T")
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
class _Fault:
    point: Point
    number: int
    error: BaseException


@dataclass(slots=True)
class Faults:
    """What goes wrong, and where.

    ``trace`` lists every point that was reached, in order. ``watch`` is called at each of them, before anything is
    raised there: to check what has to hold at every step.
    """

    trace: list[Point] = field(default_factory=list)
    watch: Callable[[Point], None] = lambda _point: None
    _planned: list[_Fault] = field(default_factory=list)
    _steps: dict[int, BaseException] = field(default_factory=dict)

    def at(self, when: When, call: str, *, number: int = 1, error: BaseException | None = None) -> None:
        """Raise ``error`` (left out: :class:`Crash`) at this point, the ``number``-th time from now on that it is
        reached.
        """
        self._planned.append(_Fault(Point(when, call), number, error or Crash(f"{when} {call}")))

    def at_step(self, number: int, error: BaseException | None = None) -> None:
        """Raise at the ``number``-th point of all, counted from 0 as in ``trace``: to try every crash point of a
        run, one after another.
        """
        self._steps[number] = error or Crash(f"at step {number}")

    def clear(self) -> None:
        """Forget what was planned."""
        self._planned.clear()
        self._steps.clear()

    def reach(self, when: When, call: str) -> None:
        """Note that a point is reached, and raise what is planned there."""
        point = Point(when, call)
        self.trace.append(point)
        self.watch(point)
        error = self._steps.pop(len(self.trace) - 1, None)
        for fault in [fault for fault in self._planned if fault.point == point]:
            fault.number -= 1
            if not fault.number:
                self._planned.remove(fault)
                error = error or fault.error
        if error is not None:
            raise error

    def around(self, call: str, action: Callable[P, T]) -> Callable[P, T]:
        """``action`` with a point before and one after it."""

        @wraps(action)
        def guarded(*args: P.args, **keywords: P.kwargs) -> T:
            self.reach("before", call)
            answer = action(*args, **keywords)
            self.reach("after", call)
            return answer

        return guarded


_SEE = ("facts", "full_id", "run", "summaries", "stuck", "history", "workers", "outputs", "phase", "outcome_of")
_ABOUT_OWNERS = ("may_judge", "awaited", "runs_waiting_for", "unconfirmed")
_ABOUT_WORKERS = ("roster", "waits", "strangers", "unserved")
READS = frozenset({*_SEE, *_ABOUT_OWNERS, *_ABOUT_WORKERS, "after_commit", "overdue", "undelivered", "missed"})
"""Methods of a store that change nothing: dying there is like dying at the point before."""


class FaultyStore(Store):
    """A store with crash points around each of its transactions."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self.__dict__.update(store.__dict__)
        for name in _transactions():
            self.__dict__[name] = faults.around(name, getattr(super(), name))


def _transactions() -> list[str]:
    return [
        name
        for name, member in (vars(Owning) | vars(Store)).items()
        if callable(member) and not name.startswith("_") and name not in READS
    ]


def bury(crash: Crash) -> None:
    """End what a dead process held open, as the operating system would: the transaction of the body that it died in."""
    for frame, _line in walk_tb(crash.__traceback__):
        services = frame.f_locals.get("services")
        if isinstance(services, Services):
            services.abandon()
    crash.__traceback__ = None
