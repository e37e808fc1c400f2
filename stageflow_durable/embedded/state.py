"""``state.json``: who keeps the broker of a home, where it listens, and which children must not outlive them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stageflow_durable.embedded.home import write_private
from stageflow_durable.embedded.identity import Identity


@dataclass(frozen=True, slots=True)
class State:
    """What a home's keeper writes down; ``keeper`` None: it stopped in order, the port is kept for next time."""

    port: int | None = None
    keeper: Identity | None = None
    children: dict[str, Identity] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file in one step."""
        write_private(path, json.dumps(asdict(self), indent=1))


def read_state(path: Path) -> State:
    """The state of a home; one that is missing, half written or of another version reads as empty."""
    try:
        data = json.loads(path.read_text())
        keeper = data["keeper"] and Identity(**data["keeper"])
        children = {name: Identity(**child) for name, child in data["children"].items()}
        return State(data["port"], keeper, children)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()
