"""What is not the engine's: the shop's orders, a mail server and a bank, which are other people's services in earnest.

Here each is a table or two of one SQLite file (``REFUNDS_OUTSIDE``, else ``outside.db``). Mail server and bank do what
such services have to: each takes an idempotency key, and what comes again under a key that it knows is not done again.

``python outside.py`` prints the mails that were sent and what the bank has moved.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

FILE = Path(os.environ.get("REFUNDS_OUTSIDE", "outside.db"))
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer TEXT, paid_cents INTEGER, postage_cents INTEGER)",
    "CREATE TABLE IF NOT EXISTS mails (key TEXT PRIMARY KEY, recipient TEXT, subject TEXT, text TEXT)",
    "CREATE TABLE IF NOT EXISTS moves (key TEXT PRIMARY KEY, order_id TEXT, cents INTEGER)",
    "CREATE TABLE IF NOT EXISTS void (key TEXT PRIMARY KEY)",
    "INSERT OR IGNORE INTO orders VALUES ('A-1', 'joe@example.com', 4200, 500), ('A-2', 'eve@example.com', 99900, 0)",
)


class Refused(Exception):
    """The service says no, and vouches that it has done nothing."""


@dataclass(frozen=True)
class Order:
    """An order as the shop knows it."""

    customer: str
    paid_cents: int
    postage_cents: int


@contextmanager
def books() -> Iterator[sqlite3.Connection]:
    """One transaction. Processes take turns; what one that is killed has not committed never happened."""
    with closing(sqlite3.connect(FILE, timeout=30, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        yield connection
        connection.execute("COMMIT")


# --- the shop ---------------------------------------------------------------------------------------------------------


def order(order_id: str) -> Order | None:
    """The order of that id, if there is one."""
    with books() as connection:
        asked = "SELECT customer, paid_cents, postage_cents FROM orders WHERE id = ?"
        row = connection.execute(asked, (order_id,)).fetchone()
        return Order(*row) if row else None


# --- the mail server --------------------------------------------------------------------------------------------------


def was_mailed(key: str) -> bool:
    """Whether a mail was taken under that key."""
    with books() as connection:
        return connection.execute("SELECT 1 FROM mails WHERE key = ?", (key,)).fetchone() is not None


def mail(key: str, recipient: str, subject: str, text: str) -> None:
    """Send a mail, once a key. Raises Refused where nobody has that address."""
    if recipient.endswith(".invalid"):
        raise Refused(f"there is no mailbox {recipient}")
    with books() as connection:
        connection.execute("INSERT OR IGNORE INTO mails VALUES (?, ?, ?, ?)", (key, recipient, subject, text))


# --- the bank ---------------------------------------------------------------------------------------------------------


def pay_back(key: str, order_id: str, cents: int) -> None:
    """Move money to whoever paid for the order, once a key. Raises Refused for a key that was taken back."""
    with books() as connection:
        if connection.execute("SELECT 1 FROM void WHERE key = ?", (key,)).fetchone():
            raise Refused(f"{key} was taken back")
        connection.execute("INSERT OR IGNORE INTO moves VALUES (?, ?, ?)", (key, order_id, cents))


def take_back(key: str, of: str) -> None:
    """Undo what was moved under the key ``of``, if anything was; from now on nothing is moved under it any more."""
    with books() as connection:
        connection.execute("INSERT OR IGNORE INTO void VALUES (?)", (of,))
        undone = "INSERT OR IGNORE INTO moves SELECT ?, order_id, -cents FROM moves WHERE key = ?"
        connection.execute(undone, (key, of))


if __name__ == "__main__":
    with books() as found:
        for to, about, body in found.execute("SELECT recipient, subject, text FROM mails"):
            print(f"To: {to}\nSubject: {about}\n\n{body}\n")
        for order_id, cents in found.execute("SELECT order_id, cents FROM moves"):
            print(f"moved {cents} cents for order {order_id}")
