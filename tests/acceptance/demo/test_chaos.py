"""The plan of the kills: paced, fair to all targets, and the same again for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest

from stageflow_durable.demo.chaos import Target, plan_blows


def test_given_six_kills_when_planned_then_each_target_has_two_while_work_is_left() -> None:
    blows = plan_blows(6, 280, seed=1)
    assert Counter(blow.target for blow in blows) == dict.fromkeys(Target, 2)
    assert [blow.after for blow in blows] == [40, 80, 120, 160, 200, 240]


def test_given_one_seed_when_planned_twice_then_the_plans_are_equal_and_other_seeds_differ() -> None:
    assert plan_blows(6, 100, seed=3) == plan_blows(6, 100, seed=3)
    assert len({tuple(plan_blows(6, 100, seed=seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize(("kills", "runs"), [(0, 10), (1, 0), (9, 1)])
def test_given_few_runs_or_no_kills_when_planned_then_no_blow_waits_for_all_runs_to_end(kills: int, runs: int) -> None:
    blows = plan_blows(kills, runs, seed=1)
    assert len(blows) == kills
    assert all(blow.after <= max(runs - 1, 0) for blow in blows)
