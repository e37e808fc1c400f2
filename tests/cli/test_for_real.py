"""The command as a process, on real databases and a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command

from stageflow_durable.state.database import Database
from stageflow_durable.state.schema import config, upgrade
from tests.cli.terminal import Terminal
from tests.services.process import Processes

SHOP = """
import os
import signal
from stageflow_durable import Engine, Pipeline, StageOutput

def reserve(ctx):
    return {"reservation": ctx.input["order_id"]}

def charge(ctx):
    if ctx.input.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.input.get("broke"):
        return StageOutput.reject("card declined")
    return {"payment_id": "p-1"}

def undo(ctx):
    pass

checkout = (Pipeline("checkout").stage("reserve", reserve, compensate=undo)
            .stage("charge", charge, compensate=undo, on_unknown="park").stage("ship", reserve, pivot=True))
engine = Engine("shop", [checkout])
"""

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
COMMAND = [sys.executable, "-m", "stageflow_durable.cli"]
Stageflow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(database_url: str, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "shop.py").write_text(SHOP)
    return {
        "STAGEFLOW_DATABASE_URL": database_url,
        "STAGEFLOW_BROKER_URL": valkey_url,
        "STAGEFLOW_LEASE_SECONDS": "2",
        "PYTHONPATH": str(Path.cwd()),
    }


@pytest.fixture
def upgraded(database_url: str) -> None:
    upgrade(database_url)


@pytest.fixture
def stageflow(environment: dict[str, str], tmp_path: Path) -> Stageflow:
    """``stageflow("runs", "--json")``: the command in a directory that holds shop.py."""

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | environment | more,
            check=False,
            timeout=60,
        )

    return call


@on_postgres
def test_before_the_schema_is_there_every_command_says_how_to_make_it(stageflow: Stageflow) -> None:
    for arguments in (["runs"], ["--app", "shop:engine", "enqueue", "checkout", "--input", '{"order_id": "A-1"}']):
        result = stageflow(*arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert "has no schema of stageflow, this release needs 0" in result.stderr
        assert "stageflow db upgrade" in result.stderr
        assert result.stderr.count("\n") == 1
    assert stageflow("db", "current").returncode == 1
    planned = stageflow("db", "upgrade", "--dry-run")
    assert planned.stdout.startswith("schema empty → 0")
    assert "locks nothing for longer than a moment" in planned.stdout
    assert stageflow("db", "current").returncode == 1
    assert json.loads(stageflow("db", "upgrade", "--json").stdout)["before"] is None
    assert json.loads(stageflow("db", "upgrade", "--dry-run", "--json").stdout)["steps"] == []
    again = stageflow("db", "upgrade")
    assert (again.returncode, again.stdout.endswith("nothing to do\n")) == (0, True)
    assert stageflow("db", "current").returncode == 0


def test_what_an_upgrade_of_a_database_of_before_does_is_told_and_then_done(
    stageflow: Stageflow, database_url: str
) -> None:
    before = Database(database_url)
    with before.transaction() as connection:
        made = config()
        made.attributes["connection"] = connection
        command.upgrade(made, "0006")
    before.dispose()
    planned = stageflow("db", "upgrade", "--dry-run")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert planned.stdout.startswith("schema 0006 → 0")
    assert "no worker may be at work; none is" in planned.stdout
    assert stageflow("db", "current").returncode == 1
    done = stageflow("db", "upgrade")
    assert (done.returncode, stageflow("db", "current").returncode) == (0, 0)


@on_sqlite
@pytest.mark.usefixtures("upgraded")
def test_runs_are_seen_and_cancelled_with_the_database_alone(stageflow: Stageflow) -> None:
    run_id = stageflow(
        "--app", "shop:engine", "enqueue", "checkout", "--input", '{"order_id": "A-1"}', "--idempotency-key", "A-1"
    ).stdout.strip()
    alone = {"STAGEFLOW_BROKER_URL": ""}
    [listed] = json.loads(stageflow("runs", "--json", **alone).stdout)
    assert (listed["run_id"], listed["status"], listed["key"]) == (run_id, "pending", "A-1")
    assert "not started (pivot)" in stageflow("show", run_id[:12], **alone).stdout
    cancelled = stageflow("cancel", run_id[:12], "--reason", "duplicate", "--actor", "ann@ops", **alone)
    assert (cancelled.returncode, cancelled.stderr) == (0, "")
    assert cancelled.stdout == f"{run_id[:12]}  pending → cancelled\n"
    assert "s ago: cancel, duplicate" in stageflow("show", run_id, **alone).stdout
    assert stageflow("workers", "--json", **alone).stdout == "[]\n"
    doctor = {check["name"]: check["level"] for check in json.loads(stageflow("doctor", "--json", **alone).stdout)}
    assert doctor == {
        "database": "ok",
        "schema": "ok",
        "workers": "warn",
        "overdue runs": "ok",
        "audit key": "warn",
        "runs carried": "ok",
        "idle workers": "ok",
        "broker": "skip",
        "application": "skip",
    }


@on_sqlite
@pytest.mark.usefixtures("upgraded")
def test_with_the_broker_away_a_run_is_recorded_all_the_same(stageflow: Stageflow) -> None:
    result = stageflow(
        "--app",
        "shop:engine",
        "enqueue",
        "checkout",
        "--input",
        '{"order_id": "A-1"}',
        STAGEFLOW_BROKER_URL="redis://127.0.0.1:1/0",
    )
    assert result.returncode == 0
    assert json.loads(stageflow("runs", "--json").stdout)[0]["run_id"] == result.stdout.strip()


@on_sqlite
def test_with_the_database_away_nothing_is_started_and_one_line_says_so(stageflow: Stageflow) -> None:
    result = stageflow(
        "--app",
        "shop:engine",
        "enqueue",
        "checkout",
        "--input",
        '{"order_id": "A-1"}',
        STAGEFLOW_DATABASE_URL="postgresql+psycopg://shop:secret@127.0.0.1:1/shop",
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "the database did not answer" in result.stderr
    assert "secret" not in result.stderr
    assert result.stderr.count("\n") == 1


@on_postgres
@pytest.mark.usefixtures("upgraded")
@pytest.mark.process
def test_a_run_whose_worker_was_killed_is_parked_shown_settled_and_ends(
    stageflow: Stageflow, environment: dict[str, str], processes: Processes, tmp_path: Path
) -> None:
    processes.start("worker", [*COMMAND, "--app", "shop:engine", "worker", "-c", "1"], env=environment, cwd=tmp_path)
    app = ("--app", "shop:engine")
    ended = stageflow(*app, "enqueue", "checkout", "--input", '{"order_id": "A-1"}', "--wait", "--timeout", "50")
    assert ended.returncode == 0, ended.stderr
    broke = stageflow(
        *app, "enqueue", "checkout", "--input", '{"order_id": "A-2", "broke": 1}', "--wait", "--timeout", "50"
    )
    assert (broke.returncode, "card declined" in broke.stderr) == (1, True)

    killed = stageflow(*app, "enqueue", "checkout", "--input", '{"order_id": "A-3", "kill": 1}').stdout.strip()
    assert "PARKED" in stageflow("show", killed, "--watch").stdout
    picture = stageflow("show", killed).stdout
    assert "charge outcome unknown" in picture
    assert 'after charge began; on_unknown="park"' in picture
    assert f"key sf_{killed}_charge: look this up" in picture
    assert f"next: stageflow show {killed}" in stageflow("runs", "--attention").stdout
    assert stageflow("resume", killed, "--reason", "r").returncode == 1
    settled = stageflow("settle", killed, "charge", "--done", '{"payment_id": "p-9"}', "--reason", "at the bank")
    assert settled.stdout == f"{killed[:12]}  charge is done: parked → running\n"
    assert "succeeded" in stageflow("show", killed, "--watch").stdout


@on_sqlite
@pytest.mark.usefixtures("upgraded")
def test_on_a_terminal_it_asks_for_the_reason_and_before_many_runs_are_changed(
    stageflow: Stageflow, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "orders.jsonl").write_text('{"order_id": "A-1"}\n' * 3)
    at_terminal = Terminal(
        [*COMMAND, "--app", "shop:engine", "enqueue", "checkout", "--input", "@orders.jsonl", "--client-id", "bulk"],
        os.environ | environment,
        tmp_path,
    )
    assert at_terminal.ends() == 0
    assert "3 lines accepted" in at_terminal.seen

    refused = Terminal([*COMMAND, "cancel", "--client-id", "bulk"], os.environ | environment, tmp_path)
    refused.answers("Reason: ", "duplicates").answers("cancel 3 runs? [y/N]: ", "n")
    assert (refused.ends(), "nothing was changed" in refused.seen) == (1, True)

    agreed = Terminal([*COMMAND, "cancel", "--client-id", "bulk"], os.environ | environment, tmp_path)
    agreed.answers("Reason: ", "duplicates").answers("cancel 3 runs? [y/N]: ", "y")
    assert agreed.ends() == 0
    assert agreed.seen.count("pending → cancelled") == 3

    interrupted = Terminal([*COMMAND, "cancel", "--client-id", "bulk"], os.environ | environment, tmp_path)
    interrupted.answers("Reason: ", "\x03")
    assert (interrupted.ends(), "Traceback" in interrupted.seen) == (130, False)


@on_sqlite
@pytest.mark.usefixtures("upgraded")
def test_watching_on_a_terminal_draws_in_place_and_ctrl_c_ends_it(
    stageflow: Stageflow, environment: dict[str, str], tmp_path: Path
) -> None:
    enqueued = stageflow("--app", "shop:engine", "enqueue", "checkout", "--input", '{"order_id": "A-1"}')
    assert enqueued.returncode == 0, enqueued.stderr
    run_id = enqueued.stdout.strip()
    watching = Terminal([*COMMAND, "show", run_id, "--watch"], os.environ | environment, tmp_path)
    watching.answers("If need be: ", "\x03")
    assert (watching.ends(), "Traceback" in watching.seen) == (130, False)

    top = Terminal([*COMMAND, "top", "--every", "0.5"], os.environ | environment, tmp_path)
    top.answers("stageflow-shop", "\x03")
    assert (top.ends(), "Traceback" in top.seen, "1 pending" in top.seen) == (130, False, True)
    assert "\x1b[?1049l" in top.seen, "the terminal is as it was"
