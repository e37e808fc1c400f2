"""Processes that die in the middle of stages: what is committed stays, what was lost is done again."""

from __future__ import annotations

import pytest

from stageflow_durable import RunHandle
from tests.integration.engine.claims import all_whole, doubled
from tests.integration.engine.pairs import POSTGRES_REDIS, SQLITE_VALKEY, on
from tests.integration.engine.site import Site

# A group that dies takes along what its other child does: how often one stage is lost is chance here.
pytestmark = [pytest.mark.process, pytest.mark.chaos, on(SQLITE_VALKEY, POSTGRES_REDIS, max_recoveries=50)]

STAGES = range(1, 11)


def ten_runs(site: Site, whom: str) -> dict[str, RunHandle]:
    """A run for each stage, whose worker dies once in that stage."""
    return {f"s{k}": site.engine.enqueue("ten", {"kill": {f"s{k}": whom}, "nap": 0.01}) for k in STAGES}


def lost_stages(site: Site, run: RunHandle) -> list[str]:
    return [event["stage"] for event in site.history(run, "stage.lost")]


def test_a_child_killed_at_any_stage_costs_that_one_body(site: Site) -> None:
    runs = ten_runs(site, "child")
    site.at_rest(runs.values())
    all_whole(site, runs.values(), 10)
    for stage, run in runs.items():
        assert lost_stages(site, run) == [stage]
    assert doubled(site, runs.values()) == {(run.run_id, stage): 2 for stage, run in runs.items()}


def test_a_worker_killed_at_any_stage_costs_only_bodies_that_ran_in_it(site: Site) -> None:
    runs = ten_runs(site, "group")
    site.at_rest(runs.values(), within=80, revive=True)
    all_whole(site, runs.values(), 10)
    for stage, run in runs.items():
        assert stage in lost_stages(site, run)
    # A process may also die between a begin and its body: then a loss costs no body.
    for (run_id, stage), times in doubled(site, runs.values()).items():
        assert times <= 1 + lost_stages(site, site.engine.handle(run_id)).count(stage)
