"""How Celery's signal handlers end a process: they raise SystemExit in whatever runs."""

from __future__ import annotations

from traceback import walk_tb

_HANDLERS = frozenset({"billiard.common", "celery.apps.worker"})
"""Where a signal handler raises SystemExit: in a pool's child that is terminated, in a worker that is ended."""

_FURTHEST = 20
"""How far it is looked for behind an error that was raised while it passed: a cleanup that failed, say."""


def told_to_end(error: BaseException) -> bool:
    """Whether a signal handler of Celery's or its pool's raised this error, or one that it was raised in the middle
    of.
    """
    looked: BaseException | None = error
    for _behind in range(_FURTHEST):
        if looked is None:
            return False
        if issubclass(type(looked), SystemExit) and _by_handler(looked):
            return True
        looked = BaseException.__dict__["__context__"].__get__(looked)  # its own class may have another
    return False


def _by_handler(error: BaseException) -> bool:
    trace = BaseException.__dict__["__traceback__"].__get__(error)
    return any(frame.f_globals.get("__name__") in _HANDLERS for frame, _line in walk_tb(trace))
