"""What of a database's error may be stored and shown: never a statement, a parameter or a row."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import Column, DateTime, Integer, MetaData, Table, create_engine, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from stageflow_durable.state.messages import is_sql, message_of

SECRET = "4111-1111"


def wrapped(error: Exception) -> DBAPIError:
    """As SQLAlchemy hands on what a driver raised."""
    made = DBAPIError.instance(f"INSERT INTO cards VALUES ('{SECRET}')", {"number": SECRET}, error, type(error))
    assert isinstance(made, DBAPIError)
    return made


@pytest.mark.parametrize(
    ("kind", "said", "kept"),
    [
        (
            psycopg.errors.UniqueViolation,
            f'duplicate key value violates unique constraint "cards_key"\nDETAIL:  Key (number)=({SECRET}) exists.',
            'duplicate key value violates unique constraint "cards_key"',
        ),
        (
            psycopg.errors.CheckViolation,
            f'new row for relation "cards" violates check constraint "short"\nDETAIL:  Failing row: ({SECRET}).',
            'new row for relation "cards" violates check constraint "short"',
        ),
        (
            psycopg.errors.InvalidTextRepresentation,
            f'invalid input syntax for type integer: "{SECRET}\n" 2"\nCONTEXT:  unnamed portal parameter $1',
            'invalid input syntax for type integer: "…"',
        ),
        (psycopg.OperationalError, "the connection is closed", "the connection is closed"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["raw", "wrapped"])
def test_given_a_drivers_error_then_its_first_line_is_kept_without_values(
    wrap: Callable[[Exception], Exception], kind: type[Exception], said: str, kept: str
) -> None:
    assert message_of(wrap(kind(said))) == kept
    assert is_sql(wrap(kind(said)))


def test_given_a_constraint_of_sqlite_then_the_columns_are_named_and_the_values_are_not() -> None:
    insert = text("INSERT INTO cards VALUES (:number)")
    with create_engine("sqlite://").connect() as connection:
        connection.execute(text("CREATE TABLE cards (number text UNIQUE)"))
        connection.execute(insert, {"number": SECRET})
        with pytest.raises(SQLAlchemyError) as raised:
            connection.execute(insert, {"number": SECRET})
    assert message_of(raised.value) == "UNIQUE constraint failed: cards.number"


def test_given_a_parameter_that_sqlalchemy_itself_refuses_then_the_statement_is_left_out() -> None:
    table = Table("t", MetaData(), Column("id", Integer), Column("at", DateTime))
    with create_engine("sqlite://").connect() as connection:
        table.create(connection)
        with pytest.raises(SQLAlchemyError) as raised:
            connection.execute(table.insert(), {"at": SECRET})
    assert "only accepts Python datetime" in message_of(raised.value)
    assert not [word for word in ("INSERT", SECRET) if word in message_of(raised.value)]


@pytest.mark.parametrize("kind", [PendingRollbackError, RuntimeError])
def test_given_an_error_that_quotes_a_databases_error_then_the_quoted_statement_is_left_out(
    kind: type[Exception],
) -> None:
    quoting = kind(f"not booked: {wrapped(sqlite3.IntegrityError('UNIQUE constraint failed: cards.number'))}")
    assert message_of(quoting) == "not booked: (sqlite3.IntegrityError) UNIQUE constraint failed: cards.number"


def test_given_any_other_error_then_its_text_is_as_it_was() -> None:
    assert message_of(ValueError('line 1\nline 2: "x"')) == 'line 1\nline 2: "x"'
    assert not is_sql(ValueError("x"))


def test_given_an_error_that_came_of_a_databases_error_then_its_traceback_is_known_to_show_it() -> None:
    chained = RuntimeError("y")
    chained.__context__ = ValueError("x")
    chained.__context__.__cause__ = sqlite3.IntegrityError("z")
    assert is_sql(chained)


def test_given_a_chain_of_errors_that_is_a_ring_then_it_is_walked_once() -> None:
    first, second = ValueError("x"), ValueError("y")
    first.__cause__, second.__cause__ = second, first
    assert not is_sql(first)
