from __future__ import annotations

import ast
import json
import time
from dataclasses import fields, replace
from inspect import getsource
from ssl import CERT_NONE
from typing import Any

import pytest
from celery import Celery

from stageflow_durable import Engine
from stageflow_durable.cli import checks, doctor, habits, serving, worker_checks
from stageflow_durable.cli.checks import Check, Level
from stageflow_durable.delivery.far import far_messages
from stageflow_durable.delivery.habits import Habits
from stageflow_durable.delivery.probes import (
    BrokerFacts,
    CeleryFacts,
    RedisFacts,
    TaskFacts,
    numbers,
    probe_broker,
    probe_claims,
)
from stageflow_durable.delivery.worker_facts import WorkerFacts, worker_facts
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.run import ApprovalView, WorkerView
from stageflow_durable.model.status import RunStatus
from stageflow_durable.settings import Settings
from stageflow_durable.state.server import ServerFacts, server_facts
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, FakeApplication, ago, parked_unknown, run
from tests.services.broker import BrokerService

REDIS = RedisFacts("redis", (7, 2, 4), "noeviction", 0, True)
CELERY = CeleryFacts(
    (5, 7, 0),
    TaskFacts(acks_late=True, reject_on_worker_lost=True, ignore_result=True),
    "stageflow_durable.delivery.consumer:SturdyConsumer",
    1,
    ("json",),
    None,
    3600.0,
    "redis://h",
)

THEIRS = "celery.worker.consumer:Consumer"


