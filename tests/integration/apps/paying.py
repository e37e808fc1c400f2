"""An application that charges by HTTP, behind the middleware: with FastAPI, Flask and Django, alike.

``STORE``: where its keys are; ``LEDGER``: a file in which each call of the handler is a line of its own, and each
payment a row under the key that was handed on.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from typing import Any

from stageflow_durable.idempotency import IdempotencyStore, RedisIdempotencyStore, SqlIdempotencyStore
from stageflow_durable.web import idempotency_key
from stageflow_durable.web.asgi import IdempotencyMiddleware as Asgi
from stageflow_durable.web.wsgi import IdempotencyMiddleware as Wsgi

TABLES = """
CREATE TABLE IF NOT EXISTS calls (n integer PRIMARY KEY, pid integer);
CREATE TABLE IF NOT EXISTS payments (n integer PRIMARY KEY, key text UNIQUE);
"""


def ledger() -> sqlite3.Connection:
    """The ledger, open."""
    found = sqlite3.connect(os.environ["LEDGER"], timeout=20, isolation_level=None)
    found.executescript(TABLES)
    return found


def charge(hold: bool) -> dict[str, int]:
    """The handler: ``hold`` keeps the first call for ever, before it has done anything."""
    with closing(ledger()) as book:
        called = book.execute("INSERT INTO calls (pid) VALUES (?) RETURNING n", (os.getpid(),)).fetchone()[0]
        if hold and called == 1:
            time.sleep(600)
        time.sleep(0.05)
        key = idempotency_key()
        book.execute("INSERT OR IGNORE INTO payments (key) VALUES (?)", (key,))
        return {"payment": book.execute("SELECT n FROM payments WHERE key = ?", (key,)).fetchone()[0]}


def _options() -> dict[str, Any]:
    url = os.environ["STORE"]
    store: IdempotencyStore = (
        RedisIdempotencyStore(url, timeout_seconds=20) if url.startswith("redis") else SqlIdempotencyStore(url)
    )
    return {"store": store, "secret": "of these tests", "lease_seconds": 2, "wait_seconds": 30}


def fastapi_app() -> Any:
    """For uvicorn."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/payments", status_code=201)
    def payments(given: dict[str, Any]) -> dict[str, int]:
        return charge(bool(given.get("hold")))

    app.add_middleware(Asgi, **_options())
    return app


def flask_app() -> Any:
    """For gunicorn."""
    from flask import Flask, request

    app = Flask(__name__)

    @app.post("/payments")
    def payments() -> Any:
        return charge(bool(request.get_json().get("hold"))), 201

    app.wsgi_app = Wsgi(app.wsgi_app, **_options())  # type: ignore[method-assign]  # as Flask has it
    return app


def django_app() -> Any:
    """For gunicorn."""
    import json

    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import JsonResponse
    from django.urls import path

    def payments(request: Any) -> JsonResponse:
        return JsonResponse(charge(bool(json.loads(request.body).get("hold"))), status=201)

    globals()["urlpatterns"] = [path("payments", payments)]
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="s", MIDDLEWARE=[])
    return Wsgi(get_wsgi_application(), **_options())
