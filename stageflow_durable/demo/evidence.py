"""What is known once it is over: read from the engine, both ledgers and the spool, and from nothing that remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stageflow_durable.demo.backstage import Backstage
from stageflow_durable.demo.intake import Intake, order_of
from stageflow_durable.demo.ledger import Effect, read_effects
from stageflow_durable.demo.progress import Progress
from stageflow_durable.demo.reconcile import Difference, RunRow, account_for_lines, reconcile

HEADER = "X-Order: "


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the judge and the table need. ``lines``: read; ``faults``: requests by fate; ``events``: by type."""

    lines: int
    intake: Intake
    runs: Sequence[RunRow]
    effects: Sequence[Effect]
    letters: Sequence[str]
    faults: Mapping[str, int]
    events: Mapping[str, int]
    progress: Progress
    kills_wanted: int

    def differences(self) -> list[Difference]:
        """Everything that does not add up."""
        books = reconcile(self.intake.expected(), self.runs, self.effects, self.letters)
        return account_for_lines(self.lines, self.intake.outcomes()) + books


def gather(stage: Backstage, lines: int, intake: Intake, progress: Progress, kills_wanted: int) -> Evidence:
    """Read everything; no worker runs any more, so that it is final."""
    return Evidence(
        lines=lines,
        intake=intake,
        runs=[RunRow(run.run_id, order_of(run.key), str(run.status)) for run in stage.runs()],
        effects=[effect for service in stage.services for effect in read_effects(service.ledger)],
        letters=[order_of_letter(file.read_text(encoding="utf-8")) for file in sorted(stage.outbox.glob("*.eml"))],
        faults=stage.served(),
        events=_events(stage),
        progress=progress,
        kills_wanted=kills_wanted,
    )


def order_of_letter(letter: str) -> str:
    """The order id in a letter's header; empty when it has none."""
    return next((line.removeprefix(HEADER) for line in letter.splitlines() if line.startswith(HEADER)), "")


def _events(stage: Backstage) -> Mapping[str, int]:
    histories = (stage.engine.history(run.run_id) for run in stage.runs())
    return Counter(event.type for history in histories for event in history)
