"""Opening a database that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.database import Database


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
