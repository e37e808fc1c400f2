"""``stageflow chaos``: what it refuses, what it says, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stageflow_durable import Engine, Pipeline
from stageflow_durable.chaos import run as chaos_run
from stageflow_durable.chaos.judge import StageTally, Verdict, judge
from stageflow_durable.chaos.place import place
from stageflow_durable.cli import celery_group
from stageflow_durable.cli.session import Session
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.run import Event
from stageflow_durable.model.status import AttemptState, RunStatus, StageState
from stageflow_durable.settings import load_settings
from tests.cli.fakes import attempt, run, stage
from tests.integration.engine.site import ROOT

SHOP = """
import time
from pydantic import BaseModel
from stageflow_durable import Engine, Pipeline, StageOutput

class Order(BaseModel):
    cents: int

def act(ctx):
    time.sleep(0.1)

def ship(ctx):
    time.sleep(0.1)
    return StageOutput.reject("no address") if ctx.input.cents > 100 else None

checkout = (Pipeline("checkout", input_type=Order).stage("reserve", act, compensate=act)
            .stage("charge", act, compensate=act).stage("ship", ship))
engine = Engine("shop", [checkout])
"""
GOOD = Verdict(
    "checkout",
    1,
    3,
    {"succeeded": 3},
    [StageTally("charge", 3, 4, 1, 1, 0)],
    ["worker-1 killed"],
    9.0,
    asked=1,
    interrupted=1,
)


class Told:
    """In the place of the real thing."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.wish: Any = None

    def __call__(self, engine: Any, reference: str, wish: Any, **_rest: Any) -> Verdict:
        self.wish = wish
        return self.verdict


def invoke(*arguments: str) -> Result:
    engine: Any = Engine("shop", [Pipeline("checkout").stage("charge", lambda ctx: None)])
    session = Session(reference="shop:engine", application=engine, settings=load_settings())
    return CliRunner().invoke(celery_group, ["chaos", *arguments], obj=session, prog_name="stageflow")


def test_a_pipeline_that_is_not_there_is_named_before_anything_starts() -> None:
    answer = invoke("chekout")
    assert answer.exit_code == 2
    assert "chekout" in answer.stderr and "checkout" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_an_input_that_is_no_json_is_refused_with_the_place_of_the_mistake() -> None:
    answer = invoke("checkout", "--input", "{cents: 1}")
    assert answer.exit_code == 2
    assert "--input is not JSON" in answer.stderr


def test_a_promise_that_was_kept_is_exit_0_and_names_the_stages_whose_body_ran_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told(GOOD)
    monkeypatch.setattr(chaos_run, "run_chaos", told)
    answer = invoke("checkout", "--input", '{"cents": 5}', "--runs", "3", "--kills", "1", "--seed", "7")
    assert answer.exit_code == 0, answer.output
    assert told.wish == chaos_run.Wish("checkout", {"cents": 5}, runs=3, kills=1, seed=7)
    assert "called more than once in a run: charge." in answer.stdout
    assert "1 of 1 SIGKILL made; 1 stage interrupted at work in 9 s" in answer.stdout
    assert "kept its promise, with 1 stage interrupted" in answer.stdout


def test_kills_that_hit_no_stage_prove_nothing_and_are_exit_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_run, "run_chaos", Told(replace(GOOD, asked=6, kills=["Valkey 7 killed"], interrupted=0)))
    answer = invoke("checkout")
    assert answer.exit_code == 3
    assert "1 of 6 SIGKILLs made; 0 stages interrupted at work" in answer.stdout
    assert "nothing was proved" in answer.stdout
    assert "kept its promise" not in answer.stdout
    told = json.loads(invoke("checkout", "--json").stdout)
    assert (told["holds"], told["proves"], told["interrupted"], told["asked"]) == (True, False, 0, 6)


