"""After Ctrl-C of ``stageflow up`` its database is there, and what needs only the database works on it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stageflow_durable import Engine, Pipeline
from stageflow_durable.cli import celery_group
from stageflow_durable.settings import load_settings
from stageflow_durable.state import schema

SHOP = """
from stageflow_durable import Engine, Pipeline

def charge(ctx):
    return {"paid": 1}

checkout = Pipeline("checkout").stage("charge", charge)
engine = Engine("shop", [checkout])
"""


@pytest.fixture
def run_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run in the database of a one-machine mode that was stopped."""
    for name in ("STAGEFLOW_DATABASE_URL", "STAGEFLOW_BROKER_URL", "STAGEFLOW_APP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "shop.py").write_text(SHOP)
    home = tmp_path / ".stageflow"
    home.mkdir()
    url = f"sqlite:///{home / 'stageflow.db'}"
    schema.upgrade(url)
    engine = Engine("shop", [_checkout()], database_url=url, broker_url="memory://")
    yield engine.enqueue("checkout", {}).run_id
    engine.close()
    sys.modules.pop("shop", None)


def _checkout() -> Pipeline:
    return Pipeline("checkout").stage("charge", lambda ctx: {"paid": 1})


def stageflow(*arguments: str) -> Result:
    return CliRunner().invoke(celery_group, [*arguments], prog_name="stageflow")


@pytest.mark.parametrize("app", [[], ["--app", "shop:engine"]])
def test_runs_are_seen_and_steered_while_it_is_stopped(run_id: str, app: list[str]) -> None:
    listed = stageflow(*app, "runs", "--json")
    assert [run["run_id"] for run in json.loads(listed.stdout)] == [run_id]
    assert "nothing runs in" in listed.stderr
    assert "to carry on: stageflow up" in listed.stderr
    assert "not started" in stageflow(*app, "show", run_id).stdout
    assert "no worker is alive; start one: stageflow up" in stageflow(*app, "workers").stderr
    assert stageflow(*app, "db", "current").exit_code == 0
    cancelled = stageflow(*app, "cancel", run_id, "--reason", "duplicate")
    assert cancelled.stdout == f"{run_id[:12]}  pending → cancelled\n"


@pytest.mark.parametrize("arguments", [["runs"], ["--app", "shop:engine", "show", "nothing"]])
def test_the_process_has_its_logging_back_when_the_command_ends(run_id: str, arguments: list[str]) -> None:
    loggers = [logging.getLogger(name) for name in ("stageflow", "stageflow.accept")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    stageflow(*arguments)
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before


def test_the_app_that_the_settings_name_is_no_hindrance(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("shop:engine", "gone:engine"):
        monkeypatch.setenv("STAGEFLOW_APP", named)
        assert run_id in stageflow("runs", "--json").stdout


def test_doctor_says_that_it_is_stopped_and_looks_at_the_rest(run_id: str) -> None:
    result = stageflow("--app", "shop:engine", "doctor", "--json")
    found = {check["name"]: check for check in json.loads(result.stdout)}
    assert {name: check["level"] for name, check in found.items()} == {
        "database": "ok", "schema": "ok", "workers": "fail", "overdue runs": "ok", "audit key": "ok",
        "runs carried": "ok", "idle workers": "ok", "broker": "warn", "application": "skip",
    }  # fmt: skip
    assert found["broker"]["fix"] == found["workers"]["fix"] == "stageflow up"


def test_a_run_cannot_be_started_while_it_is_stopped_and_both_ways_out_are_told(run_id: str) -> None:
    result = stageflow("--app", "shop:engine", "enqueue", "checkout", "--input", "{}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "STAGEFLOW_DATABASE_URL" in result.stderr
    assert "stageflow up" in result.stderr


def test_where_no_database_was_left_nothing_is_made_and_both_ways_out_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = stageflow("runs")
    assert (result.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "stageflow up" in result.stderr
    assert load_settings().home == tmp_path / ".stageflow"
