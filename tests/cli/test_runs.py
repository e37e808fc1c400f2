from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stageflow_durable.cli.words import duration
from stageflow_durable.model.roster import Known, Profile, Roster
from stageflow_durable.model.run import AwaitedWorker, Run, Wait, WaitKind, WorkerView
from stageflow_durable.model.status import Cause, ParkReason, RunStatus, StageState, StepState, WaitingFor
from stageflow_durable.model.waits import undo_waits
from stageflow_durable.settings import Settings
from stageflow_durable.state import schema
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, RUN_ID, FakeApplication, ago, attempt, parked_unknown, run, stage, undo

KNOWN = Roster((Profile("shop", "redis://h:6379/0", ("q",), {"checkout": Known("1", "c1")}),))
"""One live worker, which knows checkout."""


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
    engine.known_roster = KNOWN
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
        "--attribute",
        "order=A-1",
        "--attribute",
        "note=a=b",
        "--until",
        "1h",
        "--error",
        "no stock",
        "--after",
        RUN_ID,
    )
    assert result.exit_code == 0
    assert engine.asked == {
        "status": RunStatus.COMPENSATION_FAILED,
        "pipeline": "checkout",
        "client_id": "web",
        "since": NOW - timedelta(hours=2),
        "attention": False,
        "limit": 8,  # one more: whether there are more
        "attributes": {"order": "A-1", "note": "a=b"},
        "until": NOW - timedelta(hours=1),
        "error": "no stock",
        "after": RUN_ID,
    }


def test_since_takes_a_time_with_its_zone(invoke: Invoke, engine: FakeApplication) -> None:
    invoke("runs", "--since", "2026-01-31T08:00:00+02:00")
    assert engine.asked["since"] == datetime(2026, 1, 31, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--since", "29.11.2026", "neither an age"),
        ("--attribute", "order", "--attribute 'order' is not NAME=VALUE"),
        ("--since", "someday", "neither an age"),
        ("--since", "99999999999d", "further away than dates reach"),
        ("--since", "9999-12-31", "lies in the future"),
        ("--until", "29.11.2026", "--until '29.11.2026' is neither an age"),
        ("--since", "0001-01-01T00:00:00+14:00", "further away than dates reach"),
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


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ("chekout", "there is no run of a pipeline 'chekout'; did you mean checkout?"),
        ("zzz", "there is no run of a pipeline 'zzz'; live workers know: checkout v1"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"], ["--attention"], ["--status", "parked"]])
def test_a_pipeline_that_nobody_knows_is_said(
    invoke: Invoke, engine: FakeApplication, pipeline: str, says: str, more: list[str]
) -> None:
    engine.known_roster = KNOWN
    result = invoke("runs", "--pipeline", pipeline, *more)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, f"{says}")


def test_one_that_has_runs_or_a_worker_is_none(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.SUCCEEDED)]
    assert invoke("runs", "--pipeline", "checkout", "--status", "parked").stderr == "no runs\n"
    engine.held, engine.known_roster = [], KNOWN
    assert invoke("runs", "--pipeline", "checkout").stderr == "no runs\n"


def test_where_there_are_more_it_says_how_to_see_the_next_page(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(run_id=f"01J9F2QZ7KXV3M5N8P0R2T4W{n:02}", client_id="it's") for n in (5, 4, 3, 2, 1)]
    asked: tuple[str, ...] = ("runs", "--limit", "2", "--client-id", "it's", "--since", "2h", "--attribute", "a=b c")
    seen, lines = 0, []
    while asked:
        result = invoke(*asked)
        seen += len(result.stdout.splitlines()) - 1
        lines.append(result.stderr)
        asked = tuple(shlex.split(result.stderr.partition("there are more: stageflow ")[2]))
    assert (seen, len(lines)) == (5, 3)
    assert lines[0] == (
        "there are more: stageflow runs --client-id 'it'\"'\"'s' --limit 2 --since 2026-03-01T01:16:20.000000Z "
        "--attribute 'a=b c' --after 01J9F2QZ7KXV3M5N8P0R2T4W04\n"
    )
    assert lines[-1] == ""


