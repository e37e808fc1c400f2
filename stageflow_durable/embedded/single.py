"""One ``up`` at a time in a directory: a second would start the same workers, logs and beat again."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stageflow_durable.embedded.home import Home, HomeLock
from stageflow_durable.embedded.identity import myself
from stageflow_durable.embedded.private import accessible, write_private
from stageflow_durable.errors import ConfigurationError


@contextmanager
def only_one(home: Home, app: str) -> Iterator[HomeLock]:
    """Inside, no other ``up`` runs in ``home``; gives the lock that says so. Raises ConfigurationError saying who does,
    and how to stop it.
    """
    lock = HomeLock(home.root / "up.lock")
    note = home.root / "up.json"
    with accessible(home.root):
        if not lock.acquire():
            raise ConfigurationError(_refusal(home, _read(note)))
    try:
        write_private(note, json.dumps({"pid": myself().pid, "user": _user(), "app": app, "at": time.time()}))
        yield lock
    finally:
        if lock.stands:  # else the directory was deleted, and what is there now is another's
            note.unlink(missing_ok=True)
        lock.release()


def _refusal(home: Home, holder: dict[str, Any]) -> str:
    who, stop = "another process", "stop it with Ctrl-C in its terminal"
    if pid := holder.get("pid"):
        minutes = max(0, int((time.time() - holder.get("at", time.time())) / 60))
        who = f"{holder.get('user')} has run it for {minutes} min with --app {holder.get('app')}, pid {pid}"
        stop += f", or with: kill -INT {pid}"
    return f"`stageflow up` runs in {home.root} already ({who}); {stop}. For one beside it set another STAGEFLOW_HOME"


def _read(note: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(note.read_text())
    except (OSError, ValueError):  # it has only just begun
        return {}
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return "somebody"
