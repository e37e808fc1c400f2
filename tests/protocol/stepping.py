"""Two sessions, stepped: one transaction is held before its n-th statement while the other goes as far as it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from stageflow_durable.state.database import Database
from stageflow_durable.state.store import Store

GIVE_UP = 0.25
"""Seconds after which the other session counts as waiting for a lock."""


class Stepped:
    """A store whose transaction stops before its ``at``-th statement (from 0) until it is let go."""

    def __init__(self, url: str, at: int) -> None:
        self.database = Database(url)
        self.store = Store(self.database, shortcut=False)
        self.reached = threading.Event()
        self.go = threading.Event()
        self._left = at
        event.listen(self.database.engine, "before_cursor_execute", self._stop)

    def _stop(self, *_: Any) -> None:
        if self._left == 0:
            self.reached.set()
            assert self.go.wait(20), "nobody let it go"
        self._left -= 1


@contextmanager
def two_sessions(url: str, at: int) -> Iterator[tuple[Stepped, Store]]:
    """A session that will be held, and a free one."""
    held, free = Stepped(url, at), Database(url)
    try:
        yield held, Store(free, shortcut=False)
    finally:
        held.go.set()
        held.database.dispose()
        free.dispose()


def interleave(held: Stepped, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any, bool]:
    """Run ``first`` up to its stop, then ``second`` as far as it goes, then both to the end; their answers (or
    errors), and whether ``first`` was over before it could be stopped.
    """
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        while not held.reached.wait(0.01):
            if one.done():
                held.go.set()
                return _answer(one), _answer(pool.submit(second)), True
        two = pool.submit(second)
        try:
            two.result(GIVE_UP)
        except TimeoutError:
            pass
        except Exception:  # noqa: BLE001  # it is an answer too, taken below
            pass
        held.go.set()
        return _answer(one), _answer(two), False


def _answer(future: Future[Any]) -> Any:
    error = future.exception(20)
    return future.result() if error is None else error
