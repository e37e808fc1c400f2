"""The book of an outside service: what it did, under which key, and what it answered.

A service that honours idempotency keys writes effect and answer in one transaction: the same key gets the same answer
and has one effect, whether or not the first answer arrived. An undo names the key of the action (``of``) and leaves a
tombstone, so that a request of that action which arrives late is refused.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS effects (
    id       INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    kind     TEXT NOT NULL,
    order_id TEXT NOT NULL,
    amount   INTEGER NOT NULL,
    unit     TEXT NOT NULL,
    of       TEXT
);
CREATE TABLE IF NOT EXISTS answers (
    key         TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    status      INTEGER NOT NULL,
    body        TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tombstones (key TEXT PRIMARY KEY, undone_by TEXT NOT NULL);
"""
SELECT = "SELECT key, kind, order_id, amount, unit, of FROM effects"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service says: HTTP ``status`` and a JSON ``body``."""

    status: int
    body: Mapping[str, Any]


Decision = Callable[[sqlite3.Connection], Answer]


@dataclass(frozen=True, slots=True)
class Effect:
    """One row of a ledger: something that happened in the world, once.

    ``kind``: reserve, release, ship, charge or refund. ``amount``: pieces at the warehouse, cents at the bank; ``unit``
    says which (``pieces`` or a currency). ``of``: for an undo, the key of the action that it undid.
    """

    key: str
    kind: str
    order_id: str
    amount: int
    unit: str
    of: str | None = None


class Ledger:
    """A SQLite file (WAL, every commit synced) that one service process writes."""

    def __init__(self, path: Path, schema: str = "") -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(SCHEMA + schema)

    def close(self) -> None:
        """Close the file; what was answered is in it."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction; threads of the service take turns."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def once(self, key: str, request: object, decide: Decision) -> Answer:
        """The answer for ``key``: the remembered one, or ``decide``'s, committed together with its effects.

        410 when the action of that key was undone; 422 when the key came with another request before.
        """
        with self.transaction() as books:
            refusal_or_memory = _undone(books, key) or _remembered(books, key, _fingerprint(request))
            return refusal_or_memory or _decide(books, key, _fingerprint(request), decide)


def _undone(books: sqlite3.Connection, key: str) -> Answer | None:
    row = books.execute("SELECT undone_by FROM tombstones WHERE key = ?", (key,)).fetchone()
    return Answer(410, {"error": f"key {key} was undone by {row[0]}"}) if row else None


def _remembered(books: sqlite3.Connection, key: str, fingerprint: str) -> Answer | None:
    row = books.execute("SELECT fingerprint, status, body FROM answers WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if row[0] != fingerprint:
        return Answer(422, {"error": f"key {key} was used before with another request"})
    return Answer(row[1], json.loads(row[2]))


def _decide(books: sqlite3.Connection, key: str, fingerprint: str, decide: Decision) -> Answer:
    answer = decide(books)
    books.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, fingerprint, answer.status, json.dumps(answer.body)))
    return answer


def _fingerprint(request: object) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def record(books: sqlite3.Connection, effect: Effect) -> Effect:
    """Write the effect; a second one under the same key is an IntegrityError."""
    books.execute(
        "INSERT INTO effects (key, kind, order_id, amount, unit, of) VALUES (?, ?, ?, ?, ?, ?)",
        (effect.key, effect.kind, effect.order_id, effect.amount, effect.unit, effect.of),
    )
    return effect


def undo(books: sqlite3.Connection, key: str, kind: str, of: str) -> Effect | None:
    """Bury ``of`` and write its counter-effect; None when ``of`` never happened (which an undo must tolerate)."""
    books.execute("INSERT OR IGNORE INTO tombstones VALUES (?, ?)", (of, key))
    action = effect_of(books, of)
    if action is None or _undo_of(books, of):
        return None
    return record(books, Effect(key, kind, action.order_id, action.amount, action.unit, of))


def effect_of(books: sqlite3.Connection, key: str) -> Effect | None:
    """The effect under that key, or None."""
    row = books.execute(f"{SELECT} WHERE key = ?", (key,)).fetchone()
    return Effect(*row) if row else None


def _undo_of(books: sqlite3.Connection, of: str) -> bool:
    return books.execute("SELECT 1 FROM effects WHERE of = ?", (of,)).fetchone() is not None


def read_effects(path: Path) -> list[Effect]:
    """Every effect in the ledger at ``path``, oldest first: what the judge reads."""
    connection = sqlite3.connect(path)
    try:
        return [Effect(*row) for row in connection.execute(f"{SELECT} ORDER BY id")]
    finally:
        connection.close()
