"""Users and passwords of URLs, and options that are named as secrets, are masked in an error's text before it is
stored, shown or logged; the rest of the text stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from stageflow_durable import RetryPolicy, StageOutput
from stageflow_durable.model.context import StageContext
from stageflow_durable.state.metadata import metadata
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import database_of

pytestmark = pytest.mark.sql

URL = "https://shop:pa55word@bank.example/v1?token=pa55word&page=2"
TEXT = f"POST {URL} failed, password=pa55word, order 17"


def raises(_ctx: StageContext[Any]) -> None:
    raise ConnectionError(TEXT)


def raises_behind_another(_ctx: StageContext[Any]) -> None:
    try:
        raise ConnectionError(TEXT)
    except ConnectionError as error:
        raise RuntimeError(f"not charged: {error}") from error


def raises_several(_ctx: StageContext[Any]) -> None:
    raise ExceptionGroup("two of two", [ConnectionError(TEXT), TimeoutError(TEXT)])


def ends(_ctx: StageContext[Any]) -> None:
    raise SystemExit(TEXT)


def rejects(_ctx: StageContext[Any]) -> StageOutput:
    return StageOutput.reject(TEXT)


def cancels(_ctx: StageContext[Any]) -> StageOutput:
    return StageOutput.cancel(TEXT)


def tries_again(_ctx: StageContext[Any]) -> StageOutput:
    return StageOutput.retry(TEXT)


def stored(engine: InProcessEngine) -> str:
    """Every value of every row."""
    with database_of(engine).transaction() as connection:
        return repr([connection.execute(select(table)).fetchall() for table in metadata.sorted_tables])


RAISING = (raises, raises_behind_another, raises_several, ends)
TWICE = {"retry": RetryPolicy(max_attempts=2, base_delay=0.1)}


@pytest.mark.parametrize("body", [*RAISING, rejects, cancels, tries_again])
def test_what_a_stage_says_of_a_url_holds_no_password_in_rows_histories_and_logs(
    make_engine: MakeEngine, acts: Acts, caplog: pytest.LogCaptureFixture, body: Callable[[StageContext[Any]], Any]
) -> None:
    acts.play("a", body, body)
    engine = make_engine(acts.line("a", a=TWICE))
    assert_masked_everywhere(engine, caplog)


@pytest.mark.parametrize("body", RAISING)
def test_what_an_undo_says_of_a_url_holds_none_either(
    make_engine: MakeEngine, acts: Acts, caplog: pytest.LogCaptureFixture, body: Callable[[StageContext[Any]], Any]
) -> None:
    acts.play("b", FAILS("no"))
    acts.play("undo a", *[body] * 100)
    engine = make_engine(acts.line("a b"))
    assert_masked_everywhere(engine, caplog)


def assert_masked_everywhere(engine: InProcessEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run = engine.enqueue("line", {})
    for _ in range(30):
        engine.drain()
        engine.advance(3600)
        engine.sweep()
    everything = {
        "rows": stored(engine),
        "run": f"{engine.run(run.run_id)!r} {engine.runs()!r}",
        "history": repr(engine.history(run.run_id)),
        "log": "\n".join(map(caplog.handler.format, caplog.records)),
    }
    masked = "https://***@bank.example/v1?token=***&page=2"
    assert [where for where, text in everything.items() if "pa55word" in text] == []
    assert [where for where, text in everything.items() if masked not in text] == []
    assert "order 17" in everything["run"]
