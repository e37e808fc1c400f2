"""How Flower's server, which is Tornado's, hands requests to the functions that serve an engine: those of whoever has
the URL, and those of whoever signed in to Flower.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

from flower.views import BaseHandler
from tornado.web import (
    HTTPError,
    RequestHandler,
    authenticated,
    create_signed_value,
    decode_signed_value,
    stream_request_body,
)

from stageflow_durable.masking import masking
from stageflow_durable.web.exposure import is_loopback
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
from stageflow_durable.web.signed_in import Visitor

log = masking(logging.getLogger("stageflow.web"))

_FORM = "stageflow-form"


class Handler(RequestHandler):
    """Hands a request to the same functions that serve it under ASGI and WSGI."""

    def initialize(self, look: Look, respond: Respond, prefix: str) -> None:
        """``look`` and ``respond``: as of ``web/http``; ``prefix``: what stands before their paths."""
        self._look, self._respond, self._prefix = look, respond, prefix
        self._body, self._limit = bytearray(), 0
        self._refused: Response | None = None

    def prepare(self) -> None:
        """Look before the body is read; one that does not come in time ends the connection."""
        connection: Any = self.request.connection
        connection.set_body_timeout(READ_SECONDS)
        given = self.request
        path = (given.path or "/").removeprefix(self._prefix)
        kind, token = (given.headers.get(name, "") for name in ("Content-Type", "X-Stageflow-Token"))
        self._asked = Request(str(given.method), path, content_type_of(kind), query=given.query, secret=token)
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

    async def _answer(self) -> None:
        """Answer in a thread: it waits for the database."""
        if self._refused is not None:
            self._send(self._refused)
            return
        request = replace(self._asked, body=bytes(self._body))
        self._send(await asyncio.to_thread(answer, self._respond, request))

    def _send(self, response: Response) -> None:
        self.clear()
        self.set_status(int(response.status), response.status.phrase)
        for name, value in response.all_headers:
            self.set_header(name, value)
        _sent = self.finish(b"" if self.request.method == "HEAD" else response.body)

    def check_xsrf_cookie(self) -> None:
        """Nothing to check: the URL is the proof, or the form's own secret is; no cookie is."""

    def compute_etag(self) -> None:
        """None: nothing is kept."""


@stream_request_body  # else Tornado takes a hundred megabytes before it asks anybody
class ByUrl(Handler):
    """A callback or a link."""

    async def get(self) -> None:
        """Answer whoever has the URL."""
        await self._answer()

    head = post = put = patch = delete = options = get

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """As Tornado does, but for the request, whose address holds a token."""
        log.error("%s failed", self._request_summary(), exc_info=value)

    def _request_summary(self) -> str:
        """What Tornado logs of the request: not its path, which holds a token."""
        return f"{self.request.method} of a callback or a link ({self.request.remote_ip})"


class Visits(BaseHandler):  # type: ignore[misc]  # Flower has no types
    """Who signed in to Flower."""

    def who_looks(self) -> Visitor:
        """Who it is, and what a page of theirs sends back. Flower has let them in."""
        name = self._name()
        if name is None and not self._options.unix_socket and not is_loopback(self.request.host_name):
            # Another site's page whose name was made to mean this machine would read what is shown without a sign-in.
            why = "Without a sign-in Flower shows this under this machine's own name alone: http://127.0.0.1"
            raise HTTPError(403, why)
        key = self.settings["cookie_secret"]

        def secret(path: str) -> str:
            return create_signed_value(key, _FORM, f"{path} {name}").decode()

        def is_secret(path: str, given: str) -> bool:
            return decode_signed_value(key, _FORM, given, max_age_days=1) == f"{path} {name}".encode()

        return Visitor(name, bool(self._options.read_only), secret, is_secret)

    def _name(self) -> str | None:
        """As whom they signed in; None: Flower asks nobody. By OAuth that is an address, else what stands before the
        colon in --basic-auth.
        """
        if self._options.auth:
            return str(self.current_user)
        if not self._options.basic_auth:
            return None
        given = self.request.headers["Authorization"].split()[1]  # Flower has compared it
        return base64.b64decode(given).decode().partition(":")[0]

    @property
    def _options(self) -> Any:
        application: Any = self.application
        return application.options

    def set_default_headers(self) -> None:
        """None of Flower's: they would let other sites read these pages where it asks nobody."""


@stream_request_body  # else Tornado takes a hundred megabytes before it asks anybody
class SignedIn(Handler, Visits):
    """What is served to whoever signed in to Flower."""

    @authenticated  # by Flower, as for its own pages
    async def get(self) -> None:
        """Answer whoever is signed in; who is not is sent to sign in, or refused."""
        respond: Any = self._respond
        self._respond = partial(respond, self.who_looks())
        await self._answer()

    head = post = put = patch = delete = options = get
