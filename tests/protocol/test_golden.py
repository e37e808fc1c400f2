"""What each transaction changes is what was recorded: a redesign that changes something else says so in the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stageflow_durable.state.metadata import metadata
from tests.protocol.golden import FILE, record
from tests.protocol.moves import is_optimistic
from tests.protocol.situations import SITUATIONS

RECORDED: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
# The situation sets a deadline by SQL after the stage began. Deadlines never change, so its owner does not look again.
_BEHIND_ITS_BACK = ("running", "succeed a on")
_EMPTY = f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.xdist_group("golden on postgres"))])
def emptied(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Empties this test's database and returns its URL, once of each kind."""
    if request.param == "sqlite":
        empty: bytes = request.getfixturevalue("migrated_sqlite")
        home: Path = request.getfixturevalue("tmp_path")

        def copied() -> str:
            for old in home.iterdir():
                old.unlink()
            (home / "golden.db").write_bytes(empty)
            return f"sqlite:///{home / 'golden.db'}"

        return copied
    url: str = request.getfixturevalue("migrated_url")

    def truncated() -> str:
        with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
            connection.execute(_EMPTY)
        return url

    return truncated


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_transaction_changes_what_was_recorded(emptied: Callable[[], str], situation: str) -> None:
    for act in SITUATIONS[situation].acts:
        for optimistic in (False, True) if is_optimistic(act) and (situation, act) != _BEHIND_ITS_BACK else (False,):
            changed = json.loads(json.dumps(record(emptied(), situation, act, optimistic=optimistic)))
            how = "one statement" if optimistic else "under the lock"
            assert changed == RECORDED[situation][act], f"{act} while {situation}, {how}: `make golden` records anew"


def test_nothing_is_recorded_that_is_not_played() -> None:
    played = {name: set(situation.acts) for name, situation in SITUATIONS.items()}
    assert {name: set(acts) for name, acts in RECORDED.items()} == played
