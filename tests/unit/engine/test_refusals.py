"""Messages that a worker did not take: one line a minute for each kind, with their number."""

from __future__ import annotations

import logging

import pytest

from stageflow_durable.engine.attempt_log import EVERY_SECONDS, RefusalLog
from stageflow_durable.model.roster import NO_WORKER
from stageflow_durable.model.work import Nudge, Refusal, Refused

NUDGE = Nudge("01RUN", "a", 0, "shared")


class Told:
    """What was logged and noted, under a clock of the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.noted: list[str] = []
        self.refusals = RefusalLog(lambda: self.now, self.noted.append)


@pytest.fixture
def told() -> Told:
    return Told()


def test_messages_of_an_unknown_pipeline_are_one_line_a_minute_with_their_number(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    back = Refused(Refusal.HANDED_BACK, about="slow v1", missing=NO_WORKER)
    for _message in range(5):
        told.refusals.add(NUDGE, back)
    told.now += EVERY_SECONDS
    told.refusals.add(NUDGE, back)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("1 message(s) of slow v1 reached this worker, which does not know it")
    assert first.endswith("run 01RUN, queue shared; no worker is alive; start one: stageflow worker")
    assert second.startswith("5 message(s) of slow v1")


def test_another_pipeline_is_told_at_once(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    for about in ("slow v1", "slow v2", "slow v1"):
        told.refusals.add(NUDGE, Refused(Refusal.HANDED_BACK, about=about))
    assert len(caplog.records) == 2


def test_messages_of_runs_that_are_not_here_are_told_and_noted_for_doctor(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    for _message in range(3):
        told.refusals.add(NUDGE._replace(run_id="x\ny" * 90), Refused(Refusal.GONE))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "does another application share the queue" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert told.noted == ["shared"]


def test_what_finds_nothing_to_take_is_not_told(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    for why in (Refusal.NOT_READY, Refusal.NOT_DUE, Refusal.FENCED, Refusal.STOPPED, Refusal.DEAD_OWNER):
        told.refusals.add(NUDGE, Refused(why))
    assert (caplog.records, told.noted) == ([], [])
