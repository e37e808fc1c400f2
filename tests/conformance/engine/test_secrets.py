"""What a stage wrote is nobody else's to read: no statement and no value of it gets into a history, a log or a
message.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table, text

from stageflow_durable import AttemptEnd, RetryPolicy
from stageflow_durable.model.context import StageContext
from stageflow_durable.state.database import Database
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import database_of

pytestmark = pytest.mark.sql

SECRET = "4111111111111111"
OWN = MetaData()
cards = Table(
    "shop_cards",
    OWN,
    Column("number", String(50), primary_key=True),
    Column("digits", Integer, CheckConstraint("digits < 5")),
)


@pytest.fixture(autouse=True)
def own_table(database_url: str) -> Iterator[None]:
    """A table of the application's own, which has that card already."""
    database = Database(database_url)
    OWN.create_all(database.engine)
    with database.transaction() as connection:
        connection.execute(cards.insert(), {"number": SECRET, "digits": 1})
    yield
    OWN.drop_all(database.engine)
    database.dispose()


def duplicate(ctx: StageContext[Any]) -> None:
    ctx.session.execute(cards.insert(), {"number": SECRET, "digits": 1})


def out_of_bounds(ctx: StageContext[Any]) -> None:
    ctx.session.execute(cards.insert(), {"number": SECRET + "x", "digits": 16})


SOURCE = re.compile(r"INSERT INTO shop_cards VALUES \(\\*'\{SECRET\}")
"""As the line stands in its source, with the name of what is put in: so a traceback shows it."""


def literal(ctx: StageContext[Any]) -> None:
    ctx.session.execute(text(f"INSERT INTO shop_cards VALUES ('{SECRET}', 1)"))  # a mistake that is made


def quoted(ctx: StageContext[Any]) -> None:
    try:
        duplicate(ctx)
    except Exception as error:
        raise RuntimeError(f"not booked: {error}") from error


def on_flush(ctx: StageContext[Any]) -> None:
    ctx.session.add(Card(SECRET))


class Card:
    """A mapped row: written when the outcome is."""

    def __init__(self, number: str) -> None:
        self.number = number


@pytest.fixture(autouse=True)
def _mapped() -> Iterator[None]:
    from sqlalchemy.orm import clear_mappers, registry

    registry().map_imperatively(Card, cards)
    yield
    clear_mappers()


def everything_told(engine: InProcessEngine, run_id: str) -> str:
    return f"{engine.run(run_id)!r} {engine.history(run_id)!r} {engine.runs()!r}"


@pytest.mark.parametrize("body", [duplicate, out_of_bounds, literal, quoted, on_flush])
def test_a_violated_constraint_is_named_and_the_statement_and_the_value_are_not(
    make_engine: MakeEngine, acts: Acts, caplog: pytest.LogCaptureFixture, body: Callable[[StageContext[Any]], None]
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = make_engine(acts.line("a"), retry=RetryPolicy(max_attempts=1))
    acts.play("a", body)
    run = engine.enqueue("line", {})
    engine.drain()
    told = everything_told(engine, run.run_id)
    assert "constraint" in told.lower()
    told = SOURCE.sub("", told)
    assert not [word for word in (SECRET, "INSERT INTO", "parameters:") if word in told]
    assert not [record for record in caplog.records if SECRET in caplog.handler.format(record)]


def test_an_observer_that_fails_on_a_statement_tells_as_little(
    make_engine: MakeEngine, acts: Acts, caplog: pytest.LogCaptureFixture
) -> None:
    def books(_end: AttemptEnd) -> None:
        with database_of(engine).transaction() as connection:
            connection.execute(cards.insert(), {"number": SECRET, "digits": 1})

    engine = make_engine(acts.line("a"), observers=[books])
    run = engine.enqueue("line", {})
    engine.drain()
    assert "observer.failed" in everything_told(engine, run.run_id)
    assert SECRET not in everything_told(engine, run.run_id)
    assert not [record for record in caplog.records if SECRET in caplog.handler.format(record)]
