"""Running the steps of a stage's body, and saving what they bring: ``ctx.step``.

One object serves one attempt. It alone writes the steps of its stage, so what it has read at its first step, and added
since, is all there is: an attempt that was taken over is refused by the fence when it saves.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from hashlib import sha256
from itertools import count
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from stageflow_durable.clock import World
from stageflow_durable.codec import as_stored, canonical, decode, encode, fingerprint
from stageflow_durable.engine import loop
from stageflow_durable.engine.body import is_awaitable
from stageflow_durable.engine.interrupt import TakenOver
from stageflow_durable.engine.leftovers import within_a_body
from stageflow_durable.engine.outcome import text_of
from stageflow_durable.engine.payload import ELSEWHERE
from stageflow_durable.engine.services import Services, run_inside
from stageflow_durable.engine.typed import saved_by, typed
from stageflow_durable.errors import (
    InvalidInput,
    NotAllowedInStage,
    NothingToUndo,
    StageCancelled,
    StepMismatch,
    StoreUnavailable,
    UnsavableValue,
)
from stageflow_durable.idempotency.keys import key_text, valid_key
from stageflow_durable.masking import masking
from stageflow_durable.model.context import AttemptEnd
from stageflow_durable.model.output import OutputKind
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import Fenced, Work
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import Stepped
from stageflow_durable.transitions.rows import CallRow

log = masking(logging.getLogger("stageflow.steps"))

MOST_STEPS = 10_000
"""Steps of one stage at the most: a loop that never ends is found out."""

KEY_PARAMETER = "idempotency_key"
"""The parameter of a step's function that is filled in."""

_inside: ContextVar[str | None] = ContextVar("stageflow_step", default=None)


class Asked(NamedTuple):
    """A step as it is asked for. ``kind``: with the name it says what it is; ``fingerprint``: of its arguments.
    ``action`` and ``arguments``: as of a row; ``undoable``: it has to have a row before it is made. ``told``: what its
    event says besides; ``as_type``: as what its value comes back.
    """

    kind: str
    name: str
    key: str | None
    fingerprint: str
    as_type: Any = None
    action: str | None = None
    arguments: str | None = None
    undoable: bool = False
    told: dict[str, Any] = {}  # noqa: RUF012  # nobody changes it

    @property
    def what(self) -> str:
        """As people are told."""
        return f"{self.kind} {self.name!r}"


class Begun(NamedTuple):
    """A step that this attempt makes. ``call``: what identifies it; ``number``: its occurrence, without a key;
    ``row``: what an earlier attempt wrote before it made it, or None; ``over``: for those who ask for the same.
    """

    asked: Asked
    call: str
    number: int
    row: CallRow | None
    over: Future[CallRow]


Stepping: TypeAlias = Callable[[bool], Stepped | Fenced]


class _GivenUp(Exception):
    """Who made the step was cancelled: whoever waited for it makes it."""


def call_key(run_id: str, stage: str, item: int, call: str) -> str:
    """The idempotency key of a step: the same in every attempt; plain ASCII, fit for an HTTP header."""
    return f"sf_{run_id}_step_{_digest([stage, item, call])[:32]}"


def _digest(value: Any) -> str:
    return sha256(canonical(value)).hexdigest()


def told_of_undo(row: CallRow) -> dict[str, Any]:
    """What the history says of a call that was undone, besides the step."""
    return {"tool": row.name} if row.action == row.name else {"tool": row.name, "action": row.action}


def patiently(world: World, seconds: float, save: Stepping, goes_on: Callable[[], bool]) -> Stepped | Fenced:
    """``save``, again and again while the database is away, for ``seconds`` and while it ``goes_on``. It is told
    whether an earlier try may have gone through.
    """
    clock, pause, doubt = world.clock, 0.1, False
    until = clock.monotonic() + seconds
    while True:
        try:
            return save(doubt)
        except StoreUnavailable:
            if clock.monotonic() > until or not goes_on():
                raise
            doubt = True
            clock.sleep(pause)
            pause = min(1.0, pause * 2)


