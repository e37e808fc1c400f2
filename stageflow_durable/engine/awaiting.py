"""Awaiting runs: one thread and one subscription for all that a process awaits.

Who awaits a run notes that in the run's row. Whoever changes the run then finds the note in the statement that changes
it, and tells after the commit, by way of Redis or of PostgreSQL. What is told may be lost, so everybody looks by
themselves too: seldom while somebody tells, often while nobody can (ADR 0042).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Protocol, TypeAlias

from stageflow_durable.masking import masking
from stageflow_durable.model.awaited import By, Listener, Told
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import AtRest, Stand

log = masking(logging.getLogger("stageflow.await"))

SLOW_SECONDS = 2.0
"""How often everybody looks by themselves while they would be told."""

FAST_SECONDS = (0.01, 0.25)
"""The first and the longest pause between two looks while nobody would be told; each is half as long again."""

AGAIN_SECONDS = 2.0
"""How long what does not let us listen, or does not take what we tell, is left alone."""

IDLE_SECONDS = 30.0
"""How long the thread and its subscription outlive the last that was awaited."""

LOOK_AT = 500
"""Runs that are looked at in one query."""

Answer: TypeAlias = AtRest | Exception | None


class Listening(Protocol):
    """A subscription to one token."""

    def heard(self, seconds: float) -> list[str]:
        """What was said, waited for that long. Raises StoreUnavailable when the subscription is lost."""

    def close(self) -> None:
        """End it."""


class Channels(Protocol):
    """A way to tell other processes; ``RedisChannels`` is one."""

    def tell(self, token: str, text: str) -> None:
        """Tell a listener. Raises StoreUnavailable in bounded time."""

    def listen(self, token: str) -> Listening:
        """Listen for a token. Raises StoreUnavailable in bounded time."""

    def close(self) -> None:
        """Give back connections."""


class Announcer:
    """Tells who awaits a run that it changed. Never raises for what is away: they look by themselves."""

    def __init__(self, store: Store, channels: Channels | None) -> None:
        self._by = {By.POSTGRESQL: store.notify} | ({} if channels is None else {By.REDIS: channels.tell})
        self._closed_until: dict[By, float] = {}

    def __call__(self, listening: Sequence[Listener], told: Told) -> None:
        """Tell each of them."""
        for by, token in listening:
            tell = self._by.get(by)
            if tell is None or time.monotonic() < self._closed_until.get(by, 0.0):
                continue
            try:
                tell(token, told.text())
            except Exception:  # the change is committed: nothing that happens here is its error
                self._closed_until[by] = time.monotonic() + AGAIN_SECONDS
                log.debug("run %s changed, and %s did not take the news", told.run_id, by.name, exc_info=True)


class Waiter:
    """One that awaits a run. ``answer`` is called once, by another thread: with the run at rest; with None if there is
    something to look at; or with an error. ``seen``: the number of the run by which any change is a later one; None:
    only the run's rest counts.
    """

    __slots__ = ("answer", "done", "pause", "run_id", "seen")

    def __init__(self, run_id: str, answer: Callable[[Answer], object], seen: int | None) -> None:
        self.run_id = run_id
        self.seen = seen
        self.pause = FAST_SECONDS[0]
        self.done = False
        self.answer = answer

    def give(self, what: Answer) -> None:
        """Answer, unless somebody did or nobody waits any more."""
        if not self.done:
            self.done = True
            self.answer(what)


class Awaiting:
    """What a process awaits. Safe to make before a fork: each process has threads and a subscription of its own."""

    def __init__(self, store: Store, channels: Channels | None = None) -> None:
        self._store = store
        self._channels = channels
        self._renew()

    def _renew(self) -> None:
        self._token = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._noting = threading.Lock()
        self._waiting: dict[str, list[Waiter]] = {}
        self._to_note: dict[Waiter, None] = {}
        self._looks: list[tuple[float, int, Waiter]] = []  # a heap: when to look by ourselves
        self._number = count()
        self._threads: set[str] = set()
        self._changed, self._asked = threading.Event(), threading.Event()
        self._told = False
        self._closed = False
        self._pid = os.getpid()

    # --- for those who wait -------------------------------------------------------------------------------------------

    def wait(self, run_id: str, seconds: float | None, seen: int | None = None) -> AtRest | bool:
        """Wait until a run is at rest; or, with ``seen``, until its number is another one.

        Returns the run at rest; True if there is something to look at (a change, or no such run any more); False after
        ``seconds`` (None: never). Raises StoreUnavailable if the database is away at the beginning; if it is later, it
        is asked again.
        """
        until = None if seconds is None else time.monotonic() + seconds
        there = threading.Event()
        found: list[Answer] = []

        def answer(what: Answer) -> None:
            found.append(what)
            there.set()

        waiter = self._add(Waiter(run_id, answer, seen))
        try:
            if self._noting.acquire(timeout=-1 if seconds is None else max(0.0, min(seconds, threading.TIMEOUT_MAX))):
                try:
                    self._note()
                finally:
                    self._noting.release()
            there.wait(None if until is None else max(0.0, until - time.monotonic()))
        finally:
            self._forget(waiter)
        return _taken(found)

    async def await_(self, run_id: str, seconds: float | None, seen: int | None = None) -> AtRest | bool:
        """The same for a coroutine, which takes no thread meanwhile."""
        loop = asyncio.get_running_loop()
        there: asyncio.Future[None] = loop.create_future()
        found: list[Answer] = []

        def answer(what: Answer) -> None:
            found.append(what)
            with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(_done, there)

        waiter = self._add(Waiter(run_id, answer, seen))
        try:
            with self._lock:
                self._ensure("stageflow-await-notes", self._note_for_coroutines)
            self._asked.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(there, seconds)
        finally:
            self._forget(waiter)
        return _taken(found)

    def close(self) -> None:
        """End the threads, once nobody waits any more, and give back connections to tell over."""
        if self._pid == os.getpid():
            self._closed = True
            self._changed.set()
            self._asked.set()
        if self._channels is not None:
            self._channels.close()

    def _add(self, waiter: Waiter) -> Waiter:
        if self._pid != os.getpid():  # the parent's waiters and its subscription are the parent's
            self._renew()
        with self._lock:
            self._closed = False
            if self._ensure("stageflow-await", self._listen):
                self._told = self._channels is not None  # until it turns out otherwise
            self._waiting.setdefault(waiter.run_id, []).append(waiter)
            self._to_note[waiter] = None
        return waiter

    def _forget(self, waiter: Waiter) -> None:
        waiter.done = True
        with self._lock:
            self._to_note.pop(waiter, None)
            there = self._waiting.get(waiter.run_id, [])
            if waiter in there:
                there.remove(waiter)
            if not there:
                self._waiting.pop(waiter.run_id, None)

    def _ensure(self, name: str, turn: Callable[[], object]) -> bool:
        if name in self._threads:
            return False
        threading.Thread(target=turn, name=name, daemon=True).start()  # it may be refused; then there is none
        self._threads.add(name)
        return True

    def _may_end(self, name: str, idle_since: float) -> bool:
        """Whether a thread may end, which then is not there any more: nobody waits."""
        if self._waiting or not (self._closed or time.monotonic() - idle_since > IDLE_SECONDS):
            return False
        with self._lock:
            if self._waiting:
                return False
            self._threads.discard(name)
            return True

    # --- noting -------------------------------------------------------------------------------------------------------

    def _note_for_coroutines(self) -> None:
        """One thread notes what all coroutines of a moment wait for."""
        idle_since = time.monotonic()
        while not self._may_end("stageflow-await-notes", idle_since):
            if self._asked.wait(IDLE_SECONDS):
                self._asked.clear()
                idle_since = time.monotonic()
                with self._noting:
                    self._note()

    def _note(self, *, again: bool = False) -> None:
        """Note in the rows of all runs that were not noted yet who is to be told, and answer for those at rest. The
        caller holds ``_noting``: who comes meanwhile finds their own noted, or notes it with those of the others.
        ``again``: those who wait have been waiting, and are not told that the database is away.
        """
        with self._lock:
            new, self._to_note = [*self._to_note], {}
        if not new:
            return
        try:
            self._note_all(new)
        except Exception as error:  # noqa: BLE001  # it is given to those who wait, whichever thread this is
            if not again:
                for waiter in new:
                    waiter.give(error)
                return
            log.debug("runs that are awaited could not be looked at: %s", error)
        self._schedule(new)
        self._changed.set()

    def _note_all(self, new: Sequence[Waiter]) -> None:
        if not self._told:  # nobody would be heard: on SQLite alone, behind a pooler, while Redis is away
            self._look(new)
            return
        by = By.POSTGRESQL if self._channels is None else By.REDIS
        for follows in (False, True):
            waiters = [waiter for waiter in new if (waiter.seen is not None) is follows]
            entry = Listener(by, self._token).entry(follows=follows)
            noted: dict[str, int] = {}
            for part in _parts(waiters):
                noted |= self._store.note_awaiting(part, entry)
            self._answer([one for one in waiters if one.run_id not in noted])
            for waiter in waiters:
                if follows and noted.get(waiter.run_id) != waiter.seen:
                    waiter.give(None)

    def _look(self, waiters: Sequence[Waiter]) -> None:
        """Look how their runs stand, and answer for those that changed."""
        stand: dict[str, Stand] = {}
        for part in _parts(waiters):
            stand |= self._store.stand(part)
        changed = []
        for waiter in waiters:
            found = stand.get(waiter.run_id)
            same = found is not None and (not found.at_rest if waiter.seen is None else found.seq == waiter.seen)
            if not same:
                changed.append(waiter)
        self._answer(changed)

    def _answer(self, waiters: Sequence[Waiter]) -> None:
        """Answer those whose runs have changed: with the run, if it is at rest."""
        for part in _parts([waiter for waiter in waiters if waiter.seen is None and not waiter.done]):
            found = {one.run.id: one for one in self._store.at_rest(part)}
            for waiter in waiters:
                if waiter.run_id in found and waiter.seen is None:
                    waiter.give(found[waiter.run_id])
        for waiter in waiters:
            waiter.give(None)  # something changed, or the run is not there, or somebody has resumed it

    def _schedule(self, waiters: Iterable[Waiter]) -> None:
        now = time.monotonic()
        with self._lock:
            for waiter in waiters:
                if waiter.done:
                    continue
                pause = SLOW_SECONDS if self._told else waiter.pause
                # Looks of about the same time are one query.
                step = SLOW_SECONDS / 4 if self._told else min(waiter.pause, 0.05)
                waiter.pause = min(FAST_SECONDS[1], waiter.pause * 1.5)
                heapq.heappush(self._looks, (math.ceil((now + pause) / step) * step, next(self._number), waiter))

    # --- the thread that listens, and looks ---------------------------------------------------------------------------

    def _listen(self) -> None:
        listening: Listening | None = None
        again_at, idle_since = 0.0, time.monotonic()
        try:
            while not self._may_end("stageflow-await", idle_since):
                now = time.monotonic()
                if self._waiting:
                    idle_since = now
                # At first also if nobody waits any more: who has awaited a short run will await others.
                if listening is None and (self._waiting or not again_at) and now >= again_at:
                    listening, again_at = self._subscribed()
                listening = self._turn(listening)
        finally:
            with self._lock:
                self._threads.discard("stageflow-await")
            if listening is not None:
                listening.close()

    def _subscribed(self) -> tuple[Listening | None, float]:
        """Listen, if that is possible; returns the subscription, and when to try again."""
        possible = self._channels or self._store
        try:
            made = possible.listen(self._token)
        except Exception as error:  # noqa: BLE001  # whatever it is, there is another way
            self._lost(error)
            return None, time.monotonic() + AGAIN_SECONDS
        if made is None:
            self._told = False
            return None, math.inf
        self._told = True
        self._look_at_all()  # what changed before was not told
        return made, 0.0

    def _lost(self, why: Exception) -> None:
        if self._told:
            log.info("not told when runs change, so they are looked at until that is possible again: %s", why)
            self._told = False
            self._look_at_all()

    def _look_at_all(self) -> None:
        with self._lock:
            self._looks = []
            self._to_note.update(dict.fromkeys(one for there in self._waiting.values() for one in there))
        with self._noting:
            self._note(again=True)

    def _turn(self, listening: Listening | None) -> Listening | None:
        """Wait until something is said or somebody is to be looked at, and do what follows."""
        seconds = self._until_next()
        said: list[str] = []
        if listening is None:
            self._changed.wait(seconds)
            self._changed.clear()
        else:
            try:
                said = listening.heard(seconds)
            except Exception as error:  # noqa: BLE001  # whatever it is: all who wait depend on this thread
                listening.close()
                listening = None
                self._lost(error)
        told, due = self._told_of(said), self._due()
        try:
            self._answer(told)
            if due:
                self._look(due)
        except Exception as error:  # noqa: BLE001  # the database is away: those who wait are looked at again
            log.debug("runs that are awaited could not be looked at: %s", error)
        self._schedule(due)
        return listening

    def _until_next(self) -> float:
        with self._lock:
            while self._looks and self._looks[0][2].done:
                heapq.heappop(self._looks)
            soonest = self._looks[0][0] - time.monotonic() if self._looks else 1.0
        return min(1.0, max(0.0, soonest))

    def _due(self) -> list[Waiter]:
        now, due = time.monotonic(), []
        with self._lock:
            while self._looks and self._looks[0][0] <= now:
                due.append(heapq.heappop(self._looks)[2])
        return [waiter for waiter in due if not waiter.done]

    def _told_of(self, said: Iterable[str]) -> list[Waiter]:
        with self._lock:
            return [
                waiter
                for told in dict.fromkeys(map(Told.read, said))
                for waiter in self._waiting.get(told.run_id, ())
                if told.ended or waiter.seen is not None
            ]


def _parts(waiters: Sequence[Waiter]) -> Iterable[Sequence[str]]:
    ids = list(dict.fromkeys(waiter.run_id for waiter in waiters))
    return (ids[start : start + LOOK_AT] for start in range(0, len(ids), LOOK_AT))


def _done(there: asyncio.Future[None]) -> None:
    if not there.done():
        there.set_result(None)


def _taken(found: Sequence[Answer]) -> AtRest | bool:
    if not found:
        return False
    what = found[0]
    if isinstance(what, Exception):
        raise what
    return True if what is None else what
