"""An interceptor: it answers now and then in a stage's place, fails now and then, and is a witness of what it hears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stageflow_durable import Interceptor, StageOutput, TransientError
from tests.simulation.ledger import Violation

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

KINDS, LIKELY = ["nothing", "answers", "fails"], [20, 1, 1]
OVER = "SELECT 1 FROM stageflow_attempts WHERE run=? AND stage=? AND direction='forward' AND n=?"


class Observer(Interceptor):
    """One process's."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._told: set[tuple[str, str, int]] = set()

    def before(self, ctx: Any) -> StageOutput | None:
        kind = self._sim.chance.pick(f"{ctx.run_id} {ctx.stage} observer", KINDS, LIKELY)
        if kind == "fails":
            raise TransientError("not now")
        if kind == "nothing":
            return None
        self._sim.note(self._sim.worker(), "answers", f"for {ctx.stage} of {self._sim.short(ctx.run_id)}")
        self._sim.bodies.answered.add((ctx.run_id, ctx.stage))
        return StageOutput.ok({"answered": ctx.stage})

    def after(self, ctx: Any, output: StageOutput) -> None:
        self._is_told(ctx)

    def on_error(self, ctx: Any, error: BaseException) -> None:
        self._is_told(ctx)

    def _is_told(self, ctx: Any) -> None:
        """Only of what is saved, and once."""
        told = ctx.run_id, ctx.stage, ctx.services._work.attempt
        if not self._sim.database.see(OVER, *told):
            raise Violation(f"an observer was told of attempt {told[2]} of {ctx.stage}, which is not saved")
        if told in self._told:
            raise Violation(f"an observer was told twice of attempt {told[2]} of {ctx.stage}")
        self._told.add(told)
        if self._sim.chance.flip(f"{ctx.run_id} {ctx.stage} observer slips", 0.1):
            raise self._sim.chance.one_of("an observer's slip", [ValueError("a slip"), SystemExit("a slip")])
