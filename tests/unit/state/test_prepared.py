"""Statements that are compiled once: what they give, what they refuse, and whose transaction they are in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from stageflow_durable.state.database import Database
from stageflow_durable.state.prepared import Prepared

THINGS = Table(
    "things",
    MetaData(),
    Column("name", String(10), primary_key=True),
    Column("size", Integer),
    Column("colour", String),
)
ALL = Prepared(select(THINGS).order_by(THINGS.c.name))
SIZE = Prepared(select(THINGS.c.size).where(THINGS.c.name == bindparam("of")))
ADD = Prepared(insert(THINGS))
CHANGE = Prepared(update(THINGS).where(THINGS.c.name == bindparam("of")))
PAINT = Prepared(update(THINGS).where(THINGS.c.name == bindparam("of")).values(colour="red"))
KEEP = Prepared(lambda dialect: dialect.insert(THINGS).values(colour="blue").on_conflict_do_nothing())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/x.db")
    THINGS.metadata.create_all(made.engine)
    yield made
    made.dispose()


def seen(database: Database) -> list[tuple[Any, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in ALL.rows(connection)]


def test_given_no_rows_then_there_is_no_value_and_nothing_is_inserted(database: Database) -> None:
    with database.transaction() as connection:
        ADD.many(connection, [])
        assert SIZE.value(connection, of="a") is None
        assert SIZE.column(connection, of="a") == ALL.rows(connection) == []


def test_given_columns_that_change_from_call_to_call_then_each_call_sets_its_own(database: Database) -> None:
    with database.transaction() as connection:
        ADD.many(connection, [{"name": "a", "size": 1}, {"name": "b", "size": 2}])
        ADD.run(connection, name="c")
        CHANGE.run(connection, of="a", size=None)
        CHANGE.run(connection, of="b", colour="green")
        CHANGE.run(connection, of="c", size=3, colour="grey")
    assert seen(database) == [("a", None, None), ("b", 2, "green"), ("c", 3, "grey")]


def test_given_values_of_its_own_then_a_statement_keeps_them_beside_those_given(database: Database) -> None:
    with database.transaction() as connection:
        KEEP.run(connection, name="a", size=1)
        KEEP.run(connection, name="a", size=2)
        assert PAINT.run(connection, of="a").rowcount == 1
        (row,) = ALL.rows(connection)
    assert (row.name, row.size, row.colour) == ("a", 1, "red")


def test_given_a_connection_without_a_transaction_then_one_is_begun_that_can_be_rolled_back(
    database: Database,
) -> None:
    with database.engine.connect() as connection:
        ADD.run(connection, name="a")
        connection.rollback()
    assert seen(database) == []


def test_given_an_error_of_the_driver_then_it_is_sqlalchemys_and_shows_no_value(database: Database) -> None:
    with database.transaction() as connection:
        ADD.run(connection, name="secret")
        with pytest.raises(IntegrityError) as raised:
            ADD.many(connection, [{"name": "other"}, {"name": "secret"}])
    assert "secret" not in str(raised.value)


def test_given_a_parameter_that_nobody_gave_then_the_driver_says_so(database: Database) -> None:
    size = Prepared(select(THINGS.c.size).where(THINGS.c.name == bindparam("of")))
    with database.read() as connection:
        size.value(connection, of="a")
        with pytest.raises(Exception, match="of"):
            size.value(connection)


@pytest.mark.postgres
def test_given_a_line_that_is_cut_then_the_connection_is_thrown_away(postgres_url: str) -> None:
    database, said = Database(postgres_url), Prepared(select(bindparam("of", type_=Integer)))
    with database.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert said.value(connection, of=1) == 1
        driver.close()
        with pytest.raises(OperationalError) as raised:
            said.value(connection, of=1)
    assert raised.value.connection_invalidated
    with database.engine.connect() as connection:
        assert said.value(connection, of=2) == 2
    database.dispose()
