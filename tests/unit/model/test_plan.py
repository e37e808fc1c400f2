"""What a plan tells of its strands."""

from __future__ import annotations

from stageflow_durable.model.plan import Plan, PlannedStage


def plan(**after: str) -> Plan:
    return Plan("p", "1", tuple(PlannedStage(name, after=tuple(names.split())) for name, names in after.items()))


def test_given_a_line_then_each_stage_counts_itself_and_those_behind_it() -> None:
    line = plan(a="", b="a", c="b")
    assert [line.remaining_on_strand(name) for name in "abc"] == [3, 2, 1]


def test_given_a_branch_and_a_join_then_a_strand_ends_at_either() -> None:
    diamond = plan(z="", a="z", left="a", more="left", right="a", join="more right", end="join")
    left = {name: diamond.remaining_on_strand(name) for name in diamond.by_name}
    assert left == {"z": 2, "a": 1, "left": 2, "more": 1, "right": 1, "join": 2, "end": 1}