def test_a_search_for_errors_says_how_far_it_looks(invoke: Invoke, engine: FakeApplication) -> None:
    result = invoke("runs", "--error", "declined")
    assert engine.asked["since"] == NOW - timedelta(days=1)
    assert result.stderr == "errors are searched since 2026-02-28 03:16:20 UTC; --since looks further back\nno runs\n"
    assert invoke("runs", "--error", "declined", "--since", "9d").stderr == "no runs\n"
    assert engine.asked["since"] == NOW - timedelta(days=9)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--since", "1h", "--until", "2h"), "--since is the earlier one"),
        (("--attention", "--after", RUN_ID), "leave --after out"),
    ],
)
def test_what_contradicts_itself_is_refused(invoke: Invoke, wrong: tuple[str, ...], says: str) -> None:
    result = invoke("runs", *wrong)
    assert (result.exit_code, says in result.stderr) == (2, True)


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
    refund = undo("refund", StepState.COMPENSATION_FAILED, error="410 gone")
    undone = run(
        RunStatus.COMPENSATION_FAILED,
        stage("charge", StageState.OK, attempt(), undo=refund),
        run_id="01J9F2CF" + "0" * 18,
        error="no stock",
        error_stage="charge",
    )
    stuck = run(RunStatus.RUNNING, run_id="01J9F2ST" + "0" * 18, updated_at=ago(7200))
    return [*bug, parked_unknown(), undone, stuck]


WIDE = """\
REASON                   PIPELINE  STAGE   RUNS  OLDEST
stuck: running           checkout             1      2h
  next: stageflow doctor
compensation failed      checkout  charge     1      1m
  last error: undo refund of charge failed: 410 gone
  it was to be undone because: no stock
  next: stageflow show 01J9F2CF000000000000000000
parked: has a bug        checkout  mail       3      3h
  last error of 01J9F2BUG000: TypeError: None
  next: stageflow resume --status parked --park-reason bug --pipeline checkout --reason …
parked: outcome unknown  checkout  charge     1     14m
  next: stageflow show 01J9F2QZ7KXV3M5N8P0R2T4W6Y
"""


