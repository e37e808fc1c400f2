"""The benchmark's own arithmetic, and that it starts, judges and ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.__main__ import main
from tests.benchmarks.cpu import PROC, seconds_of
from tests.benchmarks.document import rewrite
from tests.benchmarks.figures import Goal, at_least, at_most, plain, ratio
from tests.benchmarks.report import Results, table
from tests.benchmarks.rows import PROBES, ROWS, judge, probes_of
from tests.services.process import eventually

CONTEXT = {
    "machine": {"cores": 2, "cpu": "Z80", "memory_gb": 1, "python": "CPython 3", "children": 2, "libraries": {}},
    "services": None, "others": 0.5, "seconds": 3.0}


def test_a_ratio_is_taken_within_each_round_and_then_the_median() -> None:
    figure = ratio(1, "ours over theirs", [100.0, 10.0, 300.0], [50.0, 5.0, 100.0])
    assert (figure.values, figure.value) == ((2.0, 2.0, 3.0), 2.0)


def test_the_noise_of_a_figure_is_half_its_range_over_its_median() -> None:
    assert plain(1, "rate", "/s", [90.0, 100.0, 130.0]).noise == pytest.approx(0.2)


@pytest.mark.parametrize(("goal", "value", "met"), [
    (at_least(1.5), 1.5, True), (at_least(1.5), 1.4, False), (at_most(0.25), 0.25, True), (at_most(0.25), 0.3, False)])
def test_a_goal_is_met_on_its_bound_and_beyond(goal: Goal, value: float, met: bool) -> None:
    assert goal.met_by(value) is met


def test_a_missed_goal_is_named_in_the_table() -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table([ratio(1, "durable over bare", [1.0], [1.0], at_least(2.7), due=at_least(0.5))], 1))
    text = console.export_text()
    assert "≥ 2.70 × not reached" in text and "≥ 0.50 × reached" in text


@pytest.mark.parametrize("row", ROWS)
def test_every_row_judges_what_its_probes_give(row: int) -> None:
    parts = ("", " worker ms", " services ms", " caller ms")
    samples = {probe + part: [1.0, 2.0] for probe in probes_of([row]) for part in parts}
    figures = judge([row], samples)
    assert {figure.row for figure in figures} == {row}
    assert any(figure.aim for figure in figures)


def test_a_probe_that_two_rows_need_is_measured_once() -> None:
    assert sorted(probes_of(ROWS)) == sorted(PROBES)
    assert probes_of([1, 6]).count("bare 10") == 1


def test_results_replace_what_stood_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nstale\n<!-- end of results -->\nafter\n", encoding="utf-8")
    rewrite(page, Results(CONTEXT, {}, [plain(13, "import", "s", [0.1], at_most(0.25))]), 1)
    text = page.read_text(encoding="utf-8")
    assert "stale" not in text and text.startswith("before\n") and text.endswith("after\n")
    assert "other processes had 50% of the CPU: too much to trust rates" in text
    assert "| 13 | import | **0.100 s** | 0% | ≤ 0.25 reached |  |" in text


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="results"):
        rewrite(page, Results(CONTEXT, {}, []), 1)


def test_an_unknown_row_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "1,99"])
    assert "there are 1, 3, 6, 7, 13" in capsys.readouterr().err


@pytest.mark.skipif(not PROC.exists(), reason="no /proc")
def test_cpu_time_counts_the_children_of_a_process() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        eventually(lambda: seconds_of(process.pid) > 0.3, what="the child's time shows")
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.slow
@pytest.mark.process
def test_the_starts_of_a_process_are_measured_and_saved(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--rows", "13", "--rounds", "1", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["machine"]["cores"] >= 1 and found["services"] is None
    assert {"stageflow --help", "import stageflow_durable"} <= {figure["what"] for figure in found["figures"]}
    assert "stageflow --help" in done.stdout
