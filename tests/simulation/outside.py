"""What bodies have started outside, and those who call back: early, late, twice, at the last moment, with something
else, and strangers who guess.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.callbacks import Callbacks, CallbackUrls
from stageflow_durable.errors import CallbackRefused, StageflowError
from stageflow_durable.model.run import CallbackReceipt
from stageflow_durable.testing.clock import START
from tests.simulation.ledger import Violation
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

URLS = CallbackUrls("https://simulated.test", "the key of the simulation")
TIMEOUTS = [40.0, 600.0]
"""How long bodies wait, in seconds."""


class Outside:
    """``handed``: the URLs that bodies have given away. ``taken``: by run and stage, the receipt and the number of
    the call that was taken, as its sender was told.
    """

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._processes = self._numbers = 0
        self._sent: dict[str, int] = {}
        self.handed: list[str] = []
        self.taken: dict[tuple[str, str], tuple[CallbackReceipt, int]] = {}

    def hand(self, url: str) -> None:
        """A body has started something, which knows its URL from now on."""
        if url not in self.handed:
            self.handed.append(url)

    def begin(self) -> None:
        """Something outside calls back."""
        sim = self._sim
        if not self.handed:
            return
        url = self.handed[sim.chance.number("which job", 0, len(self.handed) - 1)]
        again = url in self._sent and not sim.chance.flip("something else", 0.2)
        if not again:
            self._numbers += 1
        number = self._sent.setdefault(url, self._numbers) if again else self._numbers
        self._sent.setdefault(url, number)
        self._processes += 1
        process = Process(sim, f"o{self._processes}")
        process.start(f"calls back {number}", lambda: self._call(process, url, number))

    def _call(self, process: Process, url: str, number: int) -> None:
        sim = self._sim
        token = url.rpartition("/")[2]
        run, stage = URLS.read(token)
        if not sim.healing and sim.chance.flip("calls at the last moment", 0.3):
            rows = [row for row in sim.database.see("strands", run) if row.waiting_for == "callback"]
            due = [row.wake_at for row in rows if row.stage == stage and row.wake_at is not None]
            if due:
                sim.sleep(max(0.0, due[0] - START - sim.jumped - sim.passed))
        callbacks = Callbacks(process.store, URLS, sim.pipelines)
        sim.note(process, "calls back", f"{stage} of {sim.short(run)}, {number}")
        try:
            if sim.chance.flip("guesses", 0.1):
                self._guess(callbacks, token)
            receipt, nudges = callbacks.receive(token, json.dumps(number).encode())
            self._took(run, stage, number, receipt)
            publish(process.store, process.publisher, nudges)
        except CallbackRefused as error:
            self._refused(run, stage, number, error)
            sim.note(process, "refused", str(error))
        except StageflowError as error:
            sim.note(process, "failed", f"{type(error).__name__}: {error}")

    def _guess(self, callbacks: Callbacks, token: str) -> None:
        try:
            callbacks.receive(token[:-1] + ("0" if token[-1] != "0" else "1"), b"-1")
        except CallbackRefused as error:
            if error.reason == "forged":
                return
        raise Violation("a token that was guessed is taken for one of ours")

    def _took(self, run: str, stage: str, number: int, receipt: CallbackReceipt) -> None:
        before = self.taken.setdefault((run, stage), (receipt, number))
        if before[1] != number:
            raise Violation(f"{stage} was called back with {before[1]}, and took {number} as well")
        if before[0].received_at != receipt.received_at:
            raise Violation(f"the call {number} was answered with {before[0]}, and again with {receipt}")

    def _refused(self, run: str, stage: str, number: int, error: CallbackRefused) -> None:
        taken = self.taken.get((run, stage))
        if taken is not None and taken[1] == number:
            raise Violation(f"the call {number} was taken, and is refused when it comes again: {error}")
