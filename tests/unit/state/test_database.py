"""Opening a database: one that is none, and one that many threads want at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.database import Database
from stageflow_durable.state.opening import STATEMENT_MILLISECONDS


def test_given_a_file_that_is_no_database_when_it_is_opened_then_it_is_away_and_the_message_says_why(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("to do: buy milk\n" * 100)
    with (
        pytest.raises(StoreUnavailable, match="cannot be read: file is not a database"),
        Database(f"sqlite:///{path}").read(),
    ):
        pass
    assert path.read_text().startswith("to do"), "it is left as it was"


def test_given_threads_that_use_a_database_first_at_once_then_they_share_its_connections(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, together = Database(sqlite_url), threading.Barrier(8)
    create = Database._create

    def slowly(database: Database) -> Any:
        together.wait(10)  # all of them have seen that there is none
        return create(database)

    monkeypatch.setattr(Database, "_create", slowly)
    with ThreadPoolExecutor(8) as threads:
        engines = list(threads.map(lambda _number: made.engine, range(8)))
    assert len({id(engine) for engine in engines}) == 1
    made.dispose()


def test_given_what_a_url_says_of_its_connections_then_it_holds_and_our_bounds_with_it(postgres_url: str) -> None:
    said = "application_name=shop&connect_timeout=3&options=-csearch_path%3Dshop%20-cstatement_timeout%3D0"
    database = Database(f"{postgres_url}?{said}")
    with database.read() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar_one()
            for name in ("application_name", "search_path", "statement_timeout", "client_encoding")
        ]
        driver: Any = connection.connection.dbapi_connection
        dsn = driver.info.get_parameters()
    database.dispose()
    assert shown == ["shop", "shop", f"{STATEMENT_MILLISECONDS // 1000}s", "UTF8"]
    assert dsn["connect_timeout"] == "3"
