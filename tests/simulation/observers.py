"""An interceptor: it answers now and then in a stage's place, fails now and then, and is a witness of what it hears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stageflow_durable import AttemptEnd, Interceptor, StageContext, StageOutput, TransientError
from tests.items import item_of
from tests.simulation.ledger import Violation, named

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

KINDS, LIKELY = ["nothing", "answers", "fails"], [20, 1, 1]


class Observer(Interceptor):
    """One process's; ``hears`` is its observer."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._told: set[tuple[str, str, int, int]] = set()

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        kind = self._sim.chance.pick(f"{ctx.run_id} {ctx.stage} observer", KINDS, LIKELY)
        if kind == "fails":
            raise TransientError("not now")
        if kind == "answers":
            self._sim.note(self._sim.worker(), "answers", f"for {ctx.stage} of {self._sim.short(ctx.run_id)}")
            self._sim.bodies.answered.add((ctx.run_id, named(ctx.stage, item_of(ctx))))
            return StageOutput.ok({"answered": ctx.stage})
        output: StageOutput = call_next(ctx)
        return output

    def hears(self, end: AttemptEnd) -> None:
        """Only of what is saved where that is said, and once an attempt."""
        ctx = end.ctx
        if isinstance(ctx, StageContext) and end.committed:
            self._is_told(ctx)
        if self._sim.chance.flip(f"{ctx.run_id} {ctx.stage} observer slips", 0.1):
            raise self._sim.chance.one_of("an observer's slip", [ValueError("a slip"), SystemExit("a slip")])

    def _is_told(self, ctx: Any) -> None:
        told = ctx.run_id, ctx.stage, ctx.services.work.attempt, item_of(ctx)
        over = self._sim.database.see("attempts", told[0])
        if not any((row.stage, row.n, row.item, row.direction) == (*told[1:], "forward") for row in over):
            raise Violation(f"an observer was told of attempt {told[2]} of {ctx.stage}, which is not saved")
        if told in self._told:
            raise Violation(f"an observer was told twice of attempt {told[2]} of {ctx.stage}")
        self._told.add(told)
