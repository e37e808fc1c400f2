"""Runs that no live worker carries, as the command shows them: why, and what to type."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from stageflow_durable.cli import serving
from stageflow_durable.cli.checks import Check, Level
from stageflow_durable.cli.serving import Served
from stageflow_durable.model.roster import Known, Missing, Profile, Roster
from stageflow_durable.model.run import Run, Wait, WaitKind, WorkerView
from stageflow_durable.model.status import RunStatus, StageState
from stageflow_durable.state import schema
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, FakeApplication, ago, run, stage

SLOW = Missing(
    "pipeline",
    "no live worker knows slow v1; live workers know: checkout v1",
    "start a worker whose Engine has slow",
    "stageflow --app MODULE:ENGINE worker",
)
SHOP = Profile("shop", "redis://h:6379/0", ("stageflow-shop", "stageflow"), {"checkout": Known("1", "c1")})
WANTED = Served("shop", "redis://h:6379/0", ("stageflow-shop", "stageflow"), {"checkout": Known("1", "c1")})
MAIL = Profile("mail", "redis://h:6379/0", ("stageflow-shop",), {"mail": Known("1", "m1")})


def waiting(number: int = 0) -> Run:
    again: dict[str, Any] = {"wake_at": NOW, "most": None}
    first = stage("long", StageState.WAITING, **again)
    given: dict[str, Any] = {"pipeline": "slow", "missing": SLOW, "run_id": f"01J9F2QZ7KXV{number:014d}"}
    waits = Wait(WaitKind.WORKER, "long", NOW, ago(780), f"{SLOW.message}; 13 min", SLOW.way_out)
    given["waits"] = (waits,)
    return run(RunStatus.PENDING, first, **given)


def test_show_says_what_is_missing_and_the_way_out_and_no_time_that_means_nothing(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [waiting()]
    shown = " ".join(invoke("show", waiting().run_id).stdout.split())
    assert SLOW.message in shown
    assert "To let it go on, start a worker whose Engine has slow: stageflow --app MODULE:ENGINE worker" in shown
    assert "again in" not in shown


def test_json_says_what_it_waits_for(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [waiting()]
    told = json.loads(invoke("show", waiting().run_id, "--json").stdout)
    assert (told["waiting_for"], told["missing"]["kind"]) == ("worker", "pipeline")
    assert told["missing"]["command"] == SLOW.command


def test_attention_has_a_group_of_its_own_for_them_with_the_next_command(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [waiting(0), waiting(1), run(RunStatus.PENDING, stage("a", StageState.PENDING))]
    groups = json.loads(invoke("runs", "--attention", "--json").stdout)
    assert [(group["reason"], group["count"]) for group in groups] == [
        ("no worker knows it", 2),
        ("stuck: pending", 1),
    ]
    shown = " ".join(invoke("runs", "--attention").stdout.split())
    assert f"{SLOW.message}; {SLOW.advice} next: {SLOW.command}" in shown


def named(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_doctor_fails_over_runs_that_nobody_carries_and_does_not_call_them_overdue(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stageflow_durable.state.schema.current", lambda _url: schema.head())
    monkeypatch.setattr("stageflow_durable.cli.session.Session.has_application", lambda _self: False)
    monkeypatch.setattr("stageflow_durable.cli.session.Session.database_url", lambda _self: "sqlite:////tmp/x.db")
    monkeypatch.setenv("STAGEFLOW_DATABASE_URL", "sqlite:////tmp/x.db")
    engine.held = [waiting(0), waiting(1)]
    engine.known_workers = [WorkerView("o", "h", 1, True, ago(60), NOW, ())]
    result = invoke("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert checks["runs carried"]["level"] == "fail"
    assert checks["runs carried"]["message"] == f"2 runs wait: {SLOW.message}"
    assert checks["runs carried"]["fix"] == SLOW.way_out
    assert checks["overdue runs"]["level"] == "ok"
    assert result.exit_code == 1


def test_an_application_that_is_served_has_nothing_to_fix() -> None:
    found = [*serving.served(WANTED, Roster((SHOP,))), *serving.shared(Roster((SHOP,))), *serving.carried([])]
    assert {check.level for check in found} == {Level.OK}


@pytest.mark.parametrize(
    ("wanted", "name", "level", "message"),
    [
        (
            replace(WANTED, pipelines={**WANTED.pipelines, "slow": Known("3", "s3")}),
            "pipelines served",
            Level.WARN,
            "no live worker knows slow v3, as this application has it; live workers know: checkout v1",
        ),
        (
            replace(WANTED, queues=("stageflow-shop", "gpu")),
            "queues served",
            Level.FAIL,
            "no live worker serves gpu; live workers serve: stageflow, stageflow-shop",
        ),
        (
            replace(WANTED, broker="redis://other:6379/0"),
            "broker of the workers",
            Level.WARN,
            (
                "this application publishes to redis://other:6379/0, live workers listen at redis://h:6379/0: "
                "each of its messages is late"
            ),
        ),
    ],
    ids=["pipeline", "queue", "broker"],
)
def test_what_live_workers_lack_is_told_before_a_run_waits_for_it(
    wanted: Served, name: str, level: Level, message: str
) -> None:
    check = named(list(serving.served(wanted, Roster((SHOP,)))))[name]
    assert (check.level, check.message) == (level, message)
    assert check.fix


def test_beside_a_worker_that_says_nothing_of_itself_nothing_is_said() -> None:
    (check,) = serving.served(WANTED, Roster((), silent=True))
    assert check.level is Level.SKIP


def test_a_queue_of_two_engines_is_told() -> None:
    (check,) = serving.shared(Roster((SHOP, MAIL)))
    assert check.level is Level.WARN
    assert check.message.startswith("stageflow-shop is served by workers of mail and shop")


def test_messages_of_another_database_are_told_while_they_are_recent() -> None:
    (check,) = serving.strangers({"stageflow-shop": 120.0, "old": 7200.0})
    assert check.level is Level.WARN
    assert check.message == ("stageflow-shop: messages named runs that are not in this database, the last 2 min ago")


@pytest.mark.parametrize(
    ("accepted", "level"),
    [(("json",), Level.OK), (("application/json", "yaml"), Level.OK), (("pickle",), Level.FAIL), ((), Level.FAIL)],
)
def test_an_application_that_takes_no_json_fails(accepted: tuple[str, ...], level: Level) -> None:
    assert serving.takes_json(accepted).level is level
