"""Pipes that close, disks that are full, streams that are not there, odd terminals: the command as a process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.cli.fakes import RUN_ID, FakeApplication, parked_unknown

COMMAND = f"{sys.executable} -m stageflow_durable.cli"
SHOP = """
from stageflow_durable import Engine, Pipeline
engine = Engine("shop", pipelines=[Pipeline("p").stage("s", lambda ctx: 1)])
"""
Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path, migrated_sqlite_url: str) -> dict[str, str]:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "f.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(1000)))
    given = {
        "STAGEFLOW_DATABASE_URL": migrated_sqlite_url,
        "STAGEFLOW_BROKER_URL": "redis://127.0.0.1:1/0",  # nobody is there: runs are recorded all the same
        "STAGEFLOW_APP": "shop:engine",
        "PYTHONPATH": f"{Path.cwd()}",
    }
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | given


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> Shell:
    """``shell("stageflow runs >&-")``: a line of bash, in which ``stageflow`` is the command."""

    def run(line: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f'stageflow() {{ {COMMAND} "$@"; }}; {line}'],
            cwd=tmp_path,
            env=environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def recorded(home: Path) -> int:
    with sqlite3.connect(home / "stageflow.db") as database:
        return int(database.execute("SELECT count(*) FROM stageflow_runs").fetchone()[0])


def said(result: subprocess.CompletedProcess[str]) -> str:
    """What it said, without the warning that the broker is away."""
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    return "".join(line for line in result.stderr.splitlines(keepends=True) if "broker" not in line)


@pytest.mark.parametrize(
    ("to", "why"),
    [("| head -3 >/dev/null; exit ${PIPESTATUS[0]}", "whoever read the output has gone"), (">/dev/full", "No space")],
)
def test_when_its_output_is_lost_the_batch_is_finished_and_it_says_where_to_go_on(
    shell: Shell, tmp_path: Path, to: str, why: str
) -> None:
    result = shell(f"stageflow enqueue p --input @f.jsonl --json {to}")
    number = recorded(tmp_path)
    assert (result.returncode, number % 100, number < 1000) == (1, 0, True)
    assert why in said(result)
    assert f"interrupted after line {number}; go on with --from-line {number + 1}" in result.stderr
    assert f"{number} lines accepted" in result.stderr

    assert shell(f"stageflow enqueue p --input @f.jsonl --from-line {number + 1}").returncode == 0
    assert recorded(tmp_path) == 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_finishes_the_batch_and_says_where_to_go_on(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "f.jsonl").write_text('{"n": 1}\n' * 20_000)
    child = subprocess.Popen(
        [*COMMAND.split(), "enqueue", "p", "--input", "@f.jsonl"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509  # under nohup the tests themselves ignore SIGHUP
    )
    while not recorded(tmp_path):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    out, errors = child.communicate(timeout=60)
    count = recorded(tmp_path)
    assert (child.returncode, count % 100) == (128 + number, 0)
    assert f"interrupted after line {count}; go on with --from-line {count + 1}" in errors
    assert f"{count} lines accepted" in out


def test_a_run_whose_id_cannot_be_printed_is_told_on_stderr(shell: Shell, tmp_path: Path) -> None:
    result = shell("stageflow enqueue p --input '{}' >/dev/full")
    assert (result.returncode, recorded(tmp_path)) == (1, 1)
    with sqlite3.connect(tmp_path / "stageflow.db") as database:
        (run_id,) = database.execute("SELECT id FROM stageflow_runs").fetchone()
    assert f"run {run_id} is started, though it could not be printed" in said(result)


@pytest.mark.parametrize("command", ["runs", "doctor", "enqueue --help"])
def test_a_full_output_is_one_line(shell: Shell, command: str) -> None:
    result = shell(f"stageflow enqueue p --input '{{}}' 2>/dev/null; stageflow {command} >/dev/full")
    assert (result.returncode, said(result)) == (1, "stageflow: standard output: No space left on device\n")


def test_a_closed_output_is_one_line_and_nothing_is_done(shell: Shell, tmp_path: Path) -> None:
    result = shell("stageflow enqueue p --input '{}' >&-")
    assert (result.returncode, recorded(tmp_path)) == (1, 0)
    assert said(result) == "stageflow: standard output is closed; to discard what is printed: > /dev/null\n"


def test_a_closed_input_is_empty_and_a_closed_stderr_is_silence(shell: Shell, tmp_path: Path) -> None:
    assert "it is empty" in said(shell("stageflow enqueue p --input @- <&-"))
    assert shell("stageflow enqueue p --input '{}' 2>&-").returncode == 0
    assert recorded(tmp_path) == 1
    assert shell("stageflow cancel --status running --reason x <&-").returncode in (0, 1, 2)


def test_a_reader_that_has_enough_ends_a_list_without_a_word(shell: Shell) -> None:
    shell("stageflow enqueue p --input @f.jsonl")
    result = shell("stageflow runs --limit 1001 --json | head -1")
    assert (result.stdout, said(result)) == ("[\n", "")


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "²", "LINES": "none", "TERM": "dumb"},
        {"PYTHONIOENCODING": "ascii", "TZ": "Nowhere/None", "COLUMNS": "1", "TERM": "", "FORCE_COLOR": "1"},
    ],
    ids=["C", "ascii"],
)
def test_odd_terminals_and_locales_show_the_same(shell: Shell, variables: dict[str, str]) -> None:
    run_id = shell('stageflow enqueue p --input \'{"é": "→"}\' --client-id ä').stdout.strip()
    result = shell(f"stageflow runs --since yesterday; stageflow show {run_id}; stageflow workers", **variables)
    assert result.returncode == 0
    assert said(result)
    assert result.stdout.count(run_id[:12]) >= 2


@pytest.mark.parametrize("columns", ["", "0", "-5", "²", "wide", "9" * 5000, "1", "20", "10000"], ids=lambda c: c[:6])
def test_a_width_that_no_window_has_is_not_taken(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    engine.held = [parked_unknown(error="x" * 300)]
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    for command in (("runs",), ("show", RUN_ID), ("runs", "--attention"), ("workers",), ("check",)):
        result = invoke(*command)
        assert not isinstance(result.exception, ValueError), command
        assert RUN_ID[:12] in result.stdout or command[0] in ("workers", "check"), command
    lines = invoke("show", RUN_ID).stdout.splitlines()
    assert len(lines) < 100
