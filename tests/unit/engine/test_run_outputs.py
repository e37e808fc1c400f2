"""What an executor keeps: a stage sees its ancestors' outputs and nobody else's, by whomever they were saved."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.codec import encode
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Saved

RUNS = [
    SimpleNamespace(id=name, pipeline="g", input=encode({}), input_schema=1, metadata=encode({})) for name in ("R", "S")
]
DIAMOND = Pipeline[Any, Any]("g")
for name, after in {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("b",)}.items():
    DIAMOND = DIAMOND.stage(name, lambda _ctx: None, after=after)
PARTS = st.sampled_from(["here", "here", "here", "elsewhere", "undone", "looked at", "of another run"])


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline[Any, Any]:
    made = Pipeline[Any, Any]("g")
    for number in range(draw(st.integers(1, 7))):
        before = [f"s{other}" for other in range(number)]
        chosen = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        after = before[-1:] if draw(st.booleans()) else chosen  # along a line, mostly
        made = made.stage(f"s{number}", lambda _ctx: None, after=after)
    return made


class Ride:
    """A saved_outputs over what was saved by anybody."""

    def __init__(self, pipeline: Pipeline[Any, Any]) -> None:
        self.plan, self.saved = pipeline.plan, dict[str, Saved]()
        store: Any = SimpleNamespace(outputs=lambda run: self.saved if run == "R" else {})
        self.saved_outputs = RunOutputs(store, pipeline)

    def work(self, stage: str, run: Any = RUNS[0], brought: dict[str, Saved] | None = None) -> Any:
        return SimpleNamespace(run=run, plan=self.plan, stage=stage, item=0, saved=brought)

    def here(self, stage: str, delta: str | None = '"x"') -> None:
        """The stage runs by this executor and is saved."""
        self.sees_its_ancestors(stage)
        self.elsewhere(stage, delta)
        self.saved_outputs.add(self.work(stage), delta)

    def elsewhere(self, stage: str, delta: str | None = '"x"') -> None:
        """The stage is saved by another process."""
        self.saved[stage] = Saved(delta, 1)

    def sees_its_ancestors(self, stage: str, brought: dict[str, Saved] | None = None) -> None:
        seen, ancestors = self.saved_outputs.snapshot(self.work(stage, brought=brought)), self.plan.ancestors[stage]
        assert seen.skipped == {name for name in ancestors if self.saved[name].delta is None}
        assert dict(seen.outputs) == dict.fromkeys(ancestors - seen.skipped, "x")


def test_given_a_branch_that_ended_elsewhere_when_the_ride_goes_on_behind_the_join_then_both_are_seen() -> None:
    ride = Ride(DIAMOND)
    ride.here("a")
    ride.here("b")
    ride.elsewhere("c")
    ride.sees_its_ancestors("d")


def test_given_all_was_read_for_an_undo_when_a_stage_follows_then_it_sees_no_branch_beside_it() -> None:
    ride = Ride(DIAMOND)
    ride.here("a")
    ride.here("b")
    ride.elsewhere("c")
    ride.saved_outputs.load(ride.work("b"))
    ride.sees_its_ancestors("e")


@given(pipelines(), st.data())
def test_given_any_graph_and_any_ride_through_it_then_a_stage_sees_what_its_ancestors_saved(
    pipeline: Pipeline[Any, Any], data: st.DataObject
) -> None:
    ride = Ride(pipeline)
    plan, saved = ride.plan, ride.saved
    while len(saved) < len(plan.stages):
        ready = [name for name, spec in plan.by_name.items() if name not in saved and saved.keys() >= {*spec.after}]
        stage, part = data.draw(st.sampled_from(ready), "stage"), data.draw(PARTS, "part")
        delta = data.draw(st.sampled_from(['"x"', '"x"', None]), "delta")
        if part == "undone":
            ride.saved_outputs.load(ride.work(stage))
        if part == "of another run":
            ride.saved_outputs.snapshot(ride.work(plan.roots[0], RUNS[1]))
        if part == "looked at":
            ride.sees_its_ancestors(stage, dict(saved))
        if part == "here":
            ride.here(stage, delta)
        if part == "elsewhere":
            ride.elsewhere(stage, delta)
