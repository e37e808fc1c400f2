"""``state.json``: who keeps the broker of a home, where it listens, and which children must not outlive them."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stageflow_durable.embedded.identity import Identity
from stageflow_durable.embedded.private import write_private


@dataclass(frozen=True, slots=True)
class State:
    """What a home's keeper writes down; ``keeper`` None: it stopped in order, the port is kept for next time."""

    port: int | None = None
    keeper: Identity | None = None
    children: dict[str, Identity] = field(default_factory=dict)


class StateFile:
    """The state as its keeper changes it, from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.state = read_state(path)

    def write(self, state: State) -> None:
        """Write all of it anew."""
        with self._lock:
            self._write(state)

    def update(self, *, children: dict[str, Identity], **changes: Any) -> None:
        """Change fields; ``children`` are added to those that are there."""
        with self._lock:
            self._write(replace(self.state, children=self.state.children | children, **changes))

    def _write(self, state: State) -> None:
        write_private(self._path, json.dumps(asdict(state), indent=1))
        self.state = state


def read_state(path: Path) -> State:
    """The state of a home; one that is missing, half written or of another version reads as empty. Raises
    PermissionError.
    """
    try:
        data = json.loads(path.read_text())
        keeper = data["keeper"] and Identity(**data["keeper"])
        children = {name: Identity(**child) for name, child in data["children"].items()}
        return State(data["port"], keeper, children)
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()
