"""A worker's record is one line, whatever is in it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.app.log import Logging

from stageflow_durable import Engine
from stageflow_durable.delivery import process as worker_process
from stageflow_durable.delivery.log_lines import OneLineLogging

Written = Callable[[], list[str]]
EVIL = "a\r\nb\x1b[2Jc\u2028d\u202ee\x00f\x85g"


@pytest.fixture
def logger() -> logging.Logger:
    return logging.Logger("one_line")  # noqa: LOG001  # nobody else's: pytest adds handlers to those that can be looked up


@pytest.fixture
def written(logger: logging.Logger) -> Written:
    """What a worker's handler wrote, split at what ends a line."""
    out = io.StringIO()
    OneLineLogging(Celery("x", set_as_current=False)).setup_handlers(logger, out, "%(levelname)s %(message)s", True)
    return lambda: out.getvalue().split("\n")[:-1]


def failed(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001  # to have its traceback
        return caught


def test_text_from_elsewhere_ends_no_line_and_acts_on_no_terminal(logger: logging.Logger, written: Written) -> None:
    logger.warning("said %s", EVIL)
    [line] = written()
    assert r"said a\r\nb\x1b[2Jc\u2028d\u202ee\x00f\x85g" in line
    assert line.splitlines() == [line]


def test_a_traceback_is_part_of_its_line(logger: logging.Logger, written: Written) -> None:
    logger.error("it failed", exc_info=failed(ValueError(EVIL)), stack_info=True)
    [line] = written()
    assert r"it failed\nTraceback (most recent call last):\n  File " in line
    assert r"ValueError: a\r\nb\x1b[2J" in line
    assert r"\nStack (most recent call last):\n" in line


def test_of_a_child_that_was_killed_the_message_alone_is_written(logger: logging.Logger, written: Written) -> None:
    lost = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL) Job: 0.")
    logger.error("Task handler raised error: %r", lost, exc_info=failed(lost))
    [line] = written()
    assert "signal 9 (SIGKILL)" in line
    assert "Traceback" not in line


def test_other_handlers_are_handed_the_record_as_it_was(logger: logging.Logger, written: Written) -> None:
    seen: list[logging.LogRecord] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger.addHandler(Other())
    logger.error("%s", "a\nb", exc_info=failed(KeyError("k")))
    assert (seen[0].getMessage(), seen[0].exc_info is not None) == ("a\nb", True)
    assert len(written()) == 1


def test_messages_that_go_back_while_a_worker_stops_are_no_news(
    logger: logging.Logger, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Requeuing undeliverable message for queue %r: No consumers."
    logger.warning(said, "stageflow")
    monkeypatch.setattr(worker_process, "stopping", True)
    logger.warning(said, "stageflow")
    assert len(written()) == 1


def test_an_engine_of_its_own_logs_so_and_an_adopted_application_as_it_did() -> None:
    assert Engine("own").celery_app.log_cls == f"{OneLineLogging.__module__}:{OneLineLogging.__name__}"
    adopted = Celery("theirs", set_as_current=False)
    assert type(Engine("theirs", celery_app=adopted).celery_app.log) is Logging
    assert "stageflow_durable" in sys.modules
