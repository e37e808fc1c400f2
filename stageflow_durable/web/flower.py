"""Flower with the URLs of an engine: callbacks, links to approvals, and approvals for whoever signed in to Flower.

Callbacks and links are for whoever has the URL, which is the proof. The other pages are behind Flower's own sign-in, as
its pages are. Where Flower has a ``url_prefix``, all of them stand below it.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import logging
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from flower import command
from flower.app import Flower
from flower.views import BaseHandler
from tornado.template import Loader, Template
from tornado.web import (
    RedirectHandler,
    RequestHandler,
    authenticated,
    create_signed_value,
    decode_signed_value,
    stream_request_body,
    url,
)

from stageflow_durable.engine.approval_links import PATH as APPROVALS
from stageflow_durable.engine.callbacks import PATH as CALLBACKS
from stageflow_durable.masking import masking
from stageflow_durable.web import signed_in
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

log = masking(logging.getLogger("stageflow.web"))


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
class _ByUrl(_Handler):
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


@stream_request_body  # as above
class _SignedIn(_Handler, BaseHandler):  # type: ignore[misc]  # Flower has no types
    """A page for whoever signed in to Flower."""

    @authenticated  # by Flower, as for its own pages
    async def get(self) -> None:
        """Answer whoever is signed in; who is not is sent to sign in, or refused."""
        respond: Any = self._respond
        self._respond = partial(respond, self._who_looks())
        await self._answer()

    head = post = put = patch = delete = options = get

    def _who_looks(self) -> signed_in.Visitor:
        name = self._name()
        key = self.settings["cookie_secret"]

        def secret(path: str) -> str:
            return create_signed_value(key, _FORM, f"{path} {name}").decode()

        def is_secret(path: str, given: str) -> bool:
            return decode_signed_value(key, _FORM, given, max_age_days=1) == f"{path} {name}".encode()

        return signed_in.Visitor(name, bool(self._options.read_only), secret, is_secret)

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


_FORM = "stageflow-form"


class _Templates(Loader):
    """Flower's templates, with an entry for the approvals in its menu."""

    def _create_template(self, name: str) -> Template:
        if name != _MENU:
            return super()._create_template(name)
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        return Template(text.replace("</ul>", f"{_ENTRY}</ul>", 1), name=name, loader=self)


_MENU = "navbar.html"
_ENTRY = """<li class="nav-item"><a class="nav-link" href="{{ reverse_url('approvals') }}">Approvals</a></li>"""


class Served(Receiver, signed_in.Decider, Protocol):
    """What is needed of an engine."""


def mount(engine: Served, flower: Any) -> None:
    """Serve an engine's URLs in this Flower."""
    prefix = f"/{given}" if (given := (flower.options.url_prefix or "").strip("/")) else ""
    look, respond = handlers_of(engine)
    below = re.escape(prefix)
    by_url = {"look": look, "respond": respond, "prefix": prefix}
    of_engine = {"look": signed_in.look, "respond": partial(signed_in.respond, engine), "prefix": prefix}
    pages = [
        url(rf"{below}/{signed_in.LIST}/", RedirectHandler, {"url": f"{prefix}/{signed_in.LIST}"}),
        url(rf"{below}/(?:{CALLBACKS}|{APPROVALS})/.*", _ByUrl, by_url),
        url(rf"{below}/{signed_in.LIST}", _SignedIn, of_engine, name="approvals"),
        url(rf"{below}/{signed_in.ONE}", _SignedIn, of_engine),
    ]
    flower.add_handlers(".*", pages)
    flower.settings["template_loader"] = _Templates(flower.settings["template_path"])


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
