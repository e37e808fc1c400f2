"""What a running engine does for a stage body: session, events, cancellation, progress, cleanup, outputs as objects."""

from __future__ import annotations

import contextlib
import decimal
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from stageflow_durable.codec import decode, encode
from stageflow_durable.engine.own_events import own_event
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import NotAllowedInStage, StageCancelled
from stageflow_durable.model.context import Observer
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import Kept, Work
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.session import Place, Session, place_of_session
from stageflow_durable.store.vouched import BODY, ORIGIN

T = TypeVar("T")


class Services:
    """The services of one attempt. ``at_end``: whom to tell how it ended; ``saved``: outputs that hold objects, as they
    were saved, by stage; ``result_type``: of the run, while its last stage is at work.
    """

    def __init__(
        self,
        store: Store,
        work: Work,
        *,
        is_async: bool,
        only_asked: bool = False,
        url: Callable[[str, str], str] | None = None,
        steps: Any = None,
        log_bytes: int = 0,
    ) -> None:
        """``only_asked``: of a stage that only waits, whose function says for what and has no outcome of its own.
        ``url``: gives the callback URL of a stage of a run; ``steps``: makes what saves steps;
        ``log_bytes``: how much of what is logged is kept.
        """
        self._make_steps = steps
        self._url = url
        self.gave_url = False
        self._only_asked = only_asked
        self._store = store
        self.work = work
        self._is_async = is_async
        self._cleanups: list[Callable[[], None]] = []
        self.at_end: list[Observer] = []
        self._over = False
        self.events: list[tuple[str, dict[str, object]]] = []
        self.saved: Mapping[str, str] = {}
        self.result_type: Any = None
        self.place = Place()
        self.context = own_context(work.run.id, self.place, log_bytes)

    @property
    def holder(self) -> Session | None:
        """The body's session, once it is open."""
        return self.place.holder  # type: ignore[no-any-return]  # the place is below it

    def session(self) -> Any:
        """A session in the transaction that will save the outcome."""
        self._require_outcome("session")
        if self._is_async:
            raise self._refused("session", "the stage is async def; make it def")
        self._require_going("session")
        if self.place.holder is None:
            self.place.holder = self._store.open_session()
        return self.place.holder.session

    def _require_outcome(self, asked: str) -> None:
        if self._only_asked:
            sleeps = self.work.plan.by_name[self.work.stage].is_sleep
            what = "until when" if sleeps else "what is to be approved"
            raise self._refused(asked, f"the stage only waits; it only says {what}")

    def _require_going(self, asked: str) -> None:
        """Refuse what would come to nothing: a thread of the body still runs, or an observer asks."""
        if self._over:
            raise self._refused(asked, "the stage is over")

    def _refused(self, asked: str, why: str) -> NotAllowedInStage:
        return NotAllowedInStage(self.work.run.id, f"ctx.{asked} in stage {self.work.stage}", why)

    def emit(self, event: str, data: Mapping[str, Any]) -> None:
        """Keep an event of the body's; what cannot be saved, or would pass for the engine's or a person's, is refused
        here, where the body can see it.
        """
        self._require_going("emit")
        own_event(event, data)
        # The history is for people: what a model does not show, it does not show there.
        self.events.append((event, decode(encode(dict(data)), shown=True)))

    def note(self, event: str, data: Mapping[str, Any]) -> None:
        """Keep an event of an interceptor of this library, under the engine's name for what it tells."""
        self.events.append((event, dict(data)))

    def asked_for(self) -> Kept:
        """The events that the body asked for, each marked as its own, however it came among them."""
        return tuple((event, {**data, ORIGIN: BODY}) for event, data in self.events)

    def raise_if_cancelled(self) -> None:
        """Look at the run's row."""
        if self._store.phase(self.work.run.id) is not Phase.FORWARD:
            raise StageCancelled(f"run {self.work.run.id} is stopping")

    def heartbeat(self, progress: Any) -> None:
        """Write progress to the strand."""
        text = encode(progress)
        if self.holder is None:
            self._store.report(self.work, text)
        else:
            self.holder.report(self.work, text)

    def callback_url(self) -> str:
        """The URL that ends the stage's wait. Raises ConfigurationError."""
        self._require_outcome("callback_url")
        if self._url is None:
            raise self._refused("callback_url", "nothing can call this stage back here")
        found = self._url(self.work.run.id, self.work.stage)
        self.gave_url = True
        return found

    @property
    def steps(self) -> Any:
        """Its saved steps; made when one is asked for."""
        self._require_outcome("step")
        return vars(self).setdefault("_made_steps", self._make_steps(self, self._store))  # of two threads one makes it

    def on_cleanup(self, action: Callable[[], None]) -> None:
        """Remember what to do at the end."""
        self._require_going("on_cleanup")
        self._cleanups.append(action)

    def on_end(self, action: Observer) -> None:
        """Remember whom to tell how the attempt ended."""
        self._require_outcome("on_end")
        self._require_going("on_end")
        self.at_end.append(action)

    def close(self) -> None:
        """Run the cleanups, the latest first; an error in one does not keep the others from running."""
        try:
            with contextlib.ExitStack() as stack:
                for action in self._cleanups:
                    stack.callback(action)
        finally:
            self._over = True

    def abandon(self) -> None:
        """Roll back what the body wrote through its session."""
        holder, self.place.holder = self.place.holder, None
        self.place.later.clear()
        if holder is not None:
            holder.rollback()

    def committed(self) -> None:
        """Do what waited for the commit of the body's session."""
        self.place.holder = None
        later = self.place.later[:]
        self.place.later.clear()
        for action in later:
            action()

    def output(self, stage: str, value: Any, as_type: type[T]) -> T:
        """What ``stage`` saved, as ``as_type``; ``value``: what it is where no type is asked for."""
        text = self.saved.get(stage)
        what = f"output of {stage}"
        found: T = typed(as_type).migrated(value, what) if text is None else typed(as_type).read_output(text, what)
        return found


# --- the context in which an attempt's code runs ----------------------------------------------------------------------
# Its own, so that what one run sets no other sees. Everything that the application wrote for an attempt runs in it:
# validators, the function of the business key, interceptors, the body, cleanups. It begins as a copy of what is set
# where the worker runs, and goes with the attempt.


_run: ContextVar[str | None] = ContextVar("stageflow_run", default=None)


class Lines:
    """What the code of one attempt logs. ``most``: how many bytes of it are kept; ``kept``: what there is, made with
    the first line.
    """

    __slots__ = ("kept", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: Any = None


lines_of_attempt: ContextVar[Lines | None] = ContextVar("stageflow_lines", default=None)


def own_context(run_id: str, place: Place | None = None, log_bytes: int = 0) -> Context:
    """A context for one attempt of that run; ``place``: where its session is to be found; ``log_bytes``: how much of
    what is logged in it is kept.
    """
    context = copy_context()
    context.run(_enter, run_id, place, Lines(log_bytes) if log_bytes else None)
    return context


def logged(work: Work, context: Context) -> Work:
    """The attempt with the lines that were logged in its context, if there are any."""
    lines = context[lines_of_attempt]
    return work if lines is None or lines.kept is None else work._replace(log=lines.kept.text())


def _enter(run_id: str, place: Place | None, lines: Lines | None) -> None:
    _run.set(run_id)
    lines_of_attempt.set(lines)
    place_of_session.set(place)
    decimal.setcontext(decimal.getcontext().copy())  # its value is changed in place: a copy of the variable shares it


def run_inside() -> str | None:
    """The run whose code calls this; None: no run's. Threads that ``asyncio.to_thread`` starts are inside too."""
    return _run.get()
