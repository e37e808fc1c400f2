"""What of a database's error may be stored and shown: never a statement, a parameter or a row."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import Column, DateTime, Integer, MetaData, Table, create_engine, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError

from stageflow_durable.engine.redaction import is_sql, message_of

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


REFUSED = psycopg.errors.InvalidTextRepresentation(
    f'invalid input syntax for type integer: "{SECRET}" [SQL: 2"\nLINE 1: SELECT {SECRET}\nCONTEXT:  parameter $1'
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"not saved: {REFUSED}", 'not saved: invalid input syntax for type integer: "…"'),
        (
            f'order "A-17": {wrapped(REFUSED)}',
            'order "A-17": (psycopg.errors.InvalidTextRepresentation) invalid input syntax for type integer: "…"',
        ),
        (
            f'(psycopg.errors.NumericValueOutOfRange) value "{SECRET}" is out of range for type integer',
            '(psycopg.errors.NumericValueOutOfRange) value "…"',
        ),
        (f'out of range: value "{SECRET}" is out of range for type integer', 'out of range: value "…"'),
        (f'(psycopg.DataError) cannot adapt "{SECRET}"', '(psycopg.DataError) cannot adapt "…"'),
        (
            '(psycopg.errors.UniqueViolation) violates unique constraint "cards"',
            '(psycopg.errors.UniqueViolation) violates unique constraint "cards"',
        ),
    ],
    ids=["raw", "wrapped", "out of range", "in words", "of the driver", "no value"],
)
@pytest.mark.parametrize("kind", [PendingRollbackError, RuntimeError])
def test_given_an_error_that_quotes_a_refused_value_then_the_value_is_left_out(
    kind: type[Exception], text: str, kept: str
) -> None:
    assert message_of(kind(text)) == kept


def test_given_an_error_that_came_of_a_refused_value_then_what_it_quotes_is_left_out() -> None:
    error = RuntimeError(f'the database said: year "{SECRET}" is strange')
    error.__context__ = psycopg.errors.DatetimeFieldOverflow(f'year "{SECRET}" is strange')
    assert message_of(error) == 'the database said: year "…"'


def test_given_a_text_full_of_blanks_then_it_is_read_in_no_time() -> None:
    began = time.process_time()
    assert message_of(RuntimeError("x" + " " * 200_000 + "y")).startswith("x ")
    assert time.process_time() - began < 0.5


def test_given_a_group_in_which_there_is_a_databases_error_then_its_traceback_is_known_to_show_it() -> None:
    inner = ExceptionGroup("b", [ValueError("x"), wrapped(sqlite3.IntegrityError("z"))])
    outer = RuntimeError("y")
    outer.__cause__ = ExceptionGroup("a", [ValueError("x"), inner])
    assert is_sql(outer)
    assert not is_sql(ExceptionGroup("a", [ValueError("x")]))


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
