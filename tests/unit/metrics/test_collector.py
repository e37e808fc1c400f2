"""What Prometheus is told, and that the rules and the dashboard ask for nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from stageflow_durable import Pipeline, StageOutput, TransientError
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.metrics import counts as counting
from stageflow_durable.metrics.counts import BUCKETS, OTHER, Counts
from stageflow_durable.model.sinks import RunEvent
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from tests.project.tree import ROOT
from tests.services.missing import missing

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest  # where it is installed

from stageflow_durable.metrics.collector import StageflowCollector  # as above

MONITORING = ROOT / "docs" / "monitoring"


def flaky(ctx: Any) -> int:
    if ctx.attempt == 1:
        raise TransientError("busy")
    return 1


def broken(_ctx: Any) -> int:
    raise TypeError("a bug")


PIPELINES = (
    Pipeline("orders")
    .stage("charge", flaky, compensate=lambda _ctx: None)
    .stage("ship", lambda _ctx: StageOutput.fail("no")),
    Pipeline("mails").stage("send", broken),
)


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest) -> Iterator[InProcessEngine]:
    kind: Literal["memory", "sqlite"] = request.param
    with engine_for_tests(PIPELINES, store=kind) as made:
        yield made


@pytest.fixture
def collector(engine: InProcessEngine) -> StageflowCollector:
    made = StageflowCollector(engine.store)
    made._pulse.ensure = lambda: None  # type: ignore[method-assign]  # the test asks
    made._refreshed.set()
    made.refresh()
    return made


def told(collector: StageflowCollector) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_attempts_retries_undos_and_parked_runs_are_counted(
    engine: InProcessEngine, collector: StageflowCollector
) -> None:
    engine.enqueue("orders", {})
    engine.enqueue("mails", {})
    engine.drain()
    collector.refresh()
    found = told(collector)
    attempts = "stageflow_attempt_seconds_count{kind=%s,pipeline=%s,result=%s,stage=%s}"
    for kind, pipeline, result, stage in (
        ("stage", "orders", "retried", "charge"),
        ("stage", "orders", "ok", "charge"),
        ("stage", "orders", "failed", "ship"),
        ("undo", "orders", "ok", "charge"),
        ("stage", "mails", "failed", "send"),
    ):
        assert found[attempts % tuple(f'"{label}"' for label in (kind, pipeline, result, stage))] == 1
    assert found['stageflow_runs_events_total{event="accepted",pipeline="orders"}'] == 1
    assert found['stageflow_runs_events_total{event="compensated",pipeline="orders"}'] == 1
    assert found['stageflow_runs_parked{pipeline="mails",reason="bug"}'] == 1
    assert found['stageflow_runs{status="parked"}'] == 1
    assert (found["stageflow_up"], found["stageflow_workers"]) == (1, 1)
    collector.refresh()
    assert told(collector) == found, "nothing is counted twice"


def test_what_is_late_is_told_with_its_age(engine: InProcessEngine, collector: StageflowCollector) -> None:
    engine.enqueue("orders", {})
    engine.advance(7)
    collector.refresh()
    found = told(collector)
    assert found['stageflow_queue_ready{queue="stageflow-tests"}'] == 1
    assert found['stageflow_queue_age_seconds{queue="stageflow-tests"}'] == pytest.approx(7, abs=0.1)
    engine.work()
    engine.advance(60)
    collector.refresh()
    assert told(collector)["stageflow_wait_lateness_seconds"] > 50


def test_a_database_that_is_away_is_told_and_what_was_counted_stays(
    engine: InProcessEngine, collector: StageflowCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.enqueue("orders", {})
    collector.refresh()

    def away(*_given: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(collector, "_count", away)
        collector._pulse.once()
        found = told(collector)
    assert found["stageflow_up"] == 0
    assert found['stageflow_runs_events_total{event="accepted",pipeline="orders"}'] == 1


def test_counting_keeps_no_run_from_being_pruned(engine: InProcessEngine, collector: StageflowCollector) -> None:
    from datetime import timedelta

    engine.enqueue("orders", {})
    engine.drain()
    collector.refresh()
    engine.advance(86_400)
    assert engine.prune(timedelta(hours=1)) == 1


def event(number: int, kind: str, pipeline: str = "p", run: str = "r", **data: Any) -> RunEvent:
    return RunEvent(run, number, kind, datetime.fromtimestamp(number, UTC), pipeline, "c", None, data)


def test_the_number_of_series_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_STAGES", 3)
    counts = Counts()
    for number in range(10):
        counts.add(event(1, "stage.begun", run=f"r{number}", stage=f"s{number}", attempt=1))
        counts.add(event(2, "stage.ok", run=f"r{number}", stage=f"s{number}", attempt=1))
    assert len(counts.attempts) == 4
    assert sum(counts.attempts[OTHER, OTHER, "stage", "ok"].within) == 7


def test_what_a_body_emits_in_the_words_of_the_engine_is_not_counted() -> None:
    counts = Counts()
    counts.add(event(1, "run.succeeded", origin="body"))
    assert counts.runs == {}


def test_a_duration_is_in_the_first_bucket_that_holds_it() -> None:
    durations = counting.Durations()
    for seconds in (BUCKETS[0], BUCKETS[0] + 0.001, BUCKETS[-1] + 1):
        durations.add(seconds)
    assert (durations.within[0], durations.within[1], durations.within[-1]) == (1, 1, 1)


# --- rules and dashboard ----------------------------------------------------------------------------------------------


@pytest.fixture
def promtool() -> str:
    """Prometheus's own tool: a package of Debian's, which .ci/run installs."""
    return shutil.which("promtool") or missing("promtool: apt-get install prometheus")


def expressions() -> dict[str, str]:
    """Every expression of rules and dashboard, by where it stands."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return {rule["alert"]: rule["expr"] for rule in rules} | {
        f"{panel['title']}: {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]
    }


def test_they_ask_for_series_that_there_are(collector: StageflowCollector, engine: InProcessEngine) -> None:
    engine.enqueue("orders", {})
    engine.drain()
    engine.sweep()
    collector.refresh()
    registry = CollectorRegistry()
    registry.register(collector)
    told_of = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), flags=re.MULTILINE))
    there = told_of | {f"stageflow_attempt_seconds_{part}" for part in ("bucket", "count", "sum")}
    there.add("stageflow_sweep_age_seconds")  # of workers' sweeps
    asked = {name for text in expressions().values() for name in re.findall(r"\bstageflow_\w+", text)}
    assert asked <= there
    assert there - asked <= {"stageflow_attempt_seconds", "stageflow_attempt_seconds_sum"}


def test_promtool_takes_rules_their_tests_and_every_expression_of_the_dashboard(tmp_path: Path, promtool: str) -> None:
    rules = [
        {"record": f"dashboard:expression_{number}", "expr": text.replace("$pipeline", ".*")}
        for number, text in enumerate(expressions().values())
    ]
    every = tmp_path / "dashboard.yml"
    every.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    for arguments in (
        ["check", "rules", MONITORING / "alerts.yml", every],
        ["test", "rules", MONITORING / "alerts_test.yml"],
    ):
        done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_metrics(
    engine: InProcessEngine, collector: StageflowCollector, promtool: str
) -> None:
    engine.enqueue("orders", {})
    engine.drain()
    collector.refresh()
    registry = CollectorRegistry()
    registry.register(collector)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
