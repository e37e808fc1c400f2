"""What a worker's log says: nothing of what succeeds, one line of each attempt, undo, owner or run that does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import PermanentError, Pipeline, RetryPolicy, StageOutput, TransientError
from stageflow_durable.testing import engine_for_tests
from stageflow_durable.testing.engine import InProcessEngine
from stageflow_durable.testing.faults import Crash

THRICE = RetryPolicy(max_attempts=3, base_delay=1.0, jitter="none")


def failing(error: Exception, times: int = 99) -> Callable[[Any], str]:
    def body(ctx: Any) -> str:
        if ctx.attempt <= times:
            raise error
        return "done"

    return body


def ran(caplog: pytest.LogCaptureFixture, pipeline: Pipeline[Any, Any], **settings: Any) -> tuple[str, list[str]]:
    """The run's id and what was logged, its id left out."""
    with caplog.at_level(logging.DEBUG, logger="stageflow"), engine_for_tests([pipeline], **settings) as engine:
        run = engine.enqueue(pipeline, {})
        engine.drain()
        return run.run_id, told(caplog, run.run_id)


def told(caplog: pytest.LogCaptureFixture, run_id: str) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}".replace(run_id, "R") for record in caplog.records]


def test_what_succeeds_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    _, lines = ran(caplog, Pipeline("shop").stage("charge", lambda ctx: "done"))
    assert lines == []


def test_a_retry_is_a_warning_with_its_error_and_its_delay(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline("shop").stage("charge", failing(TransientError("bank is busy"), times=2), retry=THRICE)
    _, lines = ran(caplog, pipeline)
    assert lines == [
        "WARNING run R shop/charge attempt 1 of 3 failed: TransientError: bank is busy; next try in 1.0 s",
        "WARNING run R shop/charge attempt 2 of 3 failed: TransientError: bank is busy; next try in 2.0 s",
    ]


def test_a_failure_for_good_is_an_error_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = PermanentError("card is stolen")
    _, lines = ran(caplog, Pipeline("shop").stage("charge", failing(error), retry=THRICE))
    assert lines == [
        "ERROR run R shop/charge attempt 1 of 3 failed for good: PermanentError: card is stolen; look: stageflow show R"
    ]
    assert caplog.records[0].exc_info is not None and caplog.records[0].exc_info[1] is error


def test_a_bug_tells_that_its_run_is_parked(caplog: pytest.LogCaptureFixture) -> None:
    _, lines = ran(caplog, Pipeline("shop").stage("charge", failing(TypeError("no such field"))))
    assert [line.partition("failed for good: ")[2] for line in lines] == [
        "TypeError: no such field; parked (bug); look: stageflow show R"
    ]


def test_what_the_application_decided_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    _, lines = ran(caplog, Pipeline("shop").stage("charge", lambda ctx: StageOutput.reject("card declined")))
    assert lines == ["WARNING run R shop/charge attempt 1 ended: card declined"]


def test_an_undo_that_fails_for_good_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def refund(ctx: Any) -> None:
        raise PermanentError("no such payment")

    pipeline = (
        Pipeline("shop").stage("charge", lambda ctx: 1, compensate=refund).stage("ship", failing(PermanentError("no")))
    )
    _, lines = ran(caplog, pipeline)
    assert lines[1].startswith("ERROR run R shop/undo of charge attempt 1 of ")
    assert lines[1].endswith("failed for good: PermanentError: no such payment; look: stageflow show R")


def test_a_lost_process_is_told_with_what_was_taken_over_and_what_was_parked(caplog: pytest.LogCaptureFixture) -> None:
    def die(ctx: Any) -> str:
        raise Crash

    pipeline = Pipeline("shop").stage("charge", die, on_unknown="park")
    _, lines = ran(caplog, pipeline)
    assert [line.split()[0] for line in lines] == ["WARNING", "WARNING", "ERROR"]
    assert "was declared dead: its lease ran out; its work is taken over" in lines[0]
    assert lines[1] == "WARNING run R: charge was taken over from a dead owner"
    assert lines[2].startswith("ERROR run R parked (unknown): charge: outcome unknown: ")


def test_what_a_remote_side_said_stays_on_its_line(caplog: pytest.LogCaptureFixture) -> None:
    error = PermanentError("no\n[2026-01-01] ERROR run X all is lost \x1b[31m")
    _, lines = ran(caplog, Pipeline("shop").stage("charge", failing(error)))
    assert "no\\n[2026-01-01] ERROR run X all is lost \\x1b[31m" in lines[0]


def test_what_the_history_leaves_out_the_log_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    def write(ctx: Any) -> None:
        from sqlalchemy import text

        ctx.session.execute(text("INSERT INTO nowhere VALUES (:card)"), {"card": "4111-secret"})

    with (
        caplog.at_level(logging.DEBUG),
        engine_for_tests([Pipeline("shop").stage("charge", write, retry=ONCE)]) as engine,
    ):
        run_it(engine)
    assert "shop/charge attempt 1 of 1 failed for good: OperationalError" in caplog.text
    assert "4111-secret" not in caplog.text


ONCE = RetryPolicy(max_attempts=1)


def run_it(engine: InProcessEngine) -> None:
    engine.enqueue("shop", {})
    engine.drain()
