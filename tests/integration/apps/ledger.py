"""What stages did to the world outside the engine: one line a call, appended in one write, whoever dies afterwards.

A line is an attempt to act; the keyed remote system that it stands for would apply each key once.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "LEDGER"
"""The environment variable that tells workers where the ledger is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of a body (``do``) or an undo (``undo``). ``token``: what it would return; ``pid``: who ran it."""

    kind: str
    run: str
    stage: str
    attempt: int
    key: str
    token: str
    pid: int


class Ledger:
    """The file, and the directory of markers and gates beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: list[Entry] = []
        self._offset = 0

    @classmethod
    def here(cls) -> Ledger:
        """The one of this worker."""
        return cls(Path(os.environ[VARIABLE]))

    def write(self, entry: Entry) -> None:
        """Append; O_APPEND keeps the lines of many processes whole."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def entries(self, runs: Iterable[str] | None = None) -> list[Entry]:
        """Every line, or those of some runs, oldest first."""
        self._read_on()
        wanted = None if runs is None else set(runs)
        return [entry for entry in self._read if wanted is None or entry.run in wanted]

    def _read_on(self) -> None:
        """Lines are only appended, so that each is read once."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._read += [Entry(**json.loads(line)) for line in whole.splitlines()]

    def bodies(self, runs: Iterable[str] | None = None, kind: str = "do") -> Counter[tuple[str, str]]:
        """How often each (run, stage) was called."""
        return Counter((entry.run, entry.stage) for entry in self.entries(runs) if entry.kind == kind)

    def order(self, run: str, kind: str = "do") -> list[str]:
        """The stages of a run, in the order of their calls."""
        return [entry.stage for entry in self.entries([run]) if entry.kind == kind]

    def first(self, name: str) -> bool:
        """True for the first who asks for that name, ever: what happens once happens once, over all processes."""
        try:
            os.close(os.open(self._beside(name), os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True

    def open(self, name: str) -> None:
        """Open a gate: stages that hold at it go on."""
        self._beside(f"{name}.gate").touch()

    def is_open(self, name: str) -> bool:
        """Whether a gate is open."""
        return self._beside(f"{name}.gate").exists()

    def _beside(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{name}")
