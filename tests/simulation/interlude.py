"""In some seeds, before nothing goes wrong any more: some minutes in which nobody can carry what there is.

It may cost no more than a few messages, nothing may go round for ever, and people have to be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stageflow_durable.engine.operations import UNSERVED_SECONDS, DatabaseOperations
from stageflow_durable.engine.recover import Sweeper
from tests.simulation.checks import PUBLISHED_MOST
from tests.simulation.ledger import Violation
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

STEPS = (1.1, 1.1, 1.1, 1.1, 2.1, 2.1, 4.1, 4.1, 8.1, 8.1, 16.1, 16.1, 30.1, 30.1, 30.1, 60.1, 60.1)
"""Seconds between sweeps, about five minutes in all."""

ROUNDS = 300
"""Things to do between two sweeps; more than that goes round."""


def unheard_of(sim: Simulation) -> None:
    """All workers die, and those that come in their place do not know a pipeline."""
    name = next(iter(sim.pipelines))
    sim.unheard_of = name
    for worker in sim.workers:
        worker.alive = False
    _pass(sim, _unsettled(sim, name))
    process = Process(sim, "o0")
    sweeper = Sweeper(process.store, process.publisher, process.patience())
    operations = DatabaseOperations(process.store, process.publisher, sweeper, process.clock)
    told = {run.run_id for run in operations.runs(attention=True, limit=1000)}
    for run in _unsettled(sim, name):
        if _needs_a_worker(sim, run) and run not in told:
            raise Violation(f"{sim.short(run)} stands still, since no worker knows it, and nobody is told")
    sim.unheard_of = None
    for worker in sim.workers:
        if worker.has_served:
            worker.end()


def starved(sim: Simulation) -> None:
    """Workers are busy with something else, and one of them has taken all messages in advance."""
    sim.starving = True
    _pass(sim, _unsettled(sim))
    sim.starving = False


def _unsettled(sim: Simulation, pipeline: str | None = None) -> list[str]:
    rows = sim.database.see("runs")
    return [row.id for row in rows if row.phase != "settled" and pipeline in (None, row.pipeline)]


def _needs_a_worker(sim: Simulation, run: str) -> bool:
    """What waits for somebody's word, or for a time to come, needs none yet; and of what has moved just now nobody is
    told that it stands still.
    """
    now = sim.now()
    (moved_at,) = (row.updated_at for row in sim.database.see("runs", run))
    if now - UNSERVED_SECONDS <= moved_at <= now:
        return False
    rows = [row for row in sim.database.see("strands", run) if row.state not in ("done", "rest")]
    due = [row for row in rows if row.waiting_for != "time" or row.wake_at <= now]
    return any(row.waiting_for not in ("signal", "approval", "callback") for row in due)


def _pass(sim: Simulation, runs: Iterable[str]) -> None:
    published = {run: sim.broker.published.get(run, 0) for run in runs}
    for step in STEPS:
        sim.advance(step)
        _work(sim)
        sim.sweep_once()
    for run, before in published.items():
        count, strands = sim.broker.published.get(run, 0) - before, len(sim.database.see("strands", run))
        if count > PUBLISHED_MOST * strands:
            raise Violation(f"13: {count} messages were published for {strands} strands that nobody could carry")


def _work(sim: Simulation) -> None:
    for _round in range(ROUNDS):
        if not sim.work():
            return
    raise Violation("what nobody can carry goes round and round")


INTERLUDES = {"unheard of": unheard_of, "starved": starved}
