"""What the checks leave out is what has not changed: what they look at each time is enough."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from tests.protocol.invariants import Watch
from tests.simulation.bench import AUDIT_KEY
from tests.simulation.checks import Checks
from tests.simulation.ledger import Violation
from tests.simulation.lines import apart
from tests.simulation.play import KINDS, bench, failing, quietly
from tests.simulation.simulation import Simulation

SEEDS = 60
WATCHED_SEEDS = 15
OF_A_RUN = ("strands", "attempts", "checkpoints", "saga_steps", "events")


@pytest.mark.parametrize("store", KINDS)
def test_each_run_of_which_a_row_has_changed_is_looked_at(store: str) -> None:
    look, seen_by = Checks.step, defaultdict[Any, dict[str, Any]](dict)

    def step(self: Checks, call: str) -> None:
        now = _by_run(self._sim.database)
        before, seen_by[self] = seen_by[self], now
        changed = {run for run in now.keys() | before.keys() if now.get(run) != before.get(run)}
        if left_out := changed - self._sim.database.written:
            self._sim.broken(Violation(f"{call} has changed {left_out}, at which nobody looks"))
        look(self, call)

    with patch.object(Checks, "step", step):
        assert failing(range(SEEDS), store=store) == []


def _by_run(database: Any) -> dict[str, Any]:
    found: dict[str, list[Any]] = {row.id: [row] for row in database.see("runs")}
    for table in OF_A_RUN:
        for row in database.see(table):
            found.setdefault(row.run, []).append(row)
    return found


@pytest.mark.parametrize("store", KINDS)
def test_all_holds_for_the_runs_that_are_not_looked_at_again_as_they_have_not_changed(store: str) -> None:
    look, times = Watch.check, 0

    def check(self: Watch) -> None:
        nonlocal times
        look(self)
        times += 1
        left_out = [what for seen in self._rows.pictures(AUDIT_KEY).values() for what in self._broken(seen)]
        assert left_out == []

    with patch.object(Watch, "check", check), quietly():
        for seed in range(WATCHED_SEEDS):
            assert apart(lambda seed=seed: _watched(store, seed)) is None  # type: ignore[misc]  # bound now
    assert times > WATCHED_SEEDS


def _watched(store: str, seed: int) -> Violation | None:
    simulation = Simulation(bench(store), seed)
    simulation.setup = replace(simulation.setup, watched=True)
    violation = simulation.run()
    simulation.forget()
    return violation
