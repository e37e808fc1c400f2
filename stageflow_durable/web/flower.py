"""Flower with the URLs of an engine: callbacks and links to approvals are served beside Flower's own pages.

Flower asks for a sign-in on its own pages; these are for whoever has the URL, which is the proof. Where Flower has a
``url_prefix``, they stand below it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from flower import command
from flower.app import Flower
from tornado.web import RequestHandler, stream_request_body

from stageflow_durable.engine.approval_links import PATH as APPROVALS
from stageflow_durable.engine.callbacks import PATH as CALLBACKS
from stageflow_durable.web.callbacks import Receiver, handlers_of
from stageflow_durable.web.http import (
    READ_SECONDS,
    Look,
    Refused,
    Request,
    Respond,
    Response,
    answer,
    content_type_of,
    too_large,
)

log = logging.getLogger("stageflow.web")


@stream_request_body  # else Tornado takes a hundred megabytes before it asks anybody
class _Handler(RequestHandler):
    """Hands a request to the same functions that serve it under ASGI and WSGI."""

    def initialize(self, look: Look, respond: Respond, prefix: str) -> None:
        self._look, self._respond, self._prefix = look, respond, prefix
        self._body, self._limit = bytearray(), 0
        self._refused: Response | None = None

    def prepare(self) -> None:
        """Look before the body is read; one that does not come in time ends the connection."""
        connection: Any = self.request.connection
        connection.set_body_timeout(READ_SECONDS)
        given = self.request
        path = (given.path or "/").removeprefix(self._prefix)
        self._asked = Request(str(given.method), path, content_type_of(given.headers.get("Content-Type", "")))
        try:
            self._limit = self._look(self._asked)
        except Refused as refused:
            self._refused = refused.response

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body; of what is refused nothing is kept."""
        if self._refused is None:
            self._body += chunk
            if len(self._body) > self._limit:
                self._refused = too_large(self._limit).response

    async def get(self) -> None:
        """Answer in a thread: it waits for the database."""
        if self._refused is not None:
            self._send(self._refused)
            return
        request = replace(self._asked, body=bytes(self._body))
        self._send(await asyncio.to_thread(answer, self._respond, request))

    head = post = put = patch = delete = options = get

    def _send(self, response: Response) -> None:
        self.clear()
        self.set_status(int(response.status), response.status.phrase)
        for name, value in response.all_headers:
            self.set_header(name, value)
        _sent = self.finish(b"" if self.request.method == "HEAD" else response.body)

    def check_xsrf_cookie(self) -> None:
        """Nothing to check: the URL is the proof, no cookie is."""

    def compute_etag(self) -> None:
        """None: nothing is kept."""

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """As Tornado does, but for the request, whose address holds a token."""
        log.error("%s failed", self._request_summary(), exc_info=value)

    def _request_summary(self) -> str:
        """What Tornado logs of the request: not its path, which holds a token."""
        return f"{self.request.method} of a callback or a link ({self.request.remote_ip})"


def mount(engine: Receiver, flower: Any) -> None:
    """Serve an engine's URLs in this Flower."""
    prefix = f"/{given}" if (given := (flower.options.url_prefix or "").strip("/")) else ""
    look, respond = handlers_of(engine)
    arguments = {"look": look, "respond": respond, "prefix": prefix}
    flower.add_handlers(".*", [(rf"{re.escape(prefix)}/(?:{CALLBACKS}|{APPROVALS})/.*", _Handler, arguments)])


def run(engine: Any, arguments: Sequence[str]) -> None:
    """Run Flower with an engine's URLs until it is stopped, with the options of ``celery flower``."""
    command.apply_env_options()
    command.apply_options("flower", list(arguments))
    command.extract_settings()
    command.setup_logging()
    flower = Flower(capp=engine.celery_app, options=command.options, **command.settings)
    mount(engine, flower)
    atexit.register(flower.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    port = flower.start_http_server()
    command.print_banner(engine.celery_app, "ssl_options" in command.settings, port)
    try:
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        flower.stop()
