"""What is said of each kind of wait: a table of rows and words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stageflow_durable.model.roster import Missing
from stageflow_durable.model.run import AwaitedWorker, RunSummary, WaitKind
from stageflow_durable.model.status import ParkReason, Phase, RunStatus
from stageflow_durable.model.waits import About, Strand, waits_long, waits_of, with_depths

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
AT = NOW.timestamp()
FOR_EVER = 253370764800.0
SLOW = Missing("pipeline", "no live worker knows slow v1", "start a worker whose Engine has slow", "stageflow worker")


def run(status: RunStatus = RunStatus.WAITING, phase: Phase = Phase.FORWARD, **given: Any) -> RunSummary:
    park = given.pop("park_reason", None)
    made = RunSummary(
        *("R1", "slow", "1", "web", None, status, phase, None, park, None, given.pop("error_stage", None)),
        *(0, False, NOW - timedelta(hours=1), NOW - timedelta(minutes=13), None, None),
        **given,
    )
    return made  # noqa: RET504  # one value a line


def strand(**given: Any) -> Strand:
    fresh = Strand("charge", "forward", "waiting", 1, 1, None, None, None, None, 0, "q", "time")
    return fresh._replace(**given)


def about(missing: Missing | None = None, sleeps: str = "", **most: int) -> About:
    return About(NOW, frozenset(sleeps.split()), lambda _queue: missing, most, FOR_EVER)


SAID: list[tuple[dict[str, Any], About, WaitKind, str]] = [
    ({"wake_at": AT + 12}, about(charge=5), WaitKind.RETRY, "try 2 of 5 of charge, in 12 s"),
    ({"wake_at": AT + 12}, about(), WaitKind.RETRY, "try 2 of charge, in 12 s"),
    ({"wake_at": AT - 3}, about(), WaitKind.RETRY, "try 2 of charge, due for 3 s"),
    ({"wake_at": AT + 90, "direction": "backward"}, about(), WaitKind.RETRY, "try 2 of undo of charge, in 1 min"),
    (
        {"wake_at": AT + 7300, "attempt": 0, "stage": "nap"},
        about(sleeps="nap"),
        WaitKind.SLEEP,
        "sleep nap until 2026-03-01 14:01:40 UTC, in 2 h",
    ),
    ({"waiting_for": "signal"}, about(), WaitKind.SIGNAL, "charge waits for a signal"),
    (
        {"waiting_for": "approval", "wake_at": AT + 172800},
        about(),
        WaitKind.APPROVAL,
        "charge waits for an approval, in 2 d at the latest",
    ),
    ({"waiting_for": "child"}, about(), WaitKind.CHILD, "charge waits for a run that it started"),
    (
        {"waiting_for": "limit", "wake_at": AT + 3},
        about(),
        WaitKind.LIMIT,
        "charge waits for its turn, which another run has; looked at again in 3 s",
    ),
    (
        {"waiting_for": "worker", "nudges": 4, "wake_at": AT + 60},
        about(SLOW),
        WaitKind.WORKER,
        "no live worker knows slow v1; 13 min",
    ),
    (
        {"waiting_for": "worker", "nudges": 4, "wake_at": AT + 2},
        about(),
        WaitKind.WORKER,
        "charge is offered to the workers that know it again in 2 s",
    ),
    (
        {"state": "ready", "waiting_for": None, "published_at": AT - 40},
        about(),
        WaitKind.MESSAGE,
        "message for charge published 40 s ago to queue q",
    ),
    (
        {"state": "ready", "waiting_for": None},
        about(),
        WaitKind.MESSAGE,
        "the message for charge is still to be published to queue q; a sweep does that",
    ),
    (
        {"direction": "backward", "attempt": 0, "wake_at": AT + 20},
        about(),
        WaitKind.END,
        "undo of charge waits until what was lost cannot act any more, in 20 s",
    ),
]


@pytest.mark.parametrize(("row", "known", "kind", "text"), SAID, ids=[case[3] for case in SAID])
def test_each_wait_is_put_into_words(row: dict[str, Any], known: About, kind: WaitKind, text: str) -> None:
    (wait,) = waits_of(run(), [strand(**row)], known)
    assert (wait.kind, wait.text) == (kind, text)
    assert wait.stage == row.get("stage", "charge")
    assert (wait.until is None) == ("wake_at" not in row)


def test_an_undo_that_waits_for_a_confirmed_end_says_whose_and_what_to_type() -> None:
    lost = (AwaitedWorker("b-812-f", "pay-7", 812, "charge"),)
    row = strand(direction="backward", attempt=0, waiting_for="worker", wake_at=FOR_EVER)
    (wait,) = waits_of(run(RunStatus.COMPENSATING, Phase.BACKWARD, awaits=lost), [row], about())
    assert (wait.kind, wait.until) == (WaitKind.END, None)
    assert wait.text == "its undo waits until a worker is confirmed dead: pay-7 (pid 812), lost in charge"
    assert wait.fix == "stageflow workers confirm-dead b-812-f --reason …"


def test_what_runs_or_is_over_does_not_wait_and_a_parked_run_waits_for_a_person() -> None:
    assert waits_of(run(RunStatus.RUNNING), [strand(state="running", waiting_for=None)], about()) == ()
    assert waits_of(run(RunStatus.SUCCEEDED, Phase.SETTLED), [strand(state="done", waiting_for=None)], None) == ()
    parked = run(RunStatus.PARKED, Phase.SETTLED, park_reason=ParkReason.UNKNOWN, error_stage="charge")
    (wait,) = waits_of(parked, [], None)
    assert (wait.kind, wait.text, wait.fix) == (WaitKind.PERSON, "charge outcome unknown", "stageflow show R1")


def test_how_deep_a_queue_is_is_said_of_what_waits_there_for_long() -> None:
    old = strand(state="ready", waiting_for=None, published_at=AT - 40)
    young = strand(state="ready", waiting_for=None, published_at=AT - 1, queue="other")
    waits = waits_of(run(), [old, young, strand(wake_at=AT + 1)], about())
    assert [*waits_long(waits, NOW)] == ["q"]
    assert [wait.text for wait in with_depths(waits, {"q": 312})] == [
        "try 2 of charge, in 1 s",
        "message for charge published 40 s ago to queue q, queue depth 312",
        "message for charge published 1 s ago to queue other",
    ]
