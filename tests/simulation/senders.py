"""Those who send signals: early, late, twice, at the last moment, and again where nobody answered."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from stageflow_durable.engine.operations import DatabaseOperations
from stageflow_durable.engine.recover import Sweeper
from stageflow_durable.errors import (
    IdempotencyParamMismatch,
    LinkRefused,
    NotAllowed,
    OperatorConflict,
    StageflowError,
)
from stageflow_durable.model.run import SignalReceipt
from stageflow_durable.store.values import StrandRef
from stageflow_durable.testing.clock import START
from stageflow_durable.transitions.approval import DECISIONS, NewLink
from stageflow_durable.transitions.operate import Order
from tests.simulation.ledger import Violation
from tests.simulation.process import Process
from tests.simulation.scenario import RELEASE, WORD

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


class Senders:
    """And those who decide about approvals. ``taken``: by run, the receipt and the payload of the signal that its wait
    took, as its sender was told; ``said``: what was said about the approval of what, heard or not.
    """

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._processes = 0
        self._sent: list[tuple[str, str | None, int]] = []
        self.taken: dict[str, tuple[SignalReceipt, int]] = {}
        self.said: dict[tuple[str, str], list[str]] = {}
        self._links: dict[str, str] = {}

    def begin(self) -> None:
        """Somebody sends a signal: a new one, or one of before once more."""
        sim = self._sim
        old = sim.chance.number("signal", 0, len(self._sent), [2, *[1] * len(self._sent)])
        if old:
            self._start(*self._sent[old - 1])
            return
        runs = [run for run in self._runs() if WORD in sim.pipelines[self._pipeline(run)].by_name]
        if not runs:
            return
        self._send_anew(runs[sim.chance.number("to run", 0, len(runs) - 1)])

    def _send_anew(self, run: str) -> None:
        number = len(self._sent)
        key = None if self._sim.chance.flip("signal without key", 0.2) else f"signal {number}"
        self._sent.append((run, key, number))
        self._start(run, key, number)

    def meanwhile(self, due: Sequence[StrandRef]) -> None:
        """A signal comes after a sweep has found its wait due, and before the sweep has written that its time is over:
        a window that hardly any other signal meets.
        """
        sim = self._sim
        waits = [place.run for place in due if place.stage == WORD and place.run not in self.taken]
        if waits and sim.chance.flip("signal after a sweep's look", 0.3):
            self._send_anew(waits[0])
            sim.sleep(0.01)  # the sweep goes on a moment later

    def decide(self) -> None:
        """Somebody decides about an approval: about what is asked, or about what was when they looked."""
        asked = self._undecided()
        if not asked:
            return
        run, digest = asked[self._sim.chance.number("whose approval", 0, len(asked) - 1)]
        verb = self._sim.chance.pick("decision", ["approve", "deny"], [4, 1])
        self._start_deciding(run, digest, verb)

    def _undecided(self) -> list[tuple[str, str]]:
        rows = self._sim.database.see("approvals")
        return sorted((row.run, row.digest) for row in rows if row.decided_at is None and row.consumed_at is None)

    def _start_deciding(self, run: str, digest: str, verb: str) -> None:
        self._processes += 1
        process = Process(self._sim, f"s{self._processes}")
        process.start(f"{verb}s {self._sim.short(run)}", lambda: self._decide(process, run, digest, verb))

    def _decide(self, process: Process, run: str, digest: str, verb: str) -> None:
        sim = self._sim
        if not sim.healing and sim.chance.flip("reads it first", 0.3):
            sim.sleep(sim.chance.one_of("reads for", [1.0, 20.0, 59.9, 100.0]))
        sweeper = Sweeper(process.store, process.publisher, process.patience())
        operations = DatabaseOperations(process.store, process.publisher, sweeper, process.clock)
        sim.note(process, verb, f"{sim.short(run)} {digest[:6]}")
        try:
            self.said.setdefault((run, digest), []).append(verb)
            if sim.chance.flip("by link", 0.4):
                self._by_link(process, operations, run, digest, verb)
            else:
                getattr(operations, verb)(run, RELEASE, digest=digest, reason="read it", actor=process.name)
        except (NotAllowed, OperatorConflict, LinkRefused) as error:
            sim.note(process, "refused", str(error))
        except StageflowError as error:
            sim.note(process, "failed", f"{type(error).__name__}: {error}")

    def _by_link(self, process: Process, operations: Any, run: str, digest: str, verb: str) -> None:
        """By a new link, or by one that somebody has had before; and then once more by the same."""
        sim = self._sim
        token = self._links.get(run, "")
        if not token or sim.chance.flip("a new link", 0.5):
            self._links[run] = token = sha256(f"{run} {len(self._links)} {process.name}".encode()).hexdigest()
            order = Order(run, "approval-link", "it is asked", process.name)
            process.store.make_link(order, NewLink(token, RELEASE, "ann", sim.chance.one_of("good for", [60.0, 5.0])))
        if not sim.healing and sim.chance.flip("opens it late", 0.2):
            sim.sleep(sim.chance.one_of("after", [4.9, 5.0, 60.0]))
        order = Order(run, verb, "read it", "ann", authenticated=True)
        operations._published(order, process.store.decide(order, RELEASE, DECISIONS[verb], digest, token))
        try:
            process.store.decide(order, RELEASE, DECISIONS[verb], digest, token)
        except LinkRefused:
            return
        raise Violation(f"the link of {run} was used twice")

    def answer(self) -> None:
        """Once nothing goes wrong any more: what would wait for ever gets its signal, and its approval."""
        for run, digest in self._undecided():
            self._start_deciding(run, digest, "approve")
        waiting = [row for row in self._sim.database.see("strands") if row.waiting_for == "signal"]
        for run in sorted(row.run for row in waiting if row.wake_at is None):
            number = len(self._sent)
            self._sent.append((run, f"answer {number}", number))
            self._start(run, f"answer {number}", number)

    def _runs(self) -> list[str]:
        return sorted(row.id for row in self._sim.database.see("runs"))

    def _pipeline(self, run: str) -> str:
        (row,) = self._sim.database.see("runs", run)
        return str(row.pipeline)

    def _start(self, run: str, key: str | None, number: int) -> None:
        self._processes += 1
        process = Process(self._sim, f"s{self._processes}")
        process.start(f"signals {number}", lambda: self._send(process, run, key, number))

    def _send(self, process: Process, run: str, key: str | None, number: int) -> None:
        sim = self._sim
        if not sim.healing and sim.chance.flip("at the last moment", 0.3):
            due = [row.wake_at for row in sim.database.see("strands", run) if row.waiting_for == "signal"]
            if due and due[0] is not None:
                sim.sleep(max(0.0, due[0] - START - sim.jumped - sim.passed))
        sweeper = Sweeper(process.store, process.publisher, process.patience())
        operations = DatabaseOperations(process.store, process.publisher, sweeper, process.clock)
        sim.note(process, "signals", f"{sim.short(run)} {number}{'' if key is None else f', {key}'}")
        try:
            self._took(run, number, operations.signal(run, WORD, number, idempotency_key=key, actor=process.name))
            if key is not None and sim.chance.flip("with another payload", 0.1):
                self._mismatch(operations, run, key, number)
        except NotAllowed as error:
            self._refused(run, key, number, error)
            sim.note(process, "refused", str(error))
        except StageflowError as error:
            sim.note(process, "failed", f"{type(error).__name__}: {error}")

    def _took(self, run: str, number: int, receipt: SignalReceipt) -> None:
        before = self.taken.setdefault(run, (receipt, number))
        if before[1] != number:
            raise Violation(f"the wait of {run} took the signals {before[1]} and {number}")
        if (before[0].number, before[0].received_at) != (receipt.number, receipt.received_at):
            raise Violation(f"the signal {number} was answered with {before[0]}, and again with {receipt}")

    def _refused(self, run: str, key: str | None, number: int, error: NotAllowed) -> None:
        taken = self.taken.get(run)
        if key is not None and taken is not None and taken[1] == number:
            raise Violation(f"the signal {number} was taken, and is refused when it comes again: {error}")

    def _mismatch(self, operations: Any, run: str, key: str, number: int) -> None:
        try:
            operations.signal(run, WORD, -1 - number, idempotency_key=key, actor="somebody")
        except IdempotencyParamMismatch:
            return
        raise Violation(f"{key} was taken with another payload")
