"""What a database, or this machine, refuses: an error of the engine's with the way out, never a stage's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, ProgrammingError

from stageflow_durable import Engine, Pipeline
from stageflow_durable.errors import ConfigurationError, RunBusy, StoreRefused, StoreUnavailable
from stageflow_durable.state import schema
from stageflow_durable.state.database import Database
from stageflow_durable.state.trouble import translated

PIPELINE = Pipeline[object, object]("p").stage("a", lambda _ctx: {})


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def reached(url: str) -> None:
    database = Database(url)
    try:
        with database.read():
            pass
    finally:
        database.dispose()


@pytest.fixture
def poor(migrated_postgres_url: str) -> Iterator[str]:
    """The URL of a role without rights."""
    yield from role(migrated_postgres_url)


@pytest.fixture
def poor_on_empty(postgres_url: str) -> Iterator[str]:
    """The same on a database without a schema, which nobody but its owner may change (as since PostgreSQL 15)."""
    with psycopg.connect(plain(postgres_url), autocommit=True) as admin:
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    yield from role(postgres_url)


def role(url: str) -> Iterator[str]:
    name = sql.Identifier("poor")
    with psycopg.connect(plain(url), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {0}").format(name))
        admin.execute(sql.SQL("CREATE ROLE {0} LOGIN PASSWORD 'poor'").format(name))
    yield make_url(url).set(username="poor", password="poor").render_as_string(hide_password=False)
    with psycopg.connect(plain(url), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP OWNED BY {0}").format(name))
        admin.execute(sql.SQL("DROP ROLE {0}").format(name))


def alter(url: str, what: str) -> None:
    with psycopg.connect(plain(url), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER ROLE poor SET ") + sql.SQL(what))
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO poor")


@pytest.mark.postgres
def test_a_role_that_may_not_create_tables_is_told_what_to_grant(poor_on_empty: str) -> None:
    with pytest.raises(StoreRefused, match=r"permission denied for schema public; GRANT USAGE, CREATE ON SCHEMA"):
        schema.upgrade(poor_on_empty)


@pytest.mark.postgres
def test_a_role_without_rights_on_the_tables_is_told_what_to_grant_by_every_way_to_them(poor: str) -> None:
    engine = Engine("x", [PIPELINE], database_url=poor, broker_url="memory://")
    for ask in (engine.runs, lambda: engine.enqueue("p", {}), lambda: engine.store.outputs("x"), engine.sweep):
        with pytest.raises(StoreRefused, match=r"permission denied for .*; GRANT SELECT, INSERT, UPDATE, DELETE ON"):
            ask()
    engine.close()


@pytest.mark.postgres
def test_a_read_only_server_is_told_as_one(poor: str, migrated_postgres_url: str) -> None:
    alter(migrated_postgres_url, "default_transaction_read_only = on")
    engine = Engine("x", [PIPELINE], database_url=poor, broker_url="memory://")
    with pytest.raises(StoreUnavailable, match="read-only transaction; it is read-only: a standby"):
        engine.enqueue("p", {})
    engine.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("pgbouncer=true", 'invalid connection option "pgbouncer"; leave it out: a pooler is found out'),
        ("schema=shop", 'invalid connection option "schema"; write options=-csearch_path%3DNAME'),
        ("connection_limit=5", 'invalid connection option "connection_limit"'),
        ("sslmode=bogus", 'invalid sslmode value: "bogus"'),
        ("connect_timeout=abc", "bad value for"),
        ("keepalives_idle=abc", "invalid integer value"),
        ("target_session_attrs=x", "invalid target_session_attrs value"),
    ],
)
def test_an_option_of_the_url_that_is_none_is_a_mistake_in_it(postgres_url: str, option: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        reached(f"{postgres_url}?{option}")
    assert says in str(refused.value)
    assert str(refused.value).startswith("STAGEFLOW_DATABASE_URL: ")
    assert "\n" not in str(refused.value)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"password": "wrong"}, "check user and password in STAGEFLOW_DATABASE_URL"),
        ({"username": "nobody_here"}, "check user and password"),
        ({"database": "not_there"}, "create it, or correct its name"),
        ({"port": 1}, "Connection refused"),
    ],
)
def test_a_server_that_lets_nobody_in_is_away_and_says_what_to_look_at(
    postgres_url: str, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(StoreUnavailable, match=says) as refused:
        reached(make_url(postgres_url).set(**change).render_as_string(hide_password=False))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://user:word-of-pass@h/x", "mysql is not supported; use PostgreSQL or SQLite"),
        ("postgresql+asyncpg://user:word-of-pass@h/x", "by way of asyncpg is not supported; write postgresql+psycopg"),
        ("postgres+asyncpg://user:word-of-pass@h/x", "by way of asyncpg is not supported"),
        ("postgresql+nonsense://user:word-of-pass@h/x", "by way of nonsense is not supported"),
        ("sqlite+aiosqlite:///x.db", "by way of aiosqlite is not supported; write sqlite"),
        ("nonsense", "is not a SQLAlchemy URL"),
    ],
)
def test_another_database_or_driver_is_refused_by_name_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says.replace("+", r"\+")) as refused:
        Database(url)
    assert "word-of-pass" not in str(refused.value)


@pytest.mark.parametrize("spelt", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_goes_by_three_names(spelt: str) -> None:
    assert Database(f"{spelt}://u@h/x").url.drivername == "postgresql+psycopg"


@pytest.mark.parametrize("option", ["foo=1", "mode=ro", "timeout=abc"])
def test_an_option_that_sqlite_would_ignore_or_break_on_is_a_mistake(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigurationError, match="STAGEFLOW_DATABASE_URL: (invalid connection option|bad value)"):
        reached(f"sqlite:///{tmp_path}/x.db?{option}")


def test_a_file_that_cannot_be_opened_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="its directory, is not there or belongs to another user"):
        reached(f"sqlite:///{tmp_path}/none/x.db")


def test_a_driver_that_is_not_installed_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"psycopg.*pip install 'stageflow_durable\[postgres\]'"):
        reached("postgresql://u@h/x")


def test_it_upgrades_from_a_directory_with_a_percent_sign_a_space_and_letters_beyond_ascii(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    there = tmp_path / "100% mine é/%(here)s"
    shutil.copytree(schema.MIGRATIONS, there)
    monkeypatch.setattr(schema, "MIGRATIONS", there)
    home = tmp_path / "50% of it"
    home.mkdir()
    assert schema.upgrade(f"sqlite:///{home}/x.db") == schema.head()


# --- what an error of the driver's means ------------------------------------------------------------------------------


def as_sqlalchemy(state: str, text: str, statement: str = "") -> DBAPIError:
    kind = psycopg.errors.lookup(state)
    made: Any = DBAPIError.instance(statement, {}, kind(text), psycopg.Error)
    assert isinstance(made, DBAPIError)
    return made


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("26000", 'prepared statement "stageflow_0" does not exist', StoreRefused),
        ("42P05", 'prepared statement "stageflow_0" already exists', StoreRefused),
        ("08P01", "bind message supplies 21 parameters, but prepared statement requires 17", StoreUnavailable),
        ("42501", "permission denied for function f", StoreRefused),
        ("0A000", "cached plan must not change result type", StoreRefused),
        ("XX000", "cache lookup failed", StoreRefused),
        ("53100", "could not extend file: No space left on device", StoreUnavailable),
        ("53300", "too many connections for role", StoreUnavailable),
        ("57P01", "terminating connection due to administrator command", StoreUnavailable),
        ("57014", "canceling statement due to statement timeout", RunBusy),
        ("40P01", "deadlock detected", StoreUnavailable),
    ],
)
def test_what_a_statement_of_the_engine_meets_is_never_left_as_the_drivers(
    state: str, text: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised, translated():
        raise as_sqlalchemy(state, text)
    assert text in str(raised.value)


@pytest.mark.parametrize("state", ["42501", "42P01", "42601", "XX000"])
def test_what_a_body_asks_of_its_own_tables_stays_its_own(state: str) -> None:
    with pytest.raises(DBAPIError), translated():
        raise as_sqlalchemy(state, "about table orders", "SELECT * FROM orders")


@pytest.mark.parametrize("state", ["22001", "22P05", "23505"])
def test_what_a_value_or_a_row_broke_stays_the_drivers(state: str) -> None:
    with pytest.raises(DBAPIError), translated():
        raise as_sqlalchemy(state, "value too long")


def test_sqlalchemys_programming_errors_are_told_apart_by_their_state() -> None:
    assert isinstance(as_sqlalchemy("42P05", "x"), ProgrammingError)
