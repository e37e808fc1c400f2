"""One wait for a run: until it is at rest, or until something of it changed; told, or by looking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from stageflow_durable.clock import Clock
from stageflow_durable.duration import LONGEST, is_duration, seconds_of, shown
from stageflow_durable.engine.awaiting import Awaiting
from stageflow_durable.engine.services import run_inside
from stageflow_durable.errors import InvalidInput, NotAllowedInStage, ResultTimeout, StoreUnavailable
from stageflow_durable.model.status import AT_REST
from stageflow_durable.model.work import RunFacts
from stageflow_durable.store.values import AtRest


class RunWait:
    """A wait that began now and lasts ``timeout`` seconds (or a timedelta; None: for ever). ``asked``: the name of the
    call; ``look``: reads the run's row, and raises UnknownRun; ``awaiting``: None: by ``clock`` alone.

    Raises NotAllowedInStage inside a stage, InvalidInput for a timeout that is no time.
    """

    def __init__(
        self,
        run_id: str,
        asked: str,
        timeout: float | timedelta | None,
        look: Callable[[], RunFacts],
        awaiting: Awaiting | None,
        clock: Clock,
    ) -> None:
        inside = run_inside()
        if inside is not None:
            raise NotAllowedInStage(
                run_id, f"{asked}()", f"called inside a stage of run {inside}, it would hold the worker's slot"
            )
        if timeout is not None and not is_duration(timeout, low=-LONGEST):  # what is below 0 has just run out
            wrong = f"timeout: {shown(timeout)} is no number of seconds up to ten years, or None"
            raise InvalidInput(f"{asked} of run {run_id}", [wrong])
        self._run_id = run_id
        self._seconds = None if timeout is None else seconds_of(timeout, low=-LONGEST)
        self._look, self._awaiting, self._clock = look, awaiting, clock
        self._began = clock.monotonic()

    def _left(self) -> float | None:
        return None if self._seconds is None else max(0.0, self._began + self._seconds - self._clock.monotonic())

    @property
    def _is_over(self) -> bool:
        return self._left() == 0.0

    # --- until it is at rest ------------------------------------------------------------------------------------------

    def until_rest(self) -> AtRest:
        """Wait until the run is at rest. Raises ResultTimeout."""
        while (rest := self._looked(self._await())) is None:
            pass
        return rest

    async def auntil_rest(self) -> AtRest:
        """The same for a coroutine, which takes no thread meanwhile."""
        if self._awaiting is None:
            return await asyncio.to_thread(self.until_rest)
        rest = None
        while rest is None:
            found = await self._awaiting.await_(self._run_id, self._left())
            rest = found if isinstance(found, AtRest) else await asyncio.to_thread(self._looked, found)
        return rest

    def _looked(self, found: AtRest | bool) -> AtRest | None:
        """What was found; None: nothing yet. Raises ResultTimeout when the time is over, UnknownRun."""
        if isinstance(found, AtRest):
            return found
        try:
            run = self._look()
        except StoreUnavailable as error:
            if not self._is_over:
                raise
            after = f"after {self._seconds:g} s, and the database is away"
            raise ResultTimeout(f"run {self._run_id}: no result {after}; the run goes on") from error
        if run.status in AT_REST:
            return AtRest(run, None)
        if self._is_over:
            raise ResultTimeout(f"run {self._run_id} is still {run.status} after {self._seconds:g} s; it goes on")
        return None

    # --- until it changes ---------------------------------------------------------------------------------------------

    def until_change(self, seen: int) -> None:
        """Wait until the run's number is another one than ``seen``. Raises ResultTimeout."""
        self._changed(self._await(seen))

    async def auntil_change(self, seen: int) -> None:
        """The same for a coroutine."""
        if self._awaiting is None:
            await asyncio.to_thread(self.until_change, seen)
        else:
            self._changed(await self._awaiting.await_(self._run_id, self._left(), seen))

    def _changed(self, found: AtRest | bool) -> None:
        if found is False and self._is_over:
            raise ResultTimeout(f"run {self._run_id}: no end of its events after {self._seconds:g} s; it goes on")

    def _await(self, seen: int | None = None) -> AtRest | bool:
        """As of :meth:`Awaiting.wait`."""
        if self._awaiting is not None:
            return self._awaiting.wait(self._run_id, self._left(), seen)
        pause = 0.01  # by the clock of a test or the simulation, which lets the others work meanwhile
        while True:
            run = self._look()
            if run.status in AT_REST if seen is None else run.seq != seen:
                return AtRest(run, None) if seen is None else True
            if self._is_over:
                return False
            left = self._left()
            self._clock.sleep(pause if left is None else min(pause, left))
            pause = min(0.25, pause * 1.5)