class Steps:
    """The steps of one attempt."""

    def __init__(
        self, services: Services, store: Store, world: World, limits: Any, tools: Callable[[Any, Any], Any] | None
    ) -> None:
        """``limits``: of the executor: for how long it tries to save, and how much. ``tools``: makes the stage's tools,
        given this and the stage's context; None: it has none.
        """
        self._services = services
        self._store = store
        self.world = world
        self.limits = limits
        self._tools = tools
        self._known = threading.Lock()  # around what follows
        self._rows: dict[str, CallRow] | None = None
        self._taken: dict[tuple[str, str, str], set[int]] = {}
        self._under_way: dict[str, Begun] = {}
        self._being_undone: set[str] = set()
        self._unasked: set[str] = set()
        self._writing = threading.Lock()  # one after another: each needs the run's number after the one before
        self._last = 0
        self._stopping = self._taken_over = False
        self._cut_off = 0  # how many are waited for that were cancelled

    # --- what a body calls --------------------------------------------------------------------------------------------

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        given: tuple[Any, ...],
        options: dict[str, Any],
        *,
        key: str | None,
        as_type: Any,
    ) -> Any:
        """See ``StageContext.step``."""
        if not callable(function):
            raise self._refused(f"step {name!r}", "what is to be called is no function; give ctx.step(name, function)")
        arguments = self._of_arguments(name, given, options)
        asked = Asked("step", valid_key(name, "step name"), _key(key), arguments, as_type)
        return self.run(asked, lambda own: function(*given, **options, **_with_key(function, options, own)))

    def _of_arguments(self, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> str:
        try:
            return str(fingerprint([list(given), options]))
        except UnsavableValue as error:
            hint = "arguments are what a step is known by; what they cannot say the function takes along by itself"
            raise UnsavableValue(f"step {name!r}, {error.path}", error.kind, hint) from None

    def run(self, asked: Asked, make: Callable[[str], Any]) -> Any:
        """What the step brings, or has brought. ``make``: makes it, given its idempotency key. Within a coroutine of
        the body what has to be awaited.
        """
        self._require(asked)
        if asked.as_type is not None:
            typed(asked.as_type)  # what it cannot come back as is told before anything is done
        return self._awaited(asked, make) if within_a_body() else self._waited(asked, make)

    def _waited(self, asked: Asked, make: Callable[[str], Any]) -> Any:
        while True:
            found = self._find(asked)
            if isinstance(found, CallRow):
                return self._value(asked, found.result)
            if isinstance(found, Future):
                try:
                    return self._value(asked, found.result().result)
                except _GivenUp:
                    continue
            with self._ending(found):
                self._announce(found)
                with _within(asked):
                    value = make(self._own_key(found.call))
                    if is_awaitable(value):
                        value = self._run_here(value)
                row = self._write(found, self._text(asked, value))
            return self._value(asked, row.result)

    async def _awaited(self, asked: Asked, make: Callable[[str], Any]) -> Any:
        while True:
            if self._rows is None:
                await self._apart(self.rows)
            found = self._find(asked)
            if isinstance(found, CallRow):
                return self._value(asked, found.result)
            if isinstance(found, Future):
                try:
                    return self._value(asked, (await asyncio.wrap_future(found)).result)
                except _GivenUp:
                    continue
            with self._ending(begun := found):
                if asked.undoable:
                    await self._apart(partial(self._announce, begun))
                else:
                    self._announce(begun)
                with _within(asked):
                    value = make(self._own_key(begun.call))
                    if is_awaitable(value):
                        value = await value
                text = self._text(asked, value)
                row = await self._apart(partial(self._write, begun, text))
            return self._value(asked, row.result)

    async def _apart(self, action: Callable[[], Any]) -> Any:
        """What the database has to be asked for, in a thread: the loop goes on. Cancelled meanwhile, it waits until
        that is over; an attempt that has been cut off does not wait for a database that is away.
        """
        task = asyncio.ensure_future(asyncio.to_thread(action))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                self._cut_off += cancelled is None
                cancelled = error
        if cancelled is not None:
            self._cut_off -= 1
            task.exception()  # else asyncio says that nobody asked for it
            raise cancelled
        return task.result()

    def _run_here(self, value: Awaitable[Any]) -> Any:
        """Await what an ``async def`` gave within a ``def``."""
        return loop.run(lambda _coroutine: value, copy_context(), None, f"run {self._services.work.run.id}: a step")

    # --- which step it is ---------------------------------------------------------------------------------------------

    def _require(self, asked: Asked) -> None:
        services = self._services
        services._require_going("step")  # noqa: SLF001  # this is a part of it
        if run_inside() != services.work.run.id:
            how = "start the thread by asyncio.to_thread, or by contextvars.copy_context().run"
            raise self._refused(asked.what, f"this thread does not have the stage's context; {how}")
        if (outer := _inside.get()) is not None:
            raise self._refused(asked.what, f"it is asked for within {outer}, which is saved as a whole")
        if services.holder is not None:
            raise self._refused(asked.what, _BESIDE_SESSION)

    def _refused(self, what: str, why: str) -> NotAllowedInStage:
        work = self._services.work
        return NotAllowedInStage(work.run.id, f"{what} in stage {work.stage}", why)

    def _find(self, asked: Asked) -> CallRow | Future[CallRow] | Begun:
        """The step's row; else who makes it now; else it is this caller's to make."""
        with self._known:
            rows = self._loaded()
            number = self._number(asked, rows)
            call = _call(asked, number)
            row, under_way = rows.get(call), self._under_way.get(call)
            if row is not None:
                self._require_same(asked, row.name, row.fingerprint, "tool" if row.action else "step")
                self._unasked.discard(call)
                if row.saved_at is not None:
                    return row
            if under_way is not None:
                there = under_way.asked
                self._require_same(asked, there.name, there.fingerprint, there.kind)
                return under_way.over
            made = Begun(asked, call, number, row, Future())
            made.over.set_running_or_notify_cancel()  # who waits for it cannot cancel it
            self._under_way[call] = made
            return made

    def _number(self, asked: Asked, rows: dict[str, CallRow]) -> int:
        """Which of the steps that are known by the same it is: what was undone is not found again. Without a key each
        that this attempt asks for is another one.
        """
        taken: set[int] = set() if asked.key is not None else self._taken.setdefault(_kind(asked), set())
        for number in count():
            if number not in taken and ((row := rows.get(_call(asked, number))) is None or row.undone_at is None):
                break
        taken.add(number)
        return number

    def _loaded(self) -> dict[str, CallRow]:
        if self._rows is None:
            work = self._services.work
            rows = self._store.calls(work.run.id, work.stage, work.item)
            first, self._rows = not self._last, {row.call: row for row in rows}
            self._last = max((row.n for row in rows), default=0)
            if first and rows:
                self._unasked = {row.call for row in rows if row.saved_at is not None and row.undone_at is None}
                self._services.gave_url = True  # a step that is not made again may have handed it out
                self._services.at_end.append(self._tell_unasked)
        return self._rows

    def _require_same(self, asked: Asked, name: str, of: str, kind: str) -> None:
        if asked.key is None:
            return  # it was found by all of it
        if (asked.kind, asked.name) != (kind, name) or as_stored(asked.fingerprint, of) != of:
            work = self._services.work
            raise StepMismatch(work.run.id, work.stage, asked.key, asked.what, f"{kind} {name!r}")

    def _own_key(self, call: str) -> str:
        work = self._services.work
        return call_key(work.run.id, work.stage, work.item, call)

    @contextmanager
    def _ending(self, begun: Begun) -> Iterator[None]:
        """Around the making of a step: tell those who wait for it how it ended."""
        ended: BaseException = _GivenUp()
        try:
            yield
        except Exception as error:
            ended = error
            raise
        finally:
            with self._known:
                row = (self._rows or {}).get(begun.call)
                del self._under_way[begun.call]
                asked = begun.asked
                if asked.key is None and (row is None or row.saved_at is None):
                    # Nothing was saved: the next that asks for the same is this one.
                    self._taken[_kind(asked)].discard(begun.number)
            if row is not None and row.saved_at is not None:
                begun.over.set_result(row)
            else:
                begun.over.set_exception(ended)

    # --- saving -------------------------------------------------------------------------------------------------------

    def _announce(self, begun: Begun) -> None:
        """Before it is made: write down that it may be, if it can be undone. Nothing begins any more once it is known
        that the work was taken over, or that the run stops.
        """
        if self._taken_over:
            raise TakenOver(f"its work was taken over: {begun.asked.what} does not begin")
        if self._stopping:
            raise StageCancelled(f"run {self._services.work.run.id} is stopping: {begun.asked.what} does not begin")
        if self._last >= MOST_STEPS:
            raise self._refused(begun.asked.what, f"the stage has {self._last:,} steps, more than which it cannot have")
        if begun.asked.undoable and begun.row is None:
            self._write(begun, None)

    def _text(self, asked: Asked, value: Any) -> str:
        """What is saved. Raises UnsavableValue, NotAllowedInStage."""
        what = f"result of {asked.what}"
        text = encode(value, what, saved_by(asked.as_type, value))
        most = self.limits.payload_bytes
        if len(text) > most:
            size = f"{len(text):,} bytes, of which max_payload_bytes allows {most:,},"
            raise UnsavableValue(what, size, ELSEWHERE)
        self._value(asked, text)  # what it cannot come back as is not saved
        if self._services.holder is not None:
            raise self._refused(asked.what, _BESIDE_SESSION)
        return text

    def _value(self, asked: Asked, text: str | None) -> Any:
        assert text is not None
        if asked.as_type is None:
            return decode(text)
        what = f"result of {asked.what}"
        try:
            return typed(asked.as_type).read_output(text, what)
        except InvalidInput as error:
            wanted = getattr(asked.as_type, "__name__", repr(asked.as_type))
            raise UnsavableValue(what, f"what is no {wanted}", "; ".join(error.fields)) from None

    def _write(self, begun: Begun, text: str | None) -> CallRow:
        asked, at = begun.asked, self.world.clock.time()
        told: dict[str, Any] = {**asked.told, "arguments_digest": asked.fingerprint}
        if asked.key is not None:
            told["key"] = asked.key
        if text is not None:
            told["result_digest"] = sha256(text.encode()).hexdigest()
        with self._writing:
            work = self._services.work
            with self._known:
                there = self._loaded().get(begun.call)
            row = CallRow(
                work.stage,
                work.item,
                begun.call,
                self._last + 1 if there is None else there.n,
                asked.name,
                asked.key,
                asked.fingerprint,
                asked.action,
                asked.arguments,
                work.attempt,
                text,
                None if text is None else at,
                asked.undoable,
            )
            return self._put(row, told)

    def _put(self, row: CallRow, told: dict[str, Any]) -> CallRow:
        """Write a row under the attempt's fence. Raises TakenOver."""
        work = self._services.work
        try:
            stepped = patiently(
                self.world,
                self.limits.hold_seconds,
                lambda doubt: self._store.save_call(work, row, told, doubt=doubt),
                lambda: not self._cut_off,
            )
        except BaseException:
            self._rows = None  # it may have been written all the same: to be read again
            raise
        if isinstance(stepped, Fenced):
            self._taken_over = True
            raise TakenOver(f"its work was taken over: step {row.name!r} is not saved")
        lost = work.lost if row.saved_at is None else 0
        # With the number goes all that it vouches for: else the end would be decided by what the run was at the begin.
        run = work.run if work.item else stepped.run
        self._services.work = work._replace(run=run, seq=stepped.seq, head=stepped.head, lost=lost)
        self._stopping = stepped.run.phase is not Phase.FORWARD
        self._last = max(self._last, row.n)
        with self._known:
            if self._rows is not None:
                self._rows[row.call] = row
        return row

    # --- tools --------------------------------------------------------------------------------------------------------

    def tools(self, ctx: Any) -> Any:
        """``ctx.tools``."""
        if self._tools is None:
            raise self._refused("ctx.tools", "it has none; give it some by Pipeline.stage(tools=ToolRegistry([…]))")
        return vars(self).setdefault("_made_tools", self._tools(self, ctx))

    @property
    def work(self) -> Work:
        """The attempt."""
        return self._services.work

    def rows(self) -> list[CallRow]:
        """What this attempt knows of the steps of its stage, in their order."""
        with self._known:
            return sorted(self._loaded().values(), key=attrgetter("n"))

    def note_failed(self, name: str, tries: int, error: Exception, delay: float | None) -> None:
        """A try of a tool's call raised: the history tells of it with the attempt's end."""
        told = {"step": name, "tool": name, "try": tries, "error": text_of(error), "delay": delay}
        self._services.note("stage.step_failed", told)

    def undo(self, call: str, what: str, handler: Callable[[], Any]) -> Any:
        """Undo a call by ``handler``, once. Within a coroutine of the body what has to be awaited. Raises
        NothingToUndo.
        """
        self._require(Asked("undo of", what, None, ""))
        return self._undone_in_loop(call, what, handler) if within_a_body() else self._undone(call, what, handler)

    def _undone(self, call: str, what: str, handler: Callable[[], Any]) -> None:
        with self._undoing(call, what) as row:
            value = handler()
            if is_awaitable(value):
                self._run_here(value)
            self._mark_undone(row)

    async def _undone_in_loop(self, call: str, what: str, handler: Callable[[], Any]) -> None:
        with self._undoing(call, what) as row:
            value = handler()
            if is_awaitable(value):
                await value
            await self._apart(partial(self._mark_undone, row))

    @contextmanager
    def _undoing(self, call: str, what: str) -> Iterator[CallRow]:
        """Around the undo of a call: nobody else undoes it meanwhile. What was begun before it is over is not."""
        with self._known:
            row = self._loaded().get(call)
            if row is None or row.undone_at is not None or call in self._being_undone or call in self._under_way:
                raise NothingToUndo(
                    f"run {self.work.run.id}: {what} was undone before, or is being undone: it has none"
                )
            self._being_undone.add(call)
        try:
            with _within(Asked("undo of", what, None, "")):
                yield row
        finally:
            with self._known:
                self._being_undone.discard(call)

    def _mark_undone(self, row: CallRow) -> None:
        with self._writing:
            self._put(row._replace(undone_at=self.world.clock.time()), told_of_undo(row))

    def _tell_unasked(self, end: AttemptEnd) -> None:
        """The stage is done, and did not ask for steps that an earlier attempt saved: its body is not what it was, or
        its arguments change from attempt to attempt.
        """
        if self._unasked and end.committed and end.result.kind is OutputKind.OK:
            names = sorted({row.name for call, row in (self._rows or {}).items() if call in self._unasked})
            work = self._services.work
            log.warning(
                "run %s: stage %s did not ask for %d of its saved steps (%s): a step is found by its key, or by its "
                "name and its arguments; what changes from attempt to attempt is no argument",
                *(work.run.id, work.stage, len(self._unasked), ", ".join(names)[:200]),
            )


def _kind(asked: Asked) -> tuple[str, str, str]:
    return asked.kind, asked.name, asked.fingerprint


def _call(asked: Asked, number: int) -> str:
    """What identifies a step of its stage."""
    return _digest([*_kind(asked), number] if asked.key is None else ["key", asked.key, number])


_BESIDE_SESSION = (
    "ctx.session is open, and what it writes is saved with the stage alone; a step is saved at once. Make the stage's "
    "steps before it first uses ctx.session, or split the stage"
)


@contextmanager
def _within(asked: Asked) -> Iterator[None]:
    token = _inside.set(asked.what)
    try:
        yield
    finally:
        _inside.reset(token)


def _key(given: object) -> str | None:
    return None if given is None else key_text(given, "step key")


def _with_key(function: Callable[..., Any], options: dict[str, Any], own: str) -> dict[str, str]:
    """The key, where the function has a parameter for it that nothing else is given for."""
    if KEY_PARAMETER in options:
        return {}
    try:
        parameter = inspect.signature(function).parameters.get(KEY_PARAMETER)
    except (TypeError, ValueError):  # one that is written in C says nothing
        return {}
    return {} if parameter is None or parameter.kind is parameter.POSITIONAL_ONLY else {KEY_PARAMETER: own}
