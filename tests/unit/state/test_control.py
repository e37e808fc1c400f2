"""Which SQL would end the transaction of a stage's session, and which would outlast it."""

from __future__ import annotations

import pytest

from stageflow_durable.state.control import ends_transaction, outlasts_transaction

ENDS = {
    "COMMIT": "COMMIT",
    "  commit ;": "COMMIT",
    "Commit Work": "COMMIT",
    "COMMIT AND CHAIN": "COMMIT",
    "END": "END",
    "end transaction": "END",
    "ABORT": "ABORT",
    "ROLLBACK": "ROLLBACK",
    "rollback work and no chain": "ROLLBACK",
    "BEGIN": "BEGIN",
    "begin immediate": "BEGIN",
    "START\n  TRANSACTION READ ONLY": "START TRANSACTION",
    "PREPARE TRANSACTION 'x'": "PREPARE TRANSACTION",
    "insert into t values (1); COMMIT": "COMMIT",
    "insert into t values ('a;b'); commit; select 1": "COMMIT",
    "/* why */ COMMIT": "COMMIT",
    "-- why\nCOMMIT": "COMMIT",
    "select $$;$$; commit": "COMMIT",
    "select E'\\';'; commit": "COMMIT",
}
FINE = [
    "SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "ROLLBACK TO a",
    "rollback to savepoint a",
    "ROLLBACK WORK TO SAVEPOINT a",
    "ROLLBACK TRANSACTION TO a",
    "insert into t values ('; COMMIT')",
    'insert into "; commit" values (1)',
    "select 1 -- ; commit",
    "select /* ; commit */ 1",
    "select case when a then 1 end from begin_of_day",
    "select $x$; commit; $x$",
    "insert into commitments values (1)",
    "update t set commit = 1",
    "create trigger x after insert on t begin insert into u values (1); end",
    "create function f() returns int begin atomic select 1; end",
]


@pytest.mark.parametrize(("sql", "word"), ENDS.items(), ids=ENDS)
def test_what_ends_a_transaction_is_named(sql: str, word: str) -> None:
    assert ends_transaction(sql) == word


@pytest.mark.parametrize("sql", FINE)
def test_savepoints_and_text_that_only_looks_like_it_are_fine(sql: str) -> None:
    assert ends_transaction(sql) is None


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path TO tenant",
        "set session statement_timeout = 0",
        "RESET ALL",
        "select set_config('a.b', 'c', false)",
        "select pg_advisory_lock(1)",
        "LISTEN orders",
        "CREATE TEMP TABLE t (a int)",
        "create temporary table t (a int)",
        "PREPARE p AS SELECT 1",
        "declare c cursor with hold for select 1",
        "PRAGMA foreign_keys = OFF",
        "ATTACH 'other.db' AS other",
    ],
)
def test_what_changes_the_connection_outlasts_the_transaction(sql: str) -> None:
    assert outlasts_transaction(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL search_path TO tenant",
        "insert into settings values (1)",
        "update t set a = 1",
        "select 1",
        "delete from t",
    ],
)
def test_what_ends_with_the_transaction_does_not(sql: str) -> None:
    assert not outlasts_transaction(sql)