def named(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_a_safe_server_and_application_have_nothing_to_fix() -> None:
    found = [*checks.broker(BrokerFacts("redis", redis=REDIS)), *checks.application(CELERY)]
    assert {check.level for check in found} == {Level.OK}
    assert all(check.fix is None for check in found)


@pytest.mark.parametrize(
    ("facts", "name", "level", "fix"),
    [
        (replace(REDIS, version=(6, 0, 16)), "redis version", Level.FAIL, "upgrade the server"),
        (
            replace(REDIS, policy="allkeys-lru", maxmemory=1 << 30),
            "redis eviction",
            Level.FAIL,
            "CONFIG SET maxmemory-policy noeviction",
        ),
        (replace(REDIS, policy="allkeys-lru"), "redis eviction", Level.WARN, "CONFIG SET maxmemory-policy noeviction"),
        (replace(REDIS, append_only=False), "redis append-only file", Level.WARN, "CONFIG SET appendonly yes"),
        (replace(REDIS, append_only=None), "redis append-only file", Level.SKIP, ""),
        (replace(REDIS, policy=None), "redis eviction", Level.SKIP, ""),
    ],
)
def test_an_unsafe_server_is_told_with_the_line_that_fixes_it(
    facts: RedisFacts, name: str, level: Level, fix: str
) -> None:
    check = named(list(checks.redis(facts)))[name]
    assert check.level is level
    assert fix in (check.fix or "")


def test_every_verdict_that_is_not_fine_has_the_line_that_fixes_it() -> None:
    made = [
        (module.__name__, call.lineno, len(call.args) + len(call.keywords))
        for module in (checks, habits, serving, worker_checks, doctor)
        for call in ast.walk(ast.parse(getsource(module)))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Check"
        if ast.unparse(call.args[1]) not in ("Level.OK", "Level.SKIP")
    ]
    assert len(made) > 8
    assert [where for *where, given in made if given < len(fields(Check))] == []


def test_it_says_whether_a_pooler_was_met() -> None:
    assert checks.pooler(False).message == "none is met"
    assert checks.pooler(True).message.startswith("one is met")


def test_valkey_counts_its_versions_anew() -> None:
    assert named(list(checks.redis(replace(REDIS, server="valkey", version=(8, 1)))))["redis version"].level is Level.OK


@pytest.mark.parametrize(
    ("facts", "name", "level", "says"),
    [
        (replace(CELERY, task=None), "task", Level.FAIL, "not registered"),
        (replace(CELERY, task=TaskFacts(False, True, True)), "task", Level.FAIL, "acks_late is off"),
        (replace(CELERY, task=TaskFacts(True, False, True)), "task", Level.FAIL, "reject_on_worker_lost is off"),
        (replace(CELERY, worker_consumer=THEIRS), "celery", Level.FAIL, "5.7.0 crashes"),
        (replace(CELERY, worker_consumer=THEIRS, version=(5, 6, 3)), "celery", Level.OK, "5.6.3"),
        (replace(CELERY, prefetch_multiplier=4), "prefetch", Level.WARN, "4: messages wait"),
        (replace(CELERY, cancels=True), "broker loss", Level.FAIL, "are ended"),
        (replace(CELERY, accept_content=("json", "pickle")), "accepted content", Level.FAIL, "accepts pickle"),
        (replace(CELERY, accept_content=("json", "yaml")), "accepted content", Level.WARN, "accepts yaml"),
        (replace(CELERY, result_backend="redis://h"), "result backend", Level.OK, "not used"),
        (replace(CELERY, obeys="all"), "remote control", Level.WARN, "can stop workers"),
        (replace(CELERY, obeys="off"), "remote control", Level.OK, "no remote command"),
        (
            replace(CELERY, result_backend="redis://h", task=TaskFacts(True, True, False)),
            "result backend",
            Level.WARN,
            "writes results",
        ),
    ],
)
def test_an_unsafe_application_is_told(facts: CeleryFacts, name: str, level: Level, says: str) -> None:
    check = named(list(checks.application(facts)))[name]
    assert check.level is level
    assert says in check.message
    assert (check.fix is None) == (level is Level.OK)


def test_each_line_for_an_adopted_application_names_the_one_setting_that_is_unsafe() -> None:
    wrong = {"worker_consumer": THEIRS, "prefetch_multiplier": 4, "cancels": True, "accept_content": ("yaml",)}
    facts = replace(CELERY, **wrong, adopted=True, obeys="all")  # type: ignore[arg-type]  # each has its own type
    assert [check.fix for check in checks.application(facts) if check.fix] == [
        'celery_app.conf.worker_consumer = "stageflow_durable.delivery.consumer:SturdyConsumer"',
        "celery_app.conf.worker_prefetch_multiplier = 1",
        "celery_app.conf.worker_cancel_long_running_tasks_on_connection_loss = False",
        'celery_app.conf.accept_content = ["json"]',
        "celery_app.conf.worker_enable_remote_control = False",
    ]
    fix = checks.visibility(60.0, "redis", 10.0, 30.0, adopted=True).fix
    assert fix == 'celery_app.conf.broker_transport_options["visibility_timeout"] = 100'


@pytest.mark.parametrize(
    ("timeout", "longest", "level"),
    [(3600.0, 30.0, Level.OK), (None, 30.0, Level.OK), (3600.0, 3600.0, Level.FAIL), (60.0, None, Level.FAIL)],
)
def test_the_visibility_timeout_has_to_exceed_the_longest_work_of_a_message(
    timeout: float | None, longest: float | None, level: Level
) -> None:
    check = checks.visibility(timeout, "redis", 10.0, longest)
    assert check.level is level
    if level is Level.FAIL:
        assert check.fix == f"STAGEFLOW_VISIBILITY_TIMEOUT={10 + (longest or 0) + 60:.0f}"


def test_a_short_visibility_timeout_is_no_matter_where_workers_note_what_is_unacknowledged_in_themselves() -> None:
    assert checks.visibility(1.0, "redis", 10.0, 30.0, quick_acks=True).level is Level.SKIP


def test_a_broker_without_visibility_timeout_is_not_asked_for_one() -> None:
    assert checks.visibility(None, "amqp", 10.0, 1e6).level is Level.SKIP


def test_a_schema_of_a_newer_release_is_fixed_by_deploying_it_and_not_by_an_upgrade() -> None:
    check = checks.schema("0009", "0001", ahead=True)
    assert (check.level, "0009" in check.message, "0001" in check.message) == (Level.WARN, True, True)
    assert "deploy" in (check.fix or "")
    assert checks.schema("0000", "0001").fix == "stageflow db upgrade"


def test_no_live_worker_is_a_failure_only_while_there_is_work() -> None:
    dead = WorkerView("o", "h", 1, False, NOW, NOW, ())
    assert checks.live_workers([dead], 0).level is Level.WARN
    assert checks.live_workers([dead], 3).message == "none alive, and 3 runs to do"
    assert checks.live_workers([replace(dead, alive=True)], 3).level is Level.OK


def test_runs_that_stand_still_are_overdue_and_those_that_wait_for_a_person_are_not() -> None:
    assert checks.overdue([parked_unknown()], NOW).level is Level.OK
    check = checks.overdue([parked_unknown(), run(RunStatus.RUNNING, updated_at=ago(7200))], NOW)
    assert (check.level, check.message) == (Level.FAIL, "1 run should have gone on, since 2h")
    asked = ApprovalView("release", 1, {"cents": 1}, "d" * 64, (), ago(7200))
    assert checks.overdue([run(RunStatus.RUNNING, updated_at=ago(7200), approval=asked)], NOW).level is Level.OK


@pytest.mark.parametrize(
    ("version", "parsed"), [("7.2.4", (7, 2, 4)), ("5.7.0rc1", (5, 7, 0)), ("255.255.255-dev", (255,) * 3), ("x", ())]
)
def test_versions_are_compared_by_their_numbers(version: str, parsed: tuple[int, ...]) -> None:
    assert numbers(version) == parsed


def test_a_broker_that_is_away_is_a_verdict_within_bounded_time() -> None:
    facts = probe_broker("redis://127.0.0.1:1/0", timeout=0.5)
    assert facts.redis is None
    [check] = checks.broker(facts)
    assert (check.level, "refused" in check.message) == (Level.FAIL, True)


def test_a_broker_of_another_kind_is_asked_only_whether_it_answers() -> None:
    assert list(checks.broker(probe_broker("memory://"))) == [checks.ok("broker", "memory answers")]


# --- servers and workers ----------------------------------------------------------------------------------------------

SERVER = ServerFacts(0.1, "UTF8", 100, 20, 10, pooled=False)
WORKERS = WorkerFacts(1000, True, 300.0, True, 10.0, True, True, 10.0, adopted=True)


def test_a_sound_server_and_sound_workers_have_nothing_to_fix() -> None:
    found = [*checks.server(SERVER, 4), *worker_checks.workers(WORKERS, "redis", alone=False), checks.audit_key(True)]
    assert {check.level for check in found} == {Level.OK}


@pytest.mark.parametrize(
    ("facts", "alive", "name", "level", "says"),
    [
        (replace(SERVER, encoding="LATIN1"), 1, "database encoding", Level.FAIL, "LATIN1: text that it cannot hold"),
        (replace(SERVER, ahead=-3.0), 1, "clock", Level.WARN, "3.0 s behind this machine's"),
        (replace(SERVER, ahead=90.0), 1, "clock", Level.WARN, "90.0 s ahead of this machine's"),
        (replace(SERVER, used=81), 1, "connections", Level.WARN, "81 of 100 in use, 10 by stageflow"),
        (replace(SERVER, used=100), 1, "connections", Level.FAIL, "100 of 100"),
        (SERVER, 20, "connections", Level.WARN, "20 processes of ours and the others may come to 110"),
        (replace(SERVER, pooled=True), 20, "connections", Level.OK, "20 of 100"),
    ],
)
def test_an_unsound_server_is_told(facts: ServerFacts, alive: int, name: str, level: Level, says: str) -> None:
    check = named(list(checks.server(facts, alive)))[name]
    assert (check.level, says in check.message) == (level, True), check


@pytest.mark.parametrize(
    ("facts", "name", "level", "fix"),
    [
        (replace(WORKERS, exempt=False), "time limits", Level.FAIL, "stages a timeout="),
        (replace(WORKERS, eta_limit=None), "tasks with an ETA", Level.WARN, "worker_eta_task_limit = 1000"),
        (replace(WORKERS, eta_limit=None, adopted=False), "tasks with an ETA", Level.OK, ""),
        (replace(WORKERS, recycled=False), "memory of children", Level.WARN, "worker_max_memory_per_child = 400_000"),
        (replace(WORKERS, soft_shutdown=0.0), "shutdown", Level.WARN, "worker_soft_shutdown_timeout = 10.0"),
        (replace(WORKERS, remapped=False), "shutdown", Level.WARN, "REMAP_SIGTERM=SIGQUIT"),
        (replace(WORKERS, remapped=False, contained=False), "shutdown", Level.OK, ""),
        (replace(WORKERS, socket_timeout=None), "broker sockets", Level.WARN, '["socket_timeout"] = 10.0'),
    ],
)
def test_unsound_workers_are_told(facts: WorkerFacts, name: str, level: Level, fix: str) -> None:
    check = named(list(worker_checks.workers(facts, "redis", alone=False)))[name]
    assert (check.level, fix in (check.fix or "")) == (level, True), check


def test_one_machine_and_another_broker_are_not_asked_for_what_they_do_not_need() -> None:
    facts = replace(WORKERS, recycled=False, socket_timeout=None)
    found = named(list(worker_checks.workers(facts, "amqp", alone=True)))
    assert {found[name].level for name in ("memory of children", "broker sockets")} == {Level.SKIP}


def test_the_engines_own_application_is_sound_and_a_plain_one_is_not() -> None:
    ours = Engine("shop", broker_url="redis://h", database_url="sqlite:///x.db").celery_app
    facts = worker_facts(ours, {})
    assert (facts.exempt, facts.adopted, facts.soft_shutdown, facts.socket_timeout) == (True, False, 10.0, 10.0)
    theirs = Celery("theirs")
    theirs.conf.update(task_time_limit=300, task_soft_time_limit=200, worker_max_tasks_per_child=100)
    Engine("adopts", celery_app=theirs, broker_url="redis://h", database_url="sqlite:///x.db")
    facts = worker_facts(theirs, {"REMAP_SIGTERM": "SIGQUIT", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert facts == WorkerFacts(None, True, 200.0, True, 0.0, True, True, None, adopted=True)


def test_messages_that_are_due_after_the_visibility_timeout_are_told(valkey: BrokerService) -> None:
    with Celery("theirs", broker=valkey.url_of(2), set_as_current=False) as app:
        for seconds in (None, 10, 90_000):
            app.send_task("x", countdown=seconds, queue="far", priority=seconds and 5)
        seen = far_messages(app, ["far", "empty"], now=time.time(), later_than=3600, timeout=2)
    assert (seen["far"].looked, seen["far"].far, round(seen["far"].furthest, -3)) == (3, 1, 90_000)
    [check] = worker_checks.far(seen, None)
    assert (check.level, "far: 1 of 3 messages looked at are due in up to 25.0 h" in check.message) == (
        Level.WARN,
        True,
    )
    [check] = worker_checks.far({"empty": seen["empty"]}, None)
    assert check.level is Level.OK


def test_what_is_no_message_is_looked_at_without_harm(valkey: BrokerService) -> None:
    with Celery("theirs", broker=valkey.url_of(3), set_as_current=False) as app, app.connection_for_write() as link:
        client = link.default_channel.client
        client.lpush("odd", b"\xff", "[]", "{}", json.dumps({"headers": {"eta": "soon"}}), json.dumps({"headers": 1}))
        client.hset(
            "unacked", mapping={"a": "nonsense", "b": "[1]", "c": json.dumps([{"headers": {"eta": 5}}, "", "odd"])}
        )
        seen = far_messages(app, ["odd"], now=0.0, later_than=3600, timeout=2)
    assert (seen["odd"].looked, seen["odd"].far) == (6, 0)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_server_says_how_it_stands(database_url: str) -> None:
    facts = server_facts(database_url)
    assert facts is not None
    assert (facts.encoding, facts.pooled, facts.ours >= 1, facts.used >= facts.ours) == ("UTF8", False, True, True)
    assert abs(facts.ahead) < 1
    assert facts.most > 10
    assert server_facts("sqlite:///x.db") is None


@pytest.mark.parametrize(
    ("more", "level"),
    [({}, Level.WARN), ({"dead_letters": True}, Level.OK), ({"delivery_limit": 1000}, Level.OK)],
)
def test_a_quorum_queue_that_throws_messages_away_is_told(more: dict[str, Any], level: Level) -> None:
    found = named(list(habits.rabbitmq(Habits(confirms=True, quorum=True, **more), "amqp", "q")))
    assert found["rabbitmq delivery limit"].level is level


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stageflow_durable.state.schema.current", lambda _url: "0001")
    monkeypatch.setattr("stageflow_durable.state.schema.head", lambda: "0002")
    monkeypatch.setattr("stageflow_durable.cli.session.Session.has_application", lambda _self: False)
    monkeypatch.setattr("stageflow_durable.cli.session.Session.database_url", lambda _self: "sqlite:////tmp/x.db")


@pytest.mark.usefixtures("_schema")
def test_with_only_a_database_what_needs_more_is_skipped_with_a_reason(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEFLOW_DATABASE_URL", "sqlite:////tmp/x.db")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["ok", "database"],
        ["FAIL", "schema"],
        ["fix:", "stageflow"],
        ["skip", "broker"],
        ["skip", "application"],
        ["1", "ok,"],
    ]
    assert "fix: stageflow db upgrade" in result.stdout


@pytest.mark.usefixtures("_schema")
@pytest.mark.parametrize(("head", "level", "code"), [("0001", "warn", 0), ("0002", "fail", 1)])
def test_a_warning_leaves_zero_and_a_failed_check_ends_with_one(  # fixtures and a row
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, engine: FakeApplication, head: str, level: str, code: int
) -> None:
    monkeypatch.setattr("stageflow_durable.state.schema.head", lambda: head)
    monkeypatch.setenv("STAGEFLOW_DATABASE_URL", "sqlite:////tmp/x.db")
    assert engine.known_workers == [], "without work that is a warning"
    result = invoke("doctor", "--json")
    assert level in {check["level"] for check in json.loads(result.stdout)}
    assert result.exit_code == code


@pytest.mark.usefixtures("_schema")
def test_as_json_each_check_is_a_record(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, engine: FakeApplication
) -> None:
    monkeypatch.setenv("STAGEFLOW_DATABASE_URL", "sqlite:////tmp/x.db")
    monkeypatch.setattr("stageflow_durable.state.schema.head", lambda: "0001")
    engine.held = [run(RunStatus.RUNNING)]
    found = {check["name"]: check for check in json.loads(invoke("doctor", "--json").stdout)}
    assert found["workers"] == {
        "name": "workers",
        "level": "fail",
        "message": "none alive, and 1 run to do",
        "fix": "stageflow worker",
    }
    assert found["overdue runs"]["level"] == "fail"


@pytest.mark.usefixtures("_schema")
def test_a_database_that_is_away_is_a_verdict_and_the_other_checks_go_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_url: str) -> str:
        raise StoreUnavailable("the database did not answer:\nconnection refused")

    monkeypatch.setattr("stageflow_durable.state.schema.current", away)
    monkeypatch.setenv("STAGEFLOW_BROKER_URL", "memory://")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "FAIL  database     the database did not answer: connection refused" in result.stdout
    assert "ok    broker       memory answers" in result.stdout


# --- what cannot be looked at -----------------------------------------------------------------------------------------


def test_a_sentinel_without_the_name_of_its_master_is_a_verdict_with_the_line_that_names_it() -> None:
    facts = probe_broker("sentinel://127.0.0.1:1/0", timeout=0.2)
    [check] = checks.broker(facts)
    assert (check.level, check.name) == (Level.FAIL, "broker")
    assert "'master_name' transport option must be specified" in check.message
    assert "master_name" in (check.fix or "")


def test_the_broker_is_asked_as_the_application_reaches_it(valkey: BrokerService) -> None:
    there = valkey.url_of(1)
    app = Celery("x", broker=f"redis://127.0.0.1:1/0;{there}")
    app.conf.broker_transport_options = {"socket_timeout": 1}
    assert probe_broker("redis://127.0.0.1:1/0", timeout=0.2, app=app).redis is not None, "by its second URL"
    app = Celery("x", broker=there, broker_use_ssl={"ssl_cert_reqs": CERT_NONE})
    assert probe_broker(there, timeout=1.0).error is None
    assert probe_broker(there, timeout=1.0, app=app).error, "that server speaks no TLS, which the application asks for"


def test_an_answer_that_names_the_broker_hides_its_password() -> None:
    app = Celery("x", broker="redis://:pa55word@127.0.0.1:1/0?nonsense=1")
    assert "pa55word" not in str(probe_broker("redis://:pa55word@127.0.0.1:1/0", timeout=0.2, app=app))


def test_claims_that_are_not_kept_are_told(valkey: BrokerService) -> None:
    assert checks.claims(None, None).level is Level.SKIP
    assert probe_claims(valkey.url_of(1)) is None
    wrong = valkey.url_of(1).replace(valkey.password, "wrong")
    for url in ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0?nonsense=1", wrong):
        check = checks.claims(url, probe_claims(url, timeout=0.3))
        assert (check.level, "not kept" in check.message) == (Level.WARN, True)


@pytest.mark.usefixtures("_schema")
@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("stageflow_durable.state.schema.current", "database"),
        ("stageflow_durable.delivery.probes.probe_broker", "broker"),
        ("stageflow_durable.delivery.probes.probe_claims", "claims"),
        ("stageflow_durable.delivery.probes.celery_facts", "application"),
    ],
)
def test_a_look_that_itself_fails_is_a_failed_check_and_the_others_go_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, engine: FakeApplication, where: str, name: str
) -> None:
    def broken(*_given: object, **_options: object) -> None:
        raise ZeroDivisionError("nobody thought of redis://:pa55word@h")

    monkeypatch.setenv("STAGEFLOW_DATABASE_URL", "sqlite:////tmp/x.db")
    engine.settings = Settings(
        database_url="sqlite:////tmp/x.db", broker_url="redis://127.0.0.1:1/0", redis_url="redis://h:1/0"
    )
    engine.celery_app = Celery("x", broker="redis://127.0.0.1:1/0")
    monkeypatch.setattr("stageflow_durable.cli.session.Session.has_application", lambda _self: True)
    monkeypatch.setattr(where, broken)
    result = invoke("--app", "shop:engine", "doctor", "--json", "--timeout", "0.2")
    found = named([Check(**check) for check in json.loads(result.stdout)])
    assert result.exit_code == 1
    assert found[name].level == Level.FAIL
    assert found[name].message == "could not be looked at: ZeroDivisionError: nobody thought of redis://***@h"
    assert len(found) > 2, "the others went on"
