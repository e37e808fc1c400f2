"""The benchmark's own arithmetic, and that it starts, judges and ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from rich.console import Console

from stageflow_durable.model.status import StageState
from tests.benchmarks import answers, installed, scaling
from tests.benchmarks.__main__ import main
from tests.benchmarks.bench import opened
from tests.benchmarks.checks import share_of
from tests.benchmarks.compare import changes
from tests.benchmarks.cpu import PROC, seconds_of
from tests.benchmarks.document import markdown, rewrite
from tests.benchmarks.figures import Goal, at_least, at_most, plain, ratio
from tests.benchmarks.past import FIRST
from tests.benchmarks.plots import draw
from tests.benchmarks.probes import ONCE, PROBES, SERVICES, WORKER
from tests.benchmarks.profile import CHILD, shares
from tests.benchmarks.publish import main as publish_main
from tests.benchmarks.report import Results, shown, table
from tests.benchmarks.rows import ROWS, judge, probes_of
from tests.benchmarks.sides import Side
from tests.benchmarks.snapshots import encode_ms, fold_ms
from tests.benchmarks.stored import as_json, by_row, figures_of, load, merged, save
from tests.benchmarks.volume import Volume
from tests.services.process import eventually

CONTEXT = {
    "machine": {"cores": 2, "cpu": "Z80", "memory_gb": 1, "python": "CPython 3", "children": 2, "libraries": {}},
    "services": None,
    "others": 0.5,
    "seconds": 3.0,
    "volume": 1.0,
    "rounds": 3,
    "measured": "2026-01-31",
}
STARTS = Results(CONTEXT, {}, [plain(13, "import", "s", [0.1, 0.2, 0.1], at_most(0.25))])
PEERS = Results(CONTEXT, {}, [plain(2, "durable stages", "/s", [100.0])], {"dbos 10": "no network"})


def test_a_ratio_is_taken_within_each_round_and_then_the_median() -> None:
    figure = ratio(1, "ours over theirs", [100.0, 10.0, 300.0], [50.0, 5.0, 100.0])
    assert (figure.values, figure.value) == ((2.0, 2.0, 3.0), 2.0)


def test_the_noise_of_a_figure_is_half_its_range_over_its_median() -> None:
    assert plain(1, "rate", "/s", [90.0, 100.0, 130.0]).noise == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [(at_least(1.5), 1.5, True), (at_least(1.5), 1.4, False), (at_most(0.25), 0.25, True), (at_most(0.25), 0.3, False)],
)
def test_a_goal_is_met_on_its_bound_and_beyond(goal: Goal, value: float, met: bool) -> None:
    assert goal.met_by(value) is met


def test_a_missed_goal_is_named_in_the_table() -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table([ratio(1, "durable over bare", [1.0], [1.0], at_least(2.7), due=at_least(0.5))], 1))
    text = console.export_text()
    assert "≥ 2.70 × not reached" in text and "≥ 0.50 × reached" in text


class Anything(dict[str, list[float]]):
    """Samples of whatever is asked for."""

    def __missing__(self, key: str) -> list[float]:
        return [1.0, 2.0]

    def __contains__(self, key: object) -> bool:
        return True


@pytest.mark.parametrize("row", ROWS)
def test_every_row_judges_what_its_probes_give(row: int) -> None:
    figures = judge([row], Anything())
    assert {figure.row for figure in figures} == {row}
    assert any(figure.aim for figure in figures)
    assert all(shown(figure) for figure in figures)


def test_the_rows_that_are_measured_are_there() -> None:
    assert list(ROWS) == [*range(1, 20)]


def test_a_peer_without_samples_is_left_out_of_the_figures() -> None:
    parts = ("", WORKER, SERVICES)
    samples = {probe + part: [1.0] for probe in ("durable 10", "restate 10") for part in parts}
    whats = [figure.what for figure in judge([2], samples)]
    assert "durable over Restate" in whats and not any("DBOS" in what for what in whats)


def test_answers_are_judged_by_their_median_and_by_their_slowest() -> None:
    judged = [figure.what for figure in judge([14], Anything()) if figure.aim and "over bare" in figure.what]
    counts = ("one stage", "ten stages")
    assert judged == [f"over bare, {stages}{point}" for stages in counts for point in ("", ", 99 %")]


def test_a_thousand_callers_are_a_thousand_whatever_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def many(_side: object, callers: int) -> answers.Waited:
        asked.append(callers)
        return answers.Waited([1.0], 0.01, 1.0)

    monkeypatch.setattr(answers, "many", many)
    bench: Any = SimpleNamespace(durable=None)
    PROBES["awaited"]("awaited", bench, Volume(0.25))
    assert asked == [1000]


def test_a_probe_that_two_rows_need_is_measured_once() -> None:
    assert sorted(probes_of(ROWS)) == sorted(PROBES)
    assert probes_of([1, 6]).count("bare 10") == 1
    assert set(PROBES) >= ONCE


def test_rows_of_separate_runs_are_one_file(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    for results in (STARTS, PEERS):
        save(file, merged(load(file), as_json(results)))
    assert [(figure.row, figure.what) for figure in figures_of(load(file))] == [(2, "durable stages"), (13, "import")]
    assert figures_of(load(file))[1] == STARTS.figures[0]


def test_results_replace_what_stood_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nstale\n<!-- end of results -->\nafter\n", encoding="utf-8")
    rewrite(page, markdown(merged(as_json(STARTS), as_json(PEERS))))
    text = page.read_text(encoding="utf-8")
    assert "stale" not in text and text.startswith("before\n") and text.endswith("after\n")
    assert "other processes had 50% of the CPU: too much to trust rates" in text
    assert "| 13 | import | **0.100 s** | 50% | ≤ 0.25 reached |  |" in text
    assert "row 2: dbos 10 was not available: no network" in text
    assert "row 2: 2026-01-31, one round" in text and "row 13: 2026-01-31, medians of 3 interleaved rounds" in text
    assert text.count("Z80") == 1


def test_results_of_two_runs_are_published_into_one_page(tmp_path: Path) -> None:
    pages = [tmp_path / "performance.md", tmp_path / "scaling.md"]
    for page in pages:
        page.write_text("<!-- results -->\n<!-- end of results -->\n", encoding="utf-8")
    for number, results in enumerate((STARTS, PEERS)):
        save(tmp_path / f"{number}.json", as_json(results))
        publish_main([str(pages[0]), str(tmp_path / f"{number}.json")])
    text = pages[0].read_text(encoding="utf-8")
    assert "| 2 | durable stages |" in text and "| 13 | import |" in text
    assert [row for row, _ in by_row(load(tmp_path / "performance.json"))] == [2, 13]


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="results"):
        rewrite(page, markdown(as_json(STARTS)))


def test_plots_are_small_and_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    stored = merged(as_json(STARTS), as_json(Results(CONTEXT, {}, judge([1, 2], Anything()))))
    first = {path.name: path.read_bytes() for path in draw(stored, tmp_path)}
    assert first == {path.name: path.read_bytes() for path in draw(stored, tmp_path)}
    assert set(first) == {"speed.svg", "goals.svg"} and all(len(drawn) < 50_000 for drawn in first.values())


def test_what_a_change_did_is_shown_figure_by_figure() -> None:
    before = as_json(Results(CONTEXT, {}, [plain(1, "durable stages", "/s", [100.0, 110.0, 90.0])]))
    after = as_json(Results(CONTEXT, {}, [plain(1, "durable stages", "/s", [200.0, 210.0, 190.0])]))
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(changes(before, after))
    text = console.export_text()
    assert "durable stages" in text and "100/s" in text and "200/s" in text and "+100%" in text


def test_the_arithmetic_follows_from_what_was_measured_and_waits_for_it() -> None:
    stored = as_json(
        Results(
            CONTEXT,
            {},
            [
                plain(1, "CPU of the worker, a durable stage", "ms", [0.5]),
                plain(1, "CPU of database and broker, a durable stage", "ms", [0.25]),
                plain(11, "what a run of 10 stages of 1 KB leaves", "B", [20_000.0]),
                plain(11, "what such a run writes to the write-ahead log", "B", [40_000.0]),
                plain(11, "prune, a batch of 500 runs of 10 stages", "ms", [200.0]),
            ],
        )
    )
    found = {line.what: line.number for line in scaling.arithmetic(stored)}
    assert found["stages a second, mean"] == "1,157"
    assert found["cores of workers, busy hour"] == "1.7"
    assert found["growth a day"] == "200 GB"
    assert found["share of the time in which a prune works"] == "5%"
    assert scaling.arithmetic(as_json(STARTS)) == []


def test_what_is_missing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "HOME", tmp_path)
    monkeypatch.setattr(installed, "PYTHON", tmp_path / "venv" / "bin" / "python")
    monkeypatch.setattr(installed, "TEMPORAL", tmp_path / "venv" / "bin" / "temporal")
    monkeypatch.setattr(installed, "REASONS", tmp_path / "missing.json")
    (tmp_path / "missing.json").write_text('{"restate": "npm is not on the PATH"}', encoding="utf-8")
    assert installed.missing()["restate"] == "npm is not on the PATH"
    assert "make bench-peers" in installed.missing()["dbos"]
    with pytest.raises(installed.NotAvailable, match="npm"):
        installed.available("restate")


def test_samples_are_shared_out_by_the_first_part_that_fits_their_stack() -> None:
    stacks = [
        "main;trace_task (trace.py:1);Saving._save_once (saving.py:2);RawConnection.run (postgres_protocol.py:3) 4",
        "main;trace_task (trace.py:1);Saving._save_once (saving.py:2) 2",
        "main;trace_task (trace.py:9) 3",
        "somewhere else 1",
    ]
    assert sorted(shares(stacks, CHILD).values()) == [1, 2, 3, 4]
    assert shares(stacks, CHILD)["the message: Celery's tracing of a task"] == 3


def test_a_distribution_is_read_at_its_shares() -> None:
    assert [share_of(range(100), share) for share in (0.5, 0.99, 1.0)] == [50, 99, 99]


def test_an_unknown_row_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "1,99"])
    assert "there are 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19" in capsys.readouterr().err


@pytest.mark.skipif(not PROC.exists(), reason="no /proc")
def test_what_a_state_costs_in_python_is_measured() -> None:
    assert encode_ms(1) > 0
    assert fold_ms(1) > 0


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
    row = found["rows"]["13"]
    assert row["context"]["machine"]["cores"] >= 1 and row["context"]["services"] is None
    assert {"stageflow --help", "import stageflow_durable"} <= {figure["what"] for figure in row["figures"]}
    assert "stageflow --help" in done.stdout


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
@pytest.mark.parametrize("name", ["dbos", "restate", "temporal"])
def test_given_a_peer_when_it_carries_a_few_lines_then_all_of_them_end(name: str) -> None:
    if reason := installed.missing().get(name):
        pytest.skip(f"{name} is not available: {reason}")
    with opened() as bench:
        side: Side = getattr(bench, name)
        assert side.pace(10, 2).rate > 0
        assert side.finished() >= 12


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
def test_given_a_run_of_ours_and_a_raw_one_when_both_are_through_then_they_left_the_same_rows() -> None:
    with opened() as bench:
        bench.durable.pace(10, 1)
        bench.limit.rate(10, 2)
        assert left(bench.durable.url) == left(bench.limit.url)


def left(url: str) -> dict[str, Any]:
    """Of one finished run: how many rows of each table, and the order of its events."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        run = connection.execute("SELECT id, seq FROM stageflow_runs WHERE status = 'succeeded' LIMIT 1").fetchone()
        assert run is not None
        events = "SELECT seq, type FROM stageflow_events WHERE run = %s ORDER BY seq"
        counts = {
            table: connection.execute(f"SELECT count(*) FROM stageflow_{table} WHERE run = %s", [run[0]]).fetchone()
            for table in ("strands", "attempts", "checkpoints")
        }
        return {"seq": run[1], "events": connection.execute(events, [run[0]]).fetchall(), **counts}


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
def test_given_a_history_when_a_sweep_looks_then_copies_are_finished_runs_and_none_of_its_business() -> None:
    with opened() as bench:
        old = bench.histories(600).old
        assert old.finished() == 605
        assert old.sweep_s() > 0 and min(old.ask_ms().values()) > 0
        assert {stage.state for stage in old.engine.run(FIRST).stages} == {StageState.OK}
        assert [event.seq for event in old.engine.history(FIRST)] == list(range(1, 14))
        assert len(old.engine.runs(attention=True)) >= 2
        assert old.prune_ms(1) > 0
        assert old.finished() == 105


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
@pytest.mark.skipif(not PROC.exists(), reason="no /proc")
def test_given_a_worker_when_it_does_four_times_as_much_then_it_holds_no_more_memory() -> None:
    with opened() as bench:
        bench.memory.pace(100, 15)
        early = bench.memory.resident_mb()
        for _ in range(3):
            bench.memory.pace(100, 15)
        assert bench.memory.resident_mb() < early * 1.05


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
def test_given_a_backlog_when_it_is_lost_or_due_or_asked_for_then_each_run_of_it_counts() -> None:
    with opened() as bench:
        with bench.backlog() as backlog:
            rates = backlog.drain(400)
            assert min(rates.before, rates.after) > 0
        with bench.backlog() as backlog:
            late = backlog.wait(40)
            assert late.fresh > 0 and late.due > -1
        with bench.backlog() as backlog:
            assert backlog.dry_run_s(50) > 0
