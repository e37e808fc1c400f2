"""Single statements over connections that threads share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.pool import KEPT, Connections
from stageflow_durable.state.single import MOST, Singles
from tests.services.process import eventually

pytestmark = pytest.mark.postgres

THINGS = Table(
    "things",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("number", Integer),
    Column("name", Text),
    Column("weight", Double),
    Column("good", Boolean),
)
GIVEN = [bindparam(column.name, type_=column.type) for column in THINGS.columns]
ADD = Statement(
    insert(THINGS).from_select([one.key for one in GIVEN], select(*GIVEN)).returning(*THINGS.columns), is_sqlite=False
)
ALL = Statement(select(THINGS).order_by(THINGS.c.id), is_sqlite=False)
VALUES: list[tuple[object, ...]] = [
    (-(2**63), -(2**31), "", -0.0, False),
    (1, None, None, None, None),
    (2, 0, "ünïcode 🎉 'quoted' \\ %s $1", 1764026692.123456, True),
    (2**63 - 1, 2**31 - 1, "x" * 100_000, 1e300, True),
]


def given(values: tuple[object, ...]) -> dict[str, object]:
    return {column.name: value for column, value in zip(THINGS.columns, values, strict=True)}


def number(sql: str) -> Statement:
    return Statement(select(literal_column(sql, Integer)), is_sqlite=False)


PID = number("pg_backend_pid()")


@pytest.fixture(params=[True, False], ids=["prepared", "by cursors"])
def database(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    made = Database(postgres_url, prepares=request.param)
    THINGS.create(made.engine)
    yield made
    made.dispose()


@pytest.fixture
def singles(database: Database) -> Iterator[Singles]:
    made = Singles(database)
    yield made
    made.close()


def connections(database: Database, *, busy: bool = False) -> int:
    """How many the database has besides the one that asks; ``busy``: those that sleep in a statement (one that was
    closed stays a moment longer than another takes to be opened).
    """
    with psycopg.connect(database.url.render_as_string(hide_password=False).replace("+psycopg", "")) as other:
        found = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND (wait_event = 'PgSleep' OR NOT %s)",
            [busy],
        ).fetchone()
        assert found is not None
        return int(found[0])


def test_given_values_of_every_type_when_they_are_written_then_they_are_read_exactly(singles: Singles) -> None:
    returned = [row for values in VALUES for row in singles.rows(ADD, given(values))]
    assert returned == singles.rows(ALL, {}) == VALUES
    assert str(returned[0][3]) == "-0.0"


def test_given_a_statement_that_is_refused_then_the_error_has_its_type_and_nothing_was_written(
    singles: Singles,
) -> None:
    assert singles.touched(ADD, given(VALUES[0]))
    with pytest.raises(IntegrityError):
        singles.touched(ADD, given(VALUES[0]))
    assert singles.rows(ALL, {}) == VALUES[:1]


def test_given_two_statements_when_the_first_has_rows_then_the_second_is_not_run(singles: Singles) -> None:
    assert singles.either(ADD, ADD, given(VALUES[0])) == (VALUES[:1], []), "twice would be refused"
    none = Statement(select(THINGS).where(THINGS.c.id == 0), is_sqlite=False)
    assert singles.either(none, ALL, {}) == ([], VALUES[:1])


def test_given_two_statements_when_the_second_is_refused_then_it_has_its_type_and_the_next_works(
    singles: Singles,
) -> None:
    none = Statement(select(THINGS).where(THINGS.c.id == 0), is_sqlite=False)
    singles.touched(ADD, given(VALUES[0]))
    with pytest.raises(IntegrityError):
        singles.either(none, ADD, given(VALUES[0]))
    assert singles.rows(ALL, {}) == VALUES[:1]


def test_given_more_refusals_than_connections_then_no_place_is_lost(database: Database, singles: Singles) -> None:
    singles.touched(ADD, given(VALUES[0]))
    for _ in range(MOST + 1):
        with pytest.raises(IntegrityError):
            singles.touched(ADD, given(VALUES[0]))
    assert singles.rows(ALL, {}) == VALUES[:1]


def test_given_a_database_whose_default_is_another_isolation_then_a_statement_has_ours(
    database: Database, singles: Singles
) -> None:
    with database.transaction() as connection:
        name = database.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"))
    database.dispose()
    serializable = "(current_setting('transaction_isolation') = 'serializable')::integer"
    assert singles.rows(number(serializable), {}) == [(0,)]


def test_given_connections_that_the_server_ended_then_the_next_statement_goes_over_a_new_one(
    database: Database, singles: Singles
) -> None:
    ((before,),) = singles.rows(PID, {})
    with psycopg.connect(database.url.render_as_string(hide_password=False).replace("+psycopg", "")) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (before,))
    ((after,),) = singles.rows(PID, {})
    assert after != before


@pytest.mark.parametrize("second", [False, True], ids=["alone", "the second of two"])
def test_given_a_statement_that_was_interrupted_when_another_follows_then_it_goes_over_a_new_connection(
    singles: Singles, second: bool
) -> None:
    class Interrupted(BaseException):
        pass

    slow = number("1 FROM pg_sleep(5)")

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    ((before,),) = singles.rows(PID, {})
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Interrupted):
            singles.either(ALL, slow, {}) if second else singles.rows(slow, {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert singles.rows(PID, {}) != [(before,)]


def test_given_more_threads_than_connections_then_the_others_wait_and_few_connections_stay(
    database: Database, singles: Singles
) -> None:
    busiest: list[int] = []
    with ThreadPoolExecutor(2 * MOST) as threads:
        slow = [threads.submit(singles.rows, number("1 FROM pg_sleep(0.3)"), {}) for _ in range(2 * MOST)]
        while not all(one.done() for one in slow):
            busiest.append(connections(database, busy=True))
    assert [one.result() for one in slow] == [[(1,)]] * (2 * MOST)
    # The server looks at one after the other: who was counted may have ended, and the next begun, within a look. One
    # too many would sleep through many of them.
    assert max(map(min, zip(busiest, busiest[1:], busiest[2:], strict=False))) <= MOST
    eventually(lambda: connections(database) <= KEPT, what="the others are closed")


def test_given_connections_that_are_all_in_use_when_none_gets_free_then_the_database_is_away(
    database: Database,
) -> None:
    few = Connections(database, prepares=True, most=1, patience=0.05)
    busy, done = threading.Event(), threading.Event()

    def hold(_own: object) -> None:
        busy.set()
        done.wait(20)

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(few.use, hold)
        busy.wait(20)
        with pytest.raises(StoreUnavailable, match=r"within 0\.05 s"):
            few.use(lambda _own: None)
        done.set()
        holding.result(20)
    few.use(lambda _own: None)
    few.close()


def test_given_singles_that_are_closed_while_a_statement_runs_then_it_ends_and_its_connection_is_closed(
    database: Database, singles: Singles
) -> None:
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(singles.rows, number("1 FROM pg_sleep(0.5)"), {})
        eventually(lambda: connections(database) == 1)
        singles.close()
        assert slow.result(20) == [(1,)]
    database.dispose()
    eventually(lambda: connections(database) == 0)
    assert len(singles.rows(PID, {})) == 1, "the next statement opens a new one"


def test_given_a_fork_then_the_child_opens_a_connection_of_its_own_and_the_parents_stays(
    database: Database, singles: Singles
) -> None:
    before = singles.rows(PID, {})
    child = os.fork()
    if child == 0:
        other = singles.rows(PID, {})
        singles.close()
        os._exit(0 if other != before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert singles.rows(PID, {}) == before
