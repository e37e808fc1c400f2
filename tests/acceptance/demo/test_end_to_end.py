"""The demo itself, small: real workers, real kills, books that agree, and nothing left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from stageflow_durable.demo.run import run_demo
from stageflow_durable.errors import ConfigurationError

DEMO = "import sys; from stageflow_durable.demo.run import run_demo; sys.exit(run_demo(orders=40, kills=0))"
PROC = Path("/proc")


@pytest.mark.process
@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_given_forty_orders_and_two_kills_when_run_then_the_books_agree_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    console = Console(file=io.StringIO(), width=160)
    code = run_demo(orders=40, kills=2, seed=1, console=console, home=tmp_path / "demo")
    text = _text(console)
    assert code == 0, text
    assert "The books agree: each of 35 orders" in text
    assert "line   4 refused: Invalid JSON" in text
    assert "2 of 2" in text
    assert _processes_of(tmp_path) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.process
@pytest.mark.slow
def test_given_a_sigterm_half_way_when_run_then_the_demo_ends_and_no_process_is_left(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", DEMO], env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("at rest" in line for line in demo.stdout)
        running = _processes_of(tmp_path)
        demo.send_signal(signal.SIGTERM)
        demo.stdout.read()
    assert demo.returncode == 128 + signal.SIGTERM
    assert len(running) > 5 or not PROC.exists()
    assert _processes_of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_given_more_orders_than_there_are_then_it_is_refused_with_the_bounds() -> None:
    with pytest.raises(ConfigurationError, match="1 to 300, not 301"):
        run_demo(orders=301)


def test_given_a_directory_that_is_not_empty_then_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bank.db").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        run_demo(orders=1, home=tmp_path)


def _processes_of(directory: Path) -> list[str]:
    """Processes whose arguments, environment or working directory name ``directory`` (where /proc tells)."""
    return [process.name for process in PROC.glob("[0-9]*") if str(directory) in _traces(process)]


def _traces(process: Path) -> str:
    try:
        said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        return said.decode(errors="replace") + str((process / "cwd").readlink())
    except OSError:
        return ""


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
