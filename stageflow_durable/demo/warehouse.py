"""The warehouse: reserves stock for an order, releases it, or ships it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from stageflow_durable.demo.ledger import Answer, Effect, Ledger, effect_of, record, undo

# What is not listed here has plenty; a small print run sells out on the way, the radio is long gone.
STOCK = {"RADIO-001": 0, "PRINT-100": 4}
PLENTY = 1_000_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (sku TEXT PRIMARY KEY, pieces INTEGER NOT NULL CHECK (pieces >= 0));
CREATE TABLE IF NOT EXISTS reserved (key TEXT NOT NULL, sku TEXT NOT NULL, pieces INTEGER NOT NULL);
"""

Request = Mapping[str, Any]


class Warehouse:
    """Reserve, release and ship; an effect's ``amount`` counts pieces."""

    name = "warehouse"
    schema = SCHEMA

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.endpoints = {"/reserve": self.reserve, "/release": self.release, "/ship": self.ship}

    def reserve(self, key: str, request: Request) -> Answer:
        """200 with ``reservation_id``, or 409 when an item is out of stock (then nothing is reserved)."""
        return self._ledger.once(key, request, lambda books: _reserve(books, key, request))

    def release(self, key: str, request: Request) -> Answer:
        """200; ``released`` says whether the reservation ``of`` had been made."""
        return self._ledger.once(key, request, lambda books: _release(books, key, request["of"]))

    def ship(self, key: str, request: Request) -> Answer:
        """200 with ``parcel_id``, or 409 when the reservation does not stand."""
        return self._ledger.once(key, request, lambda books: _ship(books, key, request))

    def loses_every_answer(self, path: str, request: Request) -> bool:
        """The warehouse always gets its answer out in the end."""
        return False


def _reserve(books: sqlite3.Connection, key: str, request: Request) -> Answer:
    wanted = _wanted(request)
    short = [sku for sku, pieces in wanted.items() if _stock(books, sku) < pieces]
    if short:
        return Answer(409, {"error": f"out of stock: {', '.join(short)}"})
    for sku, pieces in wanted.items():
        _take(books, key, sku, pieces)
    record(books, Effect(key, "reserve", request["order_id"], sum(wanted.values()), "pieces"))
    return Answer(200, {"reservation_id": f"res_{key}"})


def _wanted(request: Request) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for item in request["items"]:
        wanted[item["sku"]] = wanted.get(item["sku"], 0) + int(item["quantity"])
    return wanted


def _stock(books: sqlite3.Connection, sku: str) -> int:
    books.execute("INSERT OR IGNORE INTO stock VALUES (?, ?)", (sku, STOCK.get(sku, PLENTY)))
    return int(books.execute("SELECT pieces FROM stock WHERE sku = ?", (sku,)).fetchone()[0])


def _take(books: sqlite3.Connection, key: str, sku: str, pieces: int) -> None:
    books.execute("UPDATE stock SET pieces = pieces - ? WHERE sku = ?", (pieces, sku))
    books.execute("INSERT INTO reserved VALUES (?, ?, ?)", (key, sku, pieces))


def _release(books: sqlite3.Connection, key: str, of: str) -> Answer:
    undone = undo(books, key, "release", of)
    if undone is not None:
        _put_back(books, of)
    return Answer(200, {"released": undone is not None})


def _put_back(books: sqlite3.Connection, of: str) -> None:
    for sku, pieces in books.execute("SELECT sku, pieces FROM reserved WHERE key = ?", (of,)).fetchall():
        books.execute("UPDATE stock SET pieces = pieces + ? WHERE sku = ?", (pieces, sku))


def _ship(books: sqlite3.Connection, key: str, request: Request) -> Answer:
    reservation = effect_of(books, str(request["reservation_id"]).removeprefix("res_"))
    if reservation is None or reservation.order_id != request["order_id"] or _released(books, reservation.key):
        return Answer(409, {"error": f"no reservation {request['reservation_id']}"})
    record(books, Effect(key, "ship", request["order_id"], reservation.amount, "pieces"))
    return Answer(200, {"parcel_id": f"parcel_{key}"})


def _released(books: sqlite3.Connection, key: str) -> bool:
    return books.execute("SELECT 1 FROM tombstones WHERE key = ?", (key,)).fetchone() is not None
