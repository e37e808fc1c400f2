"""One process keeps the broker of a home, under its lock; others attach to it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from stageflow_durable.embedded.attachment import attach, urls_of
from stageflow_durable.embedded.broker import Broker, Say
from stageflow_durable.embedded.children import end_orphan
from stageflow_durable.embedded.home import Home, HomeLock
from stageflow_durable.embedded.identity import Identity, myself
from stageflow_durable.embedded.private import private_file
from stageflow_durable.embedded.state import State, StateFile
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Urls

Upgrade = Callable[[str], object]
_LOGGER = logging.getLogger(__name__)
ORPHAN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Keeping:
    """What the process has that keeps a home."""

    broker: Broker
    lock: HomeLock
    state: StateFile
    pid: int

    def end(self) -> None:
        self.broker.stop()
        if self.lock.stands:  # else the directory was deleted, and what is there now is another's
            self.state.write(State(self.broker.port))
        self.lock.release()


class Embedded:
    """A running one-machine mode: ``urls`` of its broker and database.

    ``keeps``: whether this process keeps the broker, and ``close()`` (or leaving the ``with``) stops it; else another
    process does, and closing changes nothing.
    """

    def __init__(self, home: Home, urls: Urls, keeping: _Keeping | None = None) -> None:
        self.home = home
        self.urls = urls
        self._keeping = keeping
        if keeping is not None:
            atexit.register(self.close)

    @property
    def keeps(self) -> bool:
        """Whether the broker is a child of this process (after a fork it is the parent's, no longer ours)."""
        return self._keeping is not None and self._keeping.pid == os.getpid()

    @property
    def broker_pid(self) -> int | None:
        """The broker's pid; None while it is down, or when another process keeps it."""
        return self._keeping.broker.pid if self._keeping is not None else None

    def record(self, children: dict[str, Identity]) -> None:
        """Write down children that must not outlive us: where the kernel does not end them, the next start does."""
        if self._keeping is not None and self.keeps:
            self._keeping.state.update(children=children)

    def close(self) -> None:
        """Stop the broker, if this process keeps it, and let others keep the home."""
        if self._keeping is None or not self.keeps:
            return
        atexit.unregister(self.close)
        self._keeping.end()
        self._keeping = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def start(
    home: Path | str,
    *,
    port: int | None = None,
    upgrade: Upgrade | None = None,
    say: Say = _LOGGER.warning,
    patience: float = 30.0,
) -> Embedded:
    """Start the one-machine mode in ``home``, or attach to the one that runs there.

    ``port``: the broker's, or None for the one it had before, else any. ``upgrade(database_url)`` brings the schema up
    to date before anybody uses it. ``say`` gets lines for people. Children of a process that died here are ended first;
    data is kept. Raises :class:`ConfigurationError` with the reason when it cannot start, or when another process that
    holds the home does not get ready within ``patience`` seconds.
    """
    place = Home(Path(home).expanduser().absolute())
    place.prepare()
    lock = HomeLock(place.lock)
    deadline = time.monotonic() + patience
    while not lock.acquire():
        urls = attach(place.root, patience=0.5)
        if urls is not None:
            return Embedded(place, urls)
        if time.monotonic() > deadline:
            raise ConfigurationError(f"another process holds {place.lock} and does not get ready; see {place.logs}")
        threading.Event().wait(0.1)
    return _keep(place, lock, port, upgrade, say)


def _keep(home: Home, lock: HomeLock, port: int | None, upgrade: Upgrade | None, say: Say) -> Embedded:
    try:
        file = StateFile(home.state)
        before = file.state
        _end_orphans(before, say)
        # From here on nobody attaches until our broker answers.
        file.write(State(before.port))
        if upgrade is not None:
            private_file(home.database)  # SQLite would make it for everybody to read
            upgrade(home.database_url)
        broker = Broker(home, port=port, before=before.port, say=say, started=_recorder(file), stands=lock.stood)
        broker.start()
    except BaseException:
        lock.release()
        raise
    return Embedded(home, urls_of(home, file.state), _Keeping(broker, lock, file, os.getpid()))


def _end_orphans(state: State, say: Say) -> None:
    for name, orphan in state.children.items():
        if orphan.lives():
            say(f"ending {name} (pid {orphan.pid}), left over from a process that was killed")
            end_orphan(orphan, within=ORPHAN_SECONDS)


def _recorder(file: StateFile) -> Callable[[int, Identity], None]:
    def started(port: int, broker: Identity) -> None:
        file.update(port=port, keeper=myself(), children={"broker": broker})

    return started
