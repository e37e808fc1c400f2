"""``stageflow history``: what happened to a run, for people and for programs, without secrets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from stageflow_durable.cli.history import _style
from stageflow_durable.model.run import Event
from stageflow_durable.model.status import RunStatus
from tests.cli.conftest import Invoke
from tests.cli.fakes import RUN_ID, FakeApplication, run


def event(seq: int, kind: str, at: datetime, item: int = 0, **data: Any) -> Event:
    return Event(RUN_ID, seq, kind, at, data, item)


EVENTS = [
    event(1, "run.accepted", datetime(2026, 2, 28, 23, 59, 59, 4000, UTC), pipeline="checkout", key=None),
    event(2, "stage.begun", datetime(2026, 3, 1, 0, 0, 0, 0, UTC), stage="charge", attempt=1, owner="w-1"),
    event(3, "stage.failed", datetime(2026, 3, 1, 0, 0, 1, 0, UTC), 2, stage="charge", error="card \x1b[2J declined"),
    event(4, "run.failed", datetime(2026, 3, 1, 0, 0, 1, 0, UTC), stage=None),
    event(5, "shop.said", datetime(2026, 3, 1, 0, 0, 2, 0, UTC), given={"token": "hunter2", "n": [1, None]}),
]


@pytest.fixture(autouse=True)
def _held(engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.FAILED)]
    engine.events = list(EVENTS)


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_each_event_is_a_line_below_its_day(invoke: Invoke, follow: list[str]) -> None:
    result = invoke("history", "01J9F2", *follow)
    assert result.exit_code == 0, result.output
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "2026-02-28 UTC",
        "   1  23:59:59.004  run.accepted          pipeline=checkout",
        "2026-03-01 UTC",
        "   2  00:00:00.000  stage.begun           charge  attempt=1  owner=w-1",
        "   3  00:00:01.000  stage.failed          charge#2  error=card \\x1b[2J declined",
        "   4  00:00:01.000  run.failed",
        '   5  00:00:02.000  shop.said             given={"token": "***", "n": [1, null]}',
    ]


def test_behind_a_number_only_what_came_later(invoke: Invoke) -> None:
    assert [line[:4] for line in invoke("history", RUN_ID, "--after", "2").stdout.splitlines()] == [
        "2026",
        "   3",
        "   4",
        "   5",
    ]
    assert invoke("history", RUN_ID, "--after", "9").stdout == ""


def test_a_long_value_is_cut_unless_all_of_it_is_wanted(invoke: Invoke, engine: FakeApplication) -> None:
    engine.events = [event(1, "shop.said", EVENTS[0].at, text="x" * 5000)]
    assert len(invoke("history", RUN_ID).stdout) < 250
    assert "x" * 5000 in invoke("history", RUN_ID, "--full").stdout


def test_as_json_it_is_a_document_and_followed_a_line_an_event(invoke: Invoke) -> None:
    document = json.loads(invoke("history", RUN_ID, "--json").stdout)
    lines = [json.loads(line) for line in invoke("history", RUN_ID, "--json", "--follow").stdout.splitlines()]
    assert document == lines
    assert [(one["seq"], one["type"], one["at"]) for one in document][:1] == [
        (1, "run.accepted", "2026-02-28T23:59:59.004000Z")
    ]
    assert document[4]["data"] == {"given": {"token": "***", "n": [1, None]}}
    assert document[2]["item"] == 2


def test_a_run_that_is_not_there_is_one_line(invoke: Invoke) -> None:
    result = invoke("history", "01ZZZZZZ")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("stageflow: no run")


@pytest.mark.parametrize(
    ("kind", "style"),
    [
        ("stage.ok", "green"),
        ("run.succeeded", "green"),
        ("stage.woken", ""),
        ("work.retry_attempt", "yellow"),
        ("work.retry_exhausted", "bold red"),
        ("stage.failed", "bold red"),
        ("undo.opened", "magenta"),
        ("run.accepted", ""),
    ],
)
def test_what_went_wrong_looks_like_it_and_what_went_well_too(kind: str, style: str) -> None:
    assert _style(kind) == style
