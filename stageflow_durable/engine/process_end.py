"""Telling the end of this process from what a body raised.

Whatever a body raises is its attempt's outcome, ``SystemExit`` and ``KeyboardInterrupt`` too. A signal that ends the
process raises in the body as well, wherever it happens to be: that is no outcome, the attempt is lost with its
process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_context = BaseException.__dict__["__context__"].__get__  # an error's own class may have another
_signs: list[Callable[[BaseException], bool]] = []


class ProcessEnds(BaseException):
    """Base of what ends this process: nothing catches it, nothing is tidied up."""


class Interrupted(KeyboardInterrupt, ProcessEnds):
    """A person's Ctrl-C, which means the program and not the stage that happens to run."""


def know(sign: Callable[[BaseException], bool]) -> None:
    """Tell of a way in which processes are ended: ``sign`` says whether an error is that."""
    if sign not in _signs:
        _signs.append(sign)


def is_end_of_process(error: BaseException) -> bool:
    """Whether ``error`` is this process's end, and not the outcome of what raised it."""
    if issubclass(type(error), Exception) and _context(error) is None:
        return False  # by far the most, and nothing else raised before
    return issubclass(type(error), ProcessEnds) or any(sign(error) for sign in _signs)


@contextmanager
def interruptible_by_hand() -> Iterator[None]:
    """Tell a person's Ctrl-C from a body's own KeyboardInterrupt, where Python's default would raise the same."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # a worker has a handler of its own
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted
