"""Leases of running bodies, renewed while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from stageflow_durable.codec import Classes
from stageflow_durable.errors import FenceLost, StoreUnavailable
from stageflow_durable.idempotency.keys import Scope


@dataclass(frozen=True, slots=True)
class Held:
    """A key under which a body runs. ``ctx`` is kept so that its ``id`` stays its own; ``classes``: what its output is
    restored by.
    """

    ctx: Any
    scope: Scope
    key: str
    fence: int
    classes: Classes


class LeaseKeeper:
    """Renews from one thread, which starts with the first key that is held and ends when none is.

    :param renew: extends the lease of one key.
    :param every: seconds between two renewals.
    """

    def __init__(self, renew: Callable[[Held], None], every: float) -> None:
        self._renew = renew
        self._every = every
        self._changed = threading.Condition()
        self._held: dict[int, Held] = {}
        self._thread: threading.Thread | None = None

    def __contains__(self, ctx: object) -> bool:
        return id(ctx) in self._held

    def add(self, held: Held) -> None:
        """Keep this lease from now on."""
        with self._changed:
            self._held[id(held.ctx)] = held
            # A forked child inherits the attribute but not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="stageflow-idempotency", daemon=True)
                self._thread.start()

    def pop(self, ctx: object) -> Held | None:
        """What is held for this context, not to be renewed any more."""
        with self._changed:
            return self._held.pop(id(ctx), None)

    def _run(self) -> None:
        while leases := self._next():
            for held in leases:
                self._extend(held)

    def _next(self) -> list[Held]:
        with self._changed:
            self._changed.wait(self._every)
            if not self._held:
                self._thread = None
            return list(self._held.values())

    def _extend(self, held: Held) -> None:
        # Completing finds a lost fence, and says so to the body's caller. A store that is away is tried again at the
        # next round; a lapsed lease is still ours while nobody took it.
        with suppress(FenceLost, StoreUnavailable):
            self._renew(held)
