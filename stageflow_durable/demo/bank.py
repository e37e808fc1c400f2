"""The bank: charges cards and refunds charges."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from stageflow_durable.demo.ledger import Answer, Effect, Ledger, record, undo

DECLINED_PREFIX = "tok_declined"
SILENT_CARD = "tok_silent_issuer"

Request = Mapping[str, Any]


class Bank:
    """Charge and refund; ``amount`` is in cents of ``currency``."""

    name = "bank"
    schema = ""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.endpoints = {"/charge": self.charge, "/refund": self.refund}

    def charge(self, key: str, request: Request) -> Answer:
        """200 with ``payment_id``, or 402 when the card is declined."""
        return self._ledger.once(key, request, lambda books: _charge(books, key, request))

    def refund(self, key: str, request: Request) -> Answer:
        """200; ``refunded`` says whether the charge ``of`` had happened."""
        return self._ledger.once(key, request, lambda books: _refund(books, key, request["of"]))

    def loses_every_answer(self, path: str, request: Request) -> bool:
        """Some issuers take the money and never say so: only a refund by key gets out of that."""
        return path == "/charge" and request.get("card") == SILENT_CARD


def _charge(books: sqlite3.Connection, key: str, request: Request) -> Answer:
    if str(request["card"]).startswith(DECLINED_PREFIX):
        return Answer(402, {"error": "card declined"})
    record(books, Effect(key, "charge", request["order_id"], int(request["amount_cents"]), request["currency"]))
    return Answer(200, {"payment_id": f"pay_{key}"})


def _refund(books: sqlite3.Connection, key: str, of: str) -> Answer:
    return Answer(200, {"refunded": undo(books, key, "refund", of) is not None})
