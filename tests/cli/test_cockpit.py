"""What ``up`` tells: ready, what to type, and each run that ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from enum import Enum

import pytest
from pydantic import BaseModel, Field

from stageflow_durable import Pipeline
from stageflow_durable.cli.cockpit import Cockpit, hello, sample_input
from stageflow_durable.model.roster import Known, Profile, Roster
from stageflow_durable.model.run import Wait, WaitKind, WorkerView
from stageflow_durable.model.status import RunStatus
from tests.cli.fakes import NOW, FakeOperations, ago, run, stage

ID = "01J9F2QZ7KXV3M5N8P0R2T4W{:02}"


@pytest.fixture
def out() -> list[str]:
    return []


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def cockpit(operations: FakeOperations, out: list[str]) -> Cockpit:
    return Cockpit(operations, out.append, lambda: ago(100), lambda: ["ready: checkout v1"], "host")


def worker(started: float, *running: str) -> WorkerView:
    return WorkerView("o", "host", 7, True, ago(started), NOW + timedelta(seconds=5), running)


def waits(kind: WaitKind, text: str) -> tuple[Wait, ...]:
    return (Wait(kind, "charge", None, None, text),)


def test_it_is_ready_once_a_worker_of_this_up_works(
    cockpit: Cockpit, operations: FakeOperations, out: list[str]
) -> None:
    operations.known_workers = [worker(started=500)]  # of the up before, not yet found dead
    cockpit.look()
    assert out == []
    operations.known_workers.append(worker(started=1))
    cockpit.look()
    cockpit.look()
    assert out == ["ready: checkout v1"]


def test_a_run_that_ends_is_told_once_with_its_status_and_why(
    cockpit: Cockpit, operations: FakeOperations, out: list[str]
) -> None:
    old = run(RunStatus.SUCCEEDED, stage("a"), run_id=ID.format(0))
    going = run(RunStatus.RUNNING, stage("a"), run_id=ID.format(1), created_at=ago(500))
    operations.held = [old, going]
    cockpit.look()
    assert out == []  # what ended before is not news
    ended = replace(going, status=RunStatus.SUCCEEDED, updated_at=ago(490))
    quick = run(
        RunStatus.COMPENSATED,
        run_id=ID.format(2),
        created_at=ago(9),
        updated_at=ago(7),
        error="no\x1b",
        error_stage="b",
    )
    operations.held = [old, ended, quick]
    for _look in range(3):
        cockpit.look()
    assert out == [
        f"run {ID.format(1)} checkout succeeded after 10.0 s",
        f"run {ID.format(2)} checkout compensated at b after 2.0 s: no\\x1b",
    ]


def test_what_a_run_is_at_is_told_once_while_it_is_at_it(
    cockpit: Cockpit, operations: FakeOperations, out: list[str]
) -> None:
    going = run(RunStatus.RUNNING, run_id=ID.format(1), created_at=ago(50))
    place = f"{going.run_id}/charge\x1b[2J"
    looks: list[tuple[tuple[str, ...], tuple[Wait, ...]]] = [
        ((), ()),
        ((), waits(WaitKind.MESSAGE, "message for charge")),
        ((place,), ()),
        ((place,), ()),
        ((), waits(WaitKind.RETRY, "try 2 of charge, in 3 s\x1b")),
        ((), waits(WaitKind.RETRY, "try 2 of charge, in 2 s\x1b")),
    ]
    for running, wait in looks:
        operations.known_workers = [worker(1, *running)]
        operations.held = [replace(going, waits=wait)]
        cockpit.look()
    assert out == [
        "ready: checkout v1",
        f"run {ID.format(1)[:12]} checkout runs charge\\x1b[2J",
        f"run {ID.format(1)[:12]} checkout waits: try 2 of charge, in 3 s\\x1b",
    ]


def test_many_that_go_on_at_once_are_a_number(cockpit: Cockpit, operations: FakeOperations, out: list[str]) -> None:
    operations.held = [run(RunStatus.RUNNING, run_id=ID.format(n), created_at=ago(5)) for n in range(9)]
    operations.known_workers = [worker(1, *(f"{ID.format(n)}/charge" for n in range(9)))]
    cockpit.look()
    assert out == ["ready: checkout v1", "9 runs went on"]
    assert cockpit.at_work().endswith(f"charge of {ID.format(4)[:12]}, 4 more")


def test_while_the_workers_start_again_runs_wait_for_them_without_a_word(
    cockpit: Cockpit, operations: FakeOperations, out: list[str]
) -> None:
    operations.known_workers = [worker(1, f"{ID.format(1)}/charge")]
    cockpit.look()
    assert cockpit.at_work() == f"charge of {ID.format(1)[:12]}"
    elsewhere = replace(worker(1, f"{ID.format(2)}/charge"), host="another")
    operations.known_workers.append(elsewhere)
    cockpit.look()
    assert cockpit.at_work() == f"charge of {ID.format(1)[:12]}", "nobody here waits for what runs on another machine"
    cockpit.stopping(again=True)
    waiting = waits(WaitKind.WORKER, "no worker is alive")
    operations.held = [run(RunStatus.RUNNING, run_id=ID.format(1), created_at=ago(50), waits=waiting)]
    operations.known_workers = []
    cockpit.look()
    operations.known_workers = [worker(0)]
    operations.known_roster = Roster((Profile("shop", "r", ("q",), {"checkout": Known("2", "c2")}),))
    cockpit.look()
    assert out == ["ready: checkout v1", "ready again: checkout v2"]


def test_many_that_end_at_once_are_a_sum(cockpit: Cockpit, operations: FakeOperations, out: list[str]) -> None:
    states = [RunStatus.SUCCEEDED] * 20 + [RunStatus.FAILED]
    operations.held = [run(state, run_id=ID.format(n), created_at=ago(5)) for n, state in enumerate(states)]
    cockpit.look()
    assert out == ["21 runs ended: 20 succeeded, 1 failed"]


class Size(Enum):
    SMALL = "s"


class Line(BaseModel):
    sku: str
    count: int


class Order(BaseModel):
    order_id: str
    lines: list[Line]
    first: Line
    size: Size
    note: str | None = None
    kind: str = Field(examples=["gift"])


def test_the_command_to_paste_has_an_input_of_the_right_shape() -> None:
    sample = sample_input(Order)
    assert sample == {"order_id": "x", "lines": [], "first": {"sku": "x", "count": 1}, "size": "s", "kind": "gift"}
    Order.model_validate(sample)
    pipelines = {"checkout": Pipeline("checkout", input_type=Order)}
    [ready, paste] = hello("shop:engine", pipelines, "http://127.0.0.1:5555")
    assert ready == "ready: checkout v1; http://127.0.0.1:5555"
    assert paste.startswith('in another terminal: stageflow --app shop:engine enqueue checkout --input \'{"order_id"')
    assert sample_input(None) == {}
    assert hello("shop:engine", {})[0].startswith("ready; shop:engine has no pipelines yet")
