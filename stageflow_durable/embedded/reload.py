"""Source files that change, for ``up --reload``."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stageflow_durable.errors import ConfigurationError

GATHERED_MILLISECONDS = 200
"""Changes that follow one another within this time are one: an editor writes a file in several steps."""


def require_reload() -> None:
    """Raise ConfigurationError where nothing can tell of changed files."""
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs watchfiles: pip install 'stageflow_durable[reload]'")


@contextmanager
def changes(directories: Sequence[Path]) -> Iterator[Callable[[], str | None]]:
    """Watches the Python files of ``directories``, to any depth, in a thread of its own.

    What is yielded tells which files have changed since it was asked last; None: none. Environments and caches are left
    out. Raises ConfigurationError where ``watchfiles`` is not installed, or a directory cannot be watched.
    """
    require_reload()
    found, over, trouble = _Found(), threading.Event(), list[BaseException]()

    def watch() -> None:
        from watchfiles import DefaultFilter, PythonFilter, watch

        class Source(PythonFilter):
            ignore_dirs = (*DefaultFilter.ignore_dirs, "site-packages")

        try:
            for some in watch(
                *directories,
                watch_filter=Source(),
                debounce=GATHERED_MILLISECONDS,
                stop_event=over,
                raise_interrupt=False,
            ):
                found.add(path for _kind, path in some)
        except OSError as error:  # the kernel has no watches left, a directory is gone
            trouble.append(error)

    thread = threading.Thread(target=watch, name="stageflow-reload", daemon=True)
    thread.start()

    def changed() -> str | None:
        if trouble:
            raise ConfigurationError(f"source files cannot be watched: {trouble[0]}; start without --reload")
        return found.take()

    try:
        yield changed
    finally:
        over.set()
        thread.join(5.0)


class _Found:
    """File names that one thread adds and another takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}

    def add(self, paths: Iterator[str]) -> None:
        with self._lock:
            self._names |= dict.fromkeys(sorted(Path(path).name for path in paths))

    def take(self) -> str | None:
        with self._lock:
            names, self._names = [*self._names], {}
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else None