def test_without_kills_nothing_about_crashes_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_run, "run_chaos", Told(replace(GOOD, asked=0, kills=[], interrupted=0)))
    answer = invoke("checkout", "--kills", "0")
    assert answer.exit_code == 0
    assert "proves nothing about crashes" in answer.stdout


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"unfinished": ["R1"]}, "did not come to rest: R1"),
        ({"missing": ["R1"]}, "accepted, and not in the database: R1"),
        ({"twice": ["R1/charge"]}, "committed or undone twice: R1/charge"),
    ],
    ids=["unfinished", "missing", "twice"],
)
def test_a_promise_that_was_broken_is_exit_1(monkeypatch: pytest.MonkeyPatch, broken: Any, says: str) -> None:
    monkeypatch.setattr(chaos_run, "run_chaos", Told(replace(GOOD, **broken)))
    answer = invoke("checkout")
    assert answer.exit_code == 1
    assert says in answer.stdout and "BROKE" in answer.stdout


def test_json_is_the_whole_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_run, "run_chaos", Told(GOOD))
    told = json.loads(invoke("checkout", "--json").stdout)
    assert (told["holds"], told["statuses"], told["stages"][0]["again"]) == (True, {"succeeded": 3}, 1)


def event(kind: str, seq: int, **data: Any) -> Event:
    return Event("R1", seq, kind, datetime.now(UTC), data)


def test_the_judge_counts_calls_losses_and_undos_and_finds_what_was_committed_twice_or_lost() -> None:
    charged = stage("charge", StageState.OK, attempt(1, AttemptState.UNKNOWN), attempt(2))
    good = run(RunStatus.SUCCEEDED, charged, run_id="R1")
    stuck = run(RunStatus.RUNNING, stage("charge", StageState.RUNNING, attempt(1)), run_id="R2")
    history = [event("stage.lost", 1, stage="charge"), event("stage.ok", 2, stage="charge")]
    found = [(good, [*history, event("stage.ok", 3, stage="charge")]), (stuck, history[:1])]
    verdict = judge("checkout", ["R1", "R2", "R3"], found, seed=1, kills=[], seconds=1.0)
    assert verdict.stages == [StageTally("charge", runs=2, bodies=3, again=1, lost=2, undone=0)]
    assert (verdict.twice, verdict.unfinished, verdict.missing) == (["R1/charge"], ["R2"], ["R3"])
    assert not verdict.holds
    assert (verdict.interrupted, verdict.proves) == (2, True)
    assert judge("checkout", ["R1"], [(good, history)], seed=1, kills=[], seconds=1.0).holds


def test_an_engine_with_a_database_in_its_code_is_refused_before_a_worker_starts(tmp_path: Path) -> None:
    theirs = Engine("shop", [], database_url=f"sqlite:///{tmp_path}/theirs.db", broker_url="redis://127.0.0.1:1/0")
    with (
        pytest.raises(ConfigurationError, match=r"database_url of its own.*take database_url out of Engine"),
        place(tmp_path / "place", theirs, "shop:engine", "shop", tuple),
    ):
        pass
    assert not (tmp_path / "theirs.db").exists()
    assert list((tmp_path / "place").glob("worker*")) == []


def stageflow(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "shop.py").write_text(SHOP)
    scratch = directory / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "stageflow_durable.cli", "--app", "shop:engine", "chaos", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.process
@pytest.mark.chaos
@pytest.mark.slow
def test_a_pipeline_of_ones_own_goes_through_kills_and_leaves_no_file(tmp_path: Path) -> None:
    answer = stageflow(tmp_path, "checkout", "--input", '{"cents": 500}', "--runs", "8", "--kills", "3", "--json")
    assert answer.returncode == 0, answer.stderr
    verdict = json.loads(answer.stdout)
    assert (verdict["accepted"], verdict["statuses"]) == (8, {"compensated": 8})
    assert [tally["undone"] for tally in verdict["stages"]] == [8, 8, 0]
    assert len(verdict["kills"]) >= 1
    assert verdict["interrupted"] >= 1
    assert list((tmp_path / "tmp").glob("stageflow-*")) == []


@pytest.mark.process
def test_an_input_that_the_pipeline_refuses_is_told_by_its_field(tmp_path: Path) -> None:
    answer = stageflow(tmp_path, "checkout", "--input", '{"cents": "many"}')
    assert answer.returncode == 2
    assert "cents" in answer.stderr.splitlines()[-1]
    assert list((tmp_path / "tmp").glob("stageflow-*")) == []