@pytest.mark.parametrize("columns", ["80", "200"])
def test_attention_groups_by_reason_with_count_age_last_error_and_next_command(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    engine.held = many()
    monkeypatch.setenv("COLUMNS", columns)
    assert invoke("runs", "--attention").stdout == WIDE
    assert engine.asked["attention"] is True


def test_at_80_columns_a_long_error_is_wrapped_and_a_long_name_is_cut_but_never_reason_count_age_or_command(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "settlement-of-marketplace-orders-in-two-currencies"
    engine.held = [
        run(
            RunStatus.PARKED, run_id=f"01J9F2ERR{n:017}", park_reason=ParkReason.POISON, pipeline=name,
            error_stage="charge-the-customer", error="the bank closed the connection after 30 s; " * 4,
        )
        for n in range(12)
    ]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    lines = invoke("runs", "--attention").stdout.splitlines()
    assert lines[1] == "parked: kills its worker each time  settlement-of…  charge-the-cu…    12      1m"
    assert lines[2].startswith("  last error of 01J9F2ERR000: the bank closed the connection after 30 s;")
    assert " ".join(" ".join(lines[2:-1]).split()).count("30 s;") == 4
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1] == (f"  next: stageflow resume --status parked --park-reason poison --pipeline {name} --reason …")


def test_at_80_columns_the_list_of_runs_says_why_below_each(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.held = [run(RunStatus.FAILED, error="the bank answered " + "503 " * 9, error_stage="charge"), run()]
    monkeypatch.setenv("COLUMNS", "80")
    assert (
        invoke("runs").stdout
        == """\
RUN           PIPELINE     STATUS   AGE  CLIENT  KEY
01J9F2QZ7KXV  checkout v1  failed   16m  web     order-A-1
  charge: the bank answered 503 503 503 503 503 503 503 503 503
01J9F2QZ7KXV  checkout v1  running  16m  web     order-A-1
"""
    )


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


def worker(pid: int, **more: Any) -> WorkerView:
    given: dict[str, Any] = {
        "owner": f"o{pid}", "host": "pay-7", "alive": False, "started_at": ago(7200), "expires_at": ago(90),
        "running": (),
    }  # fmt: skip
    return WorkerView(pid=pid, **{**given, **more})


def test_workers_say_who_lives_on_what_lease_and_runs_what_and_who_was_lost_or_ended(
    invoke: Invoke, engine: FakeApplication
) -> None:
    charging = (f"{RUN_ID}/charge",)
    engine.known_workers = [
        worker(812, alive=True, expires_at=ago(-8), running=charging),
        worker(813, expires_at=ago(3)),
        worker(99, ended_at=ago(60), running=(f"{RUN_ID}/ship",)),
        worker(98, ended_at=ago(600), confirmed=True),
    ]
    assert (
        invoke("workers").stdout
        == """\
HOST   PID  STATE          STARTED  LEASE    RUNS
pay-7  812  alive           2h ago  8s left  01J9F2QZ7KXV charge
pay-7  813  silent for 3s   2h ago  ran out
pay-7   99  lost 1m ago     2h ago           held 01J9F2QZ7KXV ship
1 ended in the last hour (--all lists them)
"""
    )
    assert "pay-7   98  ended 10m ago   2h ago" in invoke("workers", "--all").stdout
    assert json.loads(invoke("workers", "--json").stdout)[3]["confirmed"] is True


def test_a_process_that_ended_long_ago_is_not_worth_a_line(invoke: Invoke, engine: FakeApplication) -> None:
    engine.known_workers = [worker(1, ended_at=ago(90_000)), worker(2, ended_at=ago(90_000), confirmed=True)]
    result = invoke("workers")
    assert (result.stdout, result.stderr) == (
        "",
        "no worker is alive; start one: stageflow worker (--all: 2 that were)\n",
    )


def test_without_workers_it_says_how_to_start_one(invoke: Invoke) -> None:
    assert "stageflow worker" in invoke("workers").stderr


def test_given_a_filter_that_is_not_utf8_when_listing_then_it_is_one_line_and_no_traceback(invoke: Invoke) -> None:
    result = invoke("runs", "--client-id", "web\udcff")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "argument 3 is not UTF-8 at character 4" in result.stderr


def test_a_run_whose_undo_waits_for_a_lost_worker_says_so_and_what_to_type(
    invoke: Invoke, engine: FakeApplication
) -> None:
    lost = (AwaitedWorker("b-812-f", "pay-7", 812, "charge"),)
    until_confirmed = Wait(WaitKind.END, "charge", None, None, undo_waits(lost))
    waits = run(RunStatus.COMPENSATING, awaits=lost, waits=(until_confirmed,))
    engine.held, engine.awaited = [waits], {"b-812-f": [waits.run_id]}
    shown = " ".join(invoke("show", waits.run_id).stdout.split())
    assert "its undo waits until a worker is confirmed dead: pay-7 (pid 812), lost in charge" in shown
    assert "stageflow workers confirm-dead b-812-f --reason …" in shown
    listed = invoke("runs", "--attention").stdout
    assert "undo waits: worker not confirmed dead" in listed
    assert f"next: stageflow show {waits.run_id}" in listed
    said = invoke("workers", "confirm-dead", "b-812-f", "--reason", "the host is off", "--actor", "ada")
    assert said.stdout == "b-812-f is confirmed dead; 1 run waited for it\n"
    assert engine.calls[-1].given == {"reason": "the host is off", "actor": "ada"}


def test_a_lost_worker_that_undos_wait_for_is_listed_however_long_ago_it_was_lost(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.known_workers = [worker(1, ended_at=ago(90_000), awaited=True)]
    assert "undos wait for its end" in invoke("workers").stdout


def test_json_says_what_each_run_waits_for(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [
        run(RunStatus.WAITING, waits_for=(WaitingFor.LIMIT, WaitingFor.TIME)),
        run(RunStatus.SUCCEEDED, run_id="01J9F2ZZZZZZZZZZZZZZZZZZZZ"),
    ]
    assert [one["waiting_for"] for one in json.loads(invoke("runs", "--json").stdout)] == ["limit", None]


def test_a_plan_of_an_upgrade_names_what_stops_it_what_it_locks_and_how_long(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = schema.Step("0007", "a wait says for what", (schema.Locked("events", 1_000_000),), 2)
    monkeypatch.setattr(schema, "current", lambda _url: "0006")
    monkeypatch.setattr(schema, "steps", lambda _url: [step])
    engine.settings = Settings(queue="sf", database_url="sqlite:///shop.db", broker_url="memory://")
    told = invoke("db", "upgrade", "--dry-run").stdout.splitlines()
    assert told == [
        f"schema 0006 → {schema.head()}",
        "0007  a wait says for what",
        "      refused while 2 worker processes are at work: stop them first (stageflow workers)",
        f"      locks events: about 1,000,000 rows, about {duration(step.seconds)}",
    ]
    (planned,) = json.loads(invoke("db", "upgrade", "--dry-run", "--json").stdout)["steps"]
    assert (planned["workers"], planned["seconds"]) == (2, round(step.seconds, 1))
