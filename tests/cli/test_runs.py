from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from stageflow_durable.model.run import Run, WorkerView
from stageflow_durable.model.status import Cause, ParkReason, RunStatus
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, FakeApplication, ago, parked_unknown, run


def test_runs_are_a_table_and_nothing_is_cut_when_piped(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [
        parked_unknown(),
        run(
            RunStatus.FAILED,
            run_id="01J9F2ZZZZZZZZZZZZZZZZZZZZ",
            key=None,
            error="card declined",
            error_stage="charge",
            cause=Cause.FAILED,
        ),
    ]
    assert (
        invoke("runs").stdout
        == """\
RUN           PIPELINE     STATUS  AGE  CLIENT  KEY        WHY
01J9F2QZ7KXV  checkout v1  parked  16m  web     order-A-1  charge outcome unknown
01J9F2ZZZZZZ  checkout v1  failed  16m  web                charge: card declined
"""
    )


def test_ids_that_begin_alike_are_shown_long_enough_to_tell_them_apart(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(run_id="01J9F2QZ7KXV3M5N8P0R2T4W6Y"), run(run_id="01J9F2QZ7KXV3M5N9P0R2T4W6Y")]
    text = invoke("runs").stdout
    assert "01J9F2QZ7KXV3M5N8 " in text
    assert "01J9F2QZ7KXV3M5N9 " in text


def test_filters_reach_the_engine_as_typed_values(invoke: Invoke, engine: FakeApplication) -> None:
    result = invoke(
        "runs",
        "--status",
        "Compensation-Failed",
        "--pipeline",
        "checkout",
        "--client-id",
        "web",
        "--since",
        "2h",
        "--limit",
        "7",
    )
    assert result.exit_code == 0
    assert engine.asked == {
        "status": RunStatus.COMPENSATION_FAILED,
        "pipeline": "checkout",
        "client_id": "web",
        "since": NOW - timedelta(hours=2),
        "attention": False,
        "limit": 7,
    }


def test_since_takes_a_time_with_its_zone(invoke: Invoke, engine: FakeApplication) -> None:
    invoke("runs", "--since", "2026-01-31T08:00:00+02:00")
    assert engine.asked["since"] == datetime(2026, 1, 31, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--since", "2026-01-31T08:00:00", "no time zone"),
        ("--since", "yesterday", "neither an age"),
        ("--since", "99999999999d", "neither an age"),
        ("--status", "broken", "there are: pending"),
        ("--limit", "0", "0 is not in the range"),
        ("--nonsense", "1", "--nonsense"),
    ],
)
def test_a_wrong_option_is_one_line_with_the_way_out_and_exit_2(
    invoke: Invoke, option: str, value: str, says: str
) -> None:
    result = invoke("runs", option, value)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_runs_is_said_on_stderr_and_is_an_empty_list_as_json(invoke: Invoke) -> None:
    result = invoke("runs")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no runs\n")
    assert json.loads(invoke("runs", "--json").stdout) == []
    assert invoke("runs", "--attention").stderr == "nothing needs a person\n"


def test_when_the_limit_cuts_the_list_it_says_so(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(run_id=f"01J9F2QZ7KXV3M5N8P0R2T4W{n:02}") for n in range(3)]
    assert "the first 2 are shown" in invoke("runs", "--limit", "2").stderr


def test_as_json_each_run_has_its_summary_with_utc_times(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [parked_unknown()]
    [listed] = json.loads(invoke("runs", "--json").stdout)
    assert listed["status"] == "parked"
    assert listed["park_reason"] == "unknown"
    assert listed["updated_at"] == "2026-03-01T03:02:11.000000Z"
    assert "stages" not in listed


# --- attention --------------------------------------------------------------------------------------------------------


def many() -> list[Run]:
    bug = [
        run(
            RunStatus.PARKED,
            run_id=f"01J9F2BUG{n:017}",
            park_reason=ParkReason.BUG,
            error="TypeError: None",
            error_stage="mail",
            updated_at=ago(3600 * (n + 1)),
        )
        for n in range(3)
    ]
    undone = run(RunStatus.COMPENSATION_FAILED, run_id="01J9F2CF" + "0" * 18, error="410 gone", error_stage="charge")
    stuck = run(RunStatus.RUNNING, run_id="01J9F2ST" + "0" * 18, updated_at=ago(7200))
    return [*bug, parked_unknown(), undone, stuck]


def test_attention_groups_by_reason_with_count_age_last_error_and_next_command(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = many()
    assert (
        invoke("runs", "--attention").stdout
        == """\
REASON                   PIPELINE  STAGE   RUNS  OLDEST  LAST ERROR
stuck: running           checkout             1      2h
  next: stageflow doctor
compensation failed      checkout  charge     1      1m  410 gone
  next: stageflow show 01J9F2CF000000000000000000
parked: has a bug        checkout  mail       3      3h  TypeError: None
  next: stageflow resume --status parked --park-reason bug --pipeline checkout --reason …
parked: outcome unknown  checkout  charge     1     14m
  next: stageflow show 01J9F2QZ7KXV3M5N8P0R2T4W6Y
"""
    )
    assert engine.asked["attention"] is True


def test_attention_as_json_names_every_run_of_a_group(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = many()
    groups = json.loads(invoke("runs", "--attention", "--json").stdout)
    assert [(group["reason"], group["count"]) for group in groups] == [
        ("stuck: running", 1),
        ("compensation failed", 1),
        ("parked: has a bug", 3),
        ("parked: outcome unknown", 1),
    ]
    assert len(groups[2]["run_ids"]) == 3
    assert groups[2]["oldest_at"] == "2026-03-01T00:16:20.000000Z"


# --- workers and sweep ------------------------------------------------------------------------------------------------


def test_workers_show_who_lives_and_what_each_is_running(invoke: Invoke, engine: FakeApplication) -> None:
    engine.known_workers = [
        WorkerView("o1", "pay-7", 812, True, ago(7200), NOW, ("01J9F2QZ7KXV3M5N8P0R2T4W6Y/charge",)),
        WorkerView("o2", "pay-8", 99, False, ago(7200), ago(90), ()),
    ]
    lines = [line.rstrip() for line in invoke("workers").stdout.splitlines()]
    assert lines == [
        "HOST   PID  STATE    UP  RUNNING",
        "pay-7  812  alive    2h  01J9F2QZ7KXV charge",
        "pay-8   99  dead 1m  2h",
    ]
    assert json.loads(invoke("workers", "--json").stdout)[1]["alive"] is False


def test_without_workers_it_says_how_to_start_one(invoke: Invoke) -> None:
    assert "stageflow worker" in invoke("workers").stderr
