from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.run import Run
from stageflow_durable.model.status import AttemptState, RunStatus, StageState
from tests.cli.conftest import Invoke
from tests.cli.fakes import RUN_ID, FakeApplication, attempt, parked_unknown, run, stage


def test_given_a_prefix_of_six_show_draws_the_run(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [parked_unknown()]
    result = invoke("show", "01J9F2")
    assert result.exit_code == 0, result.output
    assert "PARKED 14m ago, after 2.5 min: charge outcome unknown" in result.stdout
    assert "stageflow settle 01J9F2QZ7KXV charge --not-done" in result.stdout


def test_given_runs_that_begin_alike_the_id_shown_is_long_enough_to_mean_one(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [parked_unknown(), parked_unknown(run_id=RUN_ID[:14] + "0" * 12)]
    text = invoke("show", RUN_ID).stdout
    assert "stageflow compensate 01J9F2QZ7KXV3M5N --reason" in text


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [("01J9", 2, "too short"), ("01J9F3XXXX", 1, "no run 01J9F3XXXX"), ("01J9F2", 1, "fits 2 runs")],
)
def test_given_a_name_that_means_no_single_run_show_says_so_on_one_line(
    invoke: Invoke, engine: FakeApplication, given: str, code: int, says: str
) -> None:
    engine.held = [parked_unknown(), parked_unknown(run_id="01J9F2" + "0" * 20)]
    result = invoke("show", given)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert result.stderr.startswith("stageflow: ")
    assert result.stderr.count("\n") == 1


def test_as_json_times_are_utc_and_the_allowed_commands_come_along(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [parked_unknown()]
    document = json.loads(invoke("show", RUN_ID, "--json").stdout)
    assert document["created_at"] == "2026-03-01T02:59:40.000000Z"
    assert document["stages"][2]["undo"]["name"] == "refund"
    assert [(verb["verb"], verb["stage"]) for verb in document["allowed"]] == [
        ("settle", "charge"),
        ("settle", "charge"),
        ("compensate", None),
    ]
    assert document["allowed"][2]["command"] == f"stageflow compensate {RUN_ID} --reason …"


def test_watching_draws_each_change_until_the_run_is_at_rest(invoke: Invoke, engine: FakeApplication) -> None:
    ends = Ending(run(RunStatus.RUNNING, stage("a", StageState.RUNNING, attempt())))
    engine.run = ends  # type: ignore[method-assign]  # a run that ends by itself
    text = invoke("show", RUN_ID, "--watch", "--every", "0.1").stdout
    assert "running for 16m" in text
    assert "succeeded" in text


def test_watching_as_json_prints_one_line_a_change(invoke: Invoke, engine: FakeApplication) -> None:
    engine.run = Ending(run(RunStatus.RUNNING))  # type: ignore[method-assign]  # a run that ends by itself
    lines = invoke("show", RUN_ID, "--watch", "--every", "0.1", "--json").stdout.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["running", "succeeded"]


class Ending:
    def __init__(self, first: Run) -> None:
        self.first, self.asked = first, 0

    def __call__(self, run_id: str) -> Run:
        self.asked += 1
        return self.first if self.asked < 5 else replace(self.first, status=RunStatus.SUCCEEDED)


def test_when_the_database_is_away_there_is_one_line_and_no_traceback(invoke: Invoke, engine: FakeApplication) -> None:
    engine.fails = StoreUnavailable("the database did not answer:\nconnection refused")
    result = invoke("show", RUN_ID)
    assert (result.exit_code, result.stderr) == (1, "stageflow: the database did not answer: connection refused\n")


@pytest.mark.parametrize(("full", "whole"), [([], False), (["--full"], True)])
def test_values_are_cut_unless_all_of_them_is_wanted(
    invoke: Invoke, engine: FakeApplication, full: list[str], whole: bool
) -> None:
    engine.held = [replace(run(RunStatus.SUCCEEDED, stage("a", output="y" * 3000)), input={"text": "x" * 3000})]
    for more in ([], ["--watch"]):
        text = "".join(invoke("show", RUN_ID, *full, *more).stdout.split())
        assert ("x" * 3000 in text, "y" * 3000 in text) == (whole, whole)
        assert "input{" in text


def test_in_full_it_shows_where_attempts_raised_and_what_they_logged(invoke: Invoke, engine: FakeApplication) -> None:
    trace = ("ValueError: no", "  at /app/shop.py:12 in charge: raise ValueError")
    failed = replace(
        attempt(1, AttemptState.FAILED, error="ValueError: no"), traceback=trace, log=("Z INFO shop: x\x1b",)
    )
    engine.held = [run(RunStatus.FAILED, stage("charge", StageState.FAILED, failed))]
    assert "ValueError: no (shop.py:12)" in invoke("show", "01J9F2").stdout
    assert "at /app/shop.py:12 in charge" not in invoke("show", "01J9F2").stdout
    assert "INFO shop" not in invoke("show", "01J9F2").stdout
    full = invoke("show", "01J9F2", "--full").stdout
    assert "at /app/shop.py:12 in charge: raise ValueError" in full
    assert r"Z INFO shop: x\x1b" in full
