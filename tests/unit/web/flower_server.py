"""Flower's server in this process, with an engine's pages and a page of its own for every other path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.web.requests import FakeEngine

pytest.importorskip("flower")
httpx = pytest.importorskip("httpx")

from flower.urls import settings  # noqa: E402  # where Flower is installed
from flower.views import BaseHandler  # noqa: E402  # as above
from tornado.httpserver import HTTPServer  # noqa: E402  # as above
from tornado.netutil import bind_sockets  # noqa: E402  # as above
from tornado.web import Application, RequestHandler, url  # noqa: E402  # as above

from stageflow_durable.web.flower import mount  # noqa: E402  # as above

Client = Any


class _Own(RequestHandler):
    def get(self) -> None:
        self.write("a page of Flower's")


class SignIn(BaseHandler):  # type: ignore[misc]  # Flower has no types
    """What an OAuth provider's handler does in the end: Flower's signed cookie holds the address."""

    def get(self) -> None:
        self.set_secure_cookie("user", self.get_query_argument("as"))


@asynccontextmanager
async def served(engine: FakeEngine, prefix: str, **options: Any) -> AsyncIterator[Client]:
    """A server with Flower's settings, and what asks it. ``options``: those of ``celery flower``."""
    pages = [url(f"/{name}", _Own, name=name) for name in ("main", "workers", "tasks", "broker", "logout")]
    given = {**settings, "cookie_secret": "s"}
    application = Application([*pages, ("/sign-in", SignIn), (".*", _Own)], **given)
    said = {
        "basic_auth": None,
        "auth": "",
        "read_only": False,
        "debug": False,
        "url_prefix": prefix,
        "unix_socket": "",
        **options,
    }
    application.options = SimpleNamespace(**said)  # type: ignore[attr-defined]  # as Flower has it
    mount(engine, application)
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(application)
    server.add_sockets(sockets)
    base = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=base) as client:
            yield client
    finally:
        server.stop()
        await server.close_all_connections()
