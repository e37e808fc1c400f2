"""A stage may wait for its callback (ADR 0043)."""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

locks = ("strands", "attempts")
"""On SQLite they are copied. PostgreSQL only names one word more, and locks them for no longer than a moment."""

_WAITING_FOR = ("time", "signal", "limit", "child", "approval", "worker", "items")
_ENDED = ("ok", "skipped", "retry", "failed", "rejected", "unknown", "void", "settled")


def upgrade() -> None:
    """Allow one word more of what a strand waits for, and of how an attempt stands; workers go on meanwhile."""
    if op.get_bind().dialect.name == "postgresql":
        _known("stageflow_strands_waiting_for", (*_WAITING_FOR, "callback"))
        _known("stageflow_attempts_state", (*_ENDED, "waiting"))
    else:
        _anew("stageflow_strands", "waiting_for = 'worker'", "waiting_for = 'worker' OR waiting_for = 'callback'")
        _anew("stageflow_attempts", "state = 'settled'", "state = 'settled' OR state = 'waiting'")


def _known(domain: str, words: Sequence[str]) -> None:
    # NOT VALID: every row has one of the words of before, so that none has to be read.
    name, listed = f"ck_{domain}_known", ",".join(words)
    op.execute(f"ALTER DOMAIN {domain} DROP CONSTRAINT {name}")
    op.execute(f"ALTER DOMAIN {domain} ADD CONSTRAINT {name} CHECK (VALUE = ANY ('{{{listed}}}'::varchar[])) NOT VALID")


def _anew(name: str, old: str, new: str) -> None:
    """SQLite changes no CHECK of a table that is there: it is made anew from its own text."""
    read = op.get_bind().exec_driver_sql
    text = str(read("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).scalar_one())
    indexes = read("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql <> ''", (name,)).all()
    columns = ", ".join(row[1] for row in read(f"PRAGMA table_info({name})"))
    assert text.count(old) == 1, f"{name} was not made by our migrations: {old} is not in it"
    op.execute(f"ALTER TABLE {name} RENAME TO {name}_before")
    op.execute(text.replace(old, new))
    op.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name}_before")  # noqa: S608  # names of ours
    op.drop_table(f"{name}_before")
    for index in indexes:
        op.execute(index[0])
