"""Watching a sandbox until it is over: what it writes, how long it takes, what it uses, whether anybody waits."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from stageflow_durable.sandbox.keeper.cgroups import Group

LOOK_SECONDS = 0.1
CHUNK = 1 << 16


class Abandoned(Exception):
    """Whoever started the sandbox is gone, or waits no more."""


_asked: list[bool] = []


def abandon() -> None:
    """Have the watch end. It is asked at its own time: what makes a sandbox, and clears it away, is not interrupted."""
    _asked.append(True)


class Watch:
    """One running sandbox. ``reads``: pipes by name; ``most``: bytes that each may bring; ``feed``: the pipe of its
    stdin, which gets ``given``; ``over``: the limit for which it was ended, or None.
    """

    def __init__(
        self,
        child: int,
        lifeline: int,
        *,
        reads: Mapping[str, int],
        most: Mapping[str, int],
        feed: int,
        given: bytes,
        group: Group,
        limits: Mapping[str, float],
    ) -> None:
        self.child, self.lifeline, self.reads, self.most = child, lifeline, reads, most
        self.feed, self.given, self.group, self.limits = feed, given, group, limits
        self.over: str | None = None
        self.seen = {name: bytearray() for name in reads}
        self.began = time.monotonic()
        self.peak = 0

    def until_its_end(self) -> None:
        """Return once the first process has ended, or has to be. Raises Abandoned."""
        poll = self._poll()
        ended = os.pidfd_open(self.child)
        poll.register(ended, select.POLLIN)
        try:
            while self.over is None:
                ready = dict(poll.poll(LOOK_SECONDS * 1000))
                self._served(ready, poll)
                if ended in ready:
                    return
                self._look()
        finally:
            os.close(ended)

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self.lifeline, select.POLLIN)
        for pipe in self.reads.values():
            os.set_blocking(pipe, False)
            poll.register(pipe, select.POLLIN)
        os.set_blocking(self.feed, False)
        poll.register(self.feed, select.POLLOUT)
        return poll

    def _served(self, ready: Mapping[int, int], poll: select.poll) -> None:
        if self.lifeline in ready or _asked:
            raise Abandoned
        for name, pipe in self.reads.items():
            if pipe in ready and not self._took(name, pipe):
                poll.unregister(pipe)
        if self.feed in ready and not self._fed():
            poll.unregister(self.feed)
            os.close(self.feed)
            self.feed = -1

    def _took(self, name: str, pipe: int) -> bool:
        """Read a part; False at its end. More than may be ends the sandbox, and is not kept."""
        try:
            data = os.read(pipe, CHUNK)
        except BlockingIOError:
            return True
        room = self.most[name] - len(self.seen[name])
        self.seen[name] += data[:room]
        if len(data) > room:
            self.over = self.over or "output"
        return bool(data)

    def _fed(self) -> bool:
        try:
            self.given = self.given[os.write(self.feed, self.given[:CHUNK]) :] if self.given else b""
        except BlockingIOError:
            return True
        except OSError:  # it does not read what it is given
            return False
        return bool(self.given)

    def _look(self) -> None:
        used = self.group.cpu_seconds()
        if time.monotonic() - self.began > self.limits["wall"]:
            self.over = self.over or "wall"
        elif used is not None and used > self.limits["cpu"]:
            self.over = self.over or "cpu"
        elif not self.group.bounds_memory:
            had = memory_of(self.child)
            self.peak = max(self.peak, had)
            if had > self.limits["memory"]:
                self.over = self.over or "memory"

    def drain(self) -> None:
        """Read what is left, once every writer is gone; close all pipes."""
        for name, pipe in self.reads.items():
            before = -1
            while len(self.seen[name]) != before:
                before = len(self.seen[name])
                with suppress(OSError):
                    self._took(name, pipe)
            os.close(pipe)
        if self.feed >= 0:
            os.close(self.feed)


def memory_of(process: int) -> int:
    """Bytes that a process and those that it started have in memory."""
    return sum(_resident(one) for one in family(process))


def family(process: int) -> list[int]:
    """A process and those that it started, as far as they are still its own."""
    found, waiting = [], [process]
    while waiting:
        one = waiting.pop()
        found.append(one)
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{thread}/children") as file:
                    waiting += map(int, file.read().split())
    return found


def processes_of(uid: int) -> int:
    """Processes and threads that a user has now."""
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == uid:
                found += len(os.listdir(f"/proc/{name}/task"))
    return found


def _resident(process: int) -> int:
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def reap(kill: Callable[[], None], patience: float) -> dict[int, int]:
    """Call ``kill`` until no child is left, and return the status of each that ended. A namespace's first process has
    ended only once all that it held has.
    """
    found: dict[int, int] = {}
    until = time.monotonic() + patience
    while time.monotonic() < until:
        kill()
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                found[ended[0]] = ended[1]
        except ChildProcessError:
            return found
        time.sleep(0.002)  # noqa: TID251  # waitpid has no time limit
    raise TimeoutError("processes of the sandbox did not end although they were killed")
