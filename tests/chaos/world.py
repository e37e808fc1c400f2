"""The world outside the engine: a keyed book of effects that every process writes and the engine cannot see.

It is what an honest remote side is: a key is applied once, an undo names the key of the action and leaves a tombstone,
so that whatever a paused process sends afterwards is refused.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from stageflow_durable.demo.ledger import Answer, Effect, Ledger, read_effects, record, undo
from stageflow_durable.errors import PermanentError
from tests.integration.apps.ledger import VARIABLE

PIECES = "pieces"


class World:
    """The book at ``path``. Opened for each request, as a request to a remote side would be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def here(cls) -> World:
        """The one of this worker."""
        return cls.beside(Path(os.environ[VARIABLE]))

    @classmethod
    def beside(cls, ledger: Path) -> World:
        """The one beside the list of calls."""
        return cls(ledger.with_name("world.db"))

    def act(self, key: str, run: str, kind: str, amount: int = 1) -> None:
        """Apply once. Raises PermanentError where the action was undone already."""
        with self._open() as book:
            answer = book.once(
                key, {"run": run, "kind": kind, "amount": amount}, lambda rows: _act(rows, key, run, kind, amount)
            )
        if answer.status != HTTPStatus.OK:
            raise PermanentError(answer.body["error"])

    def undo(self, key: str, of: str, kind: str) -> None:
        """Undo the action of that key, once; it may never have happened."""
        with self._open() as book:
            book.once(key, {"of": of}, lambda rows: Answer(200, {"undone": undo(rows, key, kind, of) is not None}))

    def effects(self) -> list[Effect]:
        """Everything that happened, oldest first."""
        with self._open():  # a worker that is the first makes the file a moment before its tables
            return read_effects(self.path)

    def of(self, runs: Iterable[str]) -> dict[str, Trace]:
        """What happened for each of these runs."""
        traces = {run: Trace() for run in runs}
        for effect in self.effects():
            if effect.order_id in traces:
                traces[effect.order_id].effects.append(effect)
        return traces

    @contextmanager
    def _open(self) -> Iterator[Ledger]:
        book = Ledger(self.path)
        try:
            yield book
        finally:
            book.close()


@dataclass(frozen=True, slots=True)
class Trace:
    """The effects of one run, oldest first."""

    effects: list[Effect] = field(default_factory=list)

    @property
    def done(self) -> list[str]:
        """Kinds of actions, as they happened."""
        return [effect.kind for effect in self.effects if effect.of is None]

    @property
    def undone(self) -> list[str]:
        """Kinds of actions, in the order in which they were undone."""
        kinds = {effect.key: effect.kind for effect in self.effects}
        return [kinds[effect.of] for effect in self.effects if effect.of is not None]

    @property
    def net(self) -> dict[str, int]:
        """What is left of each kind of action: actions less undos."""
        left: defaultdict[str, int] = defaultdict(int)
        kinds = {effect.key: effect.kind for effect in self.effects}
        for effect in self.effects:
            left[kinds[effect.of or effect.key]] += effect.amount if effect.of is None else -effect.amount
        return dict(left)

    def problems(self, *, succeeded: bool, stages: Iterable[str]) -> list[str]:
        """Why this is not what a run that succeeded (or was undone) leaves behind; empty: it is."""
        times = Counter(self.done)
        found = [f"{kind} happened {count} times" for kind, count in times.items() if count > 1]
        if succeeded:
            found += [f"{stage} did not happen" for stage in stages if stage not in times]
            found += [f"{kind} was undone" for kind in self.undone]
            return found
        found += [f"{kind}: {left} is left" for kind, left in self.net.items() if left]
        if self.undone != self.done[::-1]:
            found.append(f"done {self.done}, but undone {self.undone}")
        return found


def _act(rows: object, key: str, run: str, kind: str, amount: int) -> Answer:
    record(rows, Effect(key, kind, run, amount, PIECES))  # type: ignore[arg-type]  # rows of a service
    return Answer(200, {})
