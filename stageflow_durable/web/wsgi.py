"""Idempotency for WSGI applications: Flask, Django, and any other.

::

app.wsgi_app = IdempotencyMiddleware(app.wsgi_app, store=store, client=who)  # Flask
application = IdempotencyMiddleware(get_wsgi_application(), store=store, client=who)  # Django
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from threading import Event
from typing import Any, TypeAlias

from stageflow_durable.web.http import Refused, Response, StartResponse, wsgi_body
from stageflow_durable.web.idempotency import Answer, Asked, Guard, Incoming, current_key, keeps, sent_headers

Environ: TypeAlias = dict[str, Any]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_NEVER = Event()


class IdempotencyMiddleware:
    """Handles a request with an ``Idempotency-Key`` once, and gives its answer to those that come again.

    ``options``: those of :class:`stageflow_durable.web.idempotency.Guard`.
    """

    def __init__(self, app: App, /, **options: Any) -> None:
        self._app = app
        self._guard = Guard(**options)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, as WSGI has it."""
        request = _incoming(environ)
        try:
            if self._guard.is_handled_as_ever(request):
                return self._app(environ, start_response)
            body = wsgi_body(environ, self._guard.max_request_bytes)
            asked = self._guard.asked(request, body)
            if asked is None:
                return self._app(_with_body(environ, body), start_response)
            while isinstance(found := self._guard.claim(asked), float):
                _NEVER.wait(found)
            if found is not None:
                return _send(start_response, found)
            return self._handle(environ, start_response, asked, body)
        except Refused as refused:
            return _refuse(start_response, refused.response)

    def _handle(self, environ: Environ, start_response: StartResponse, asked: Asked, body: bytes) -> Iterable[bytes]:
        answering = _Answering()
        token = current_key.set(asked.own_key)
        try:
            answering.begin(self._app(_with_body(environ, body), answering.start))
            ended = answering.read(self._guard.max_response_bytes)
        except BaseException:
            self._guard.give_up(asked)
            answering.close()
            raise
        finally:
            current_key.reset(token)
        kept = answering.answer(whole=ended)
        try:
            told = self._guard.settle(asked, kept)
        except BaseException:
            answering.close()
            raise
        if told is kept:
            start_response(answering.status, answering.headers)
            return answering  # the server closes it, once it has sent the rest
        answering.close()
        return _send(start_response, told)


class _Answering:
    """What a handler answers: read as far as it may be kept, and then sent on."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self._given: Iterable[bytes] = ()
        self._parts: Iterator[bytes] = iter(())
        self._read = bytearray()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """The handler's ``start_response``; nothing is sent yet, so an error may begin anew."""
        self.status, self.headers = status, list(headers)
        return self._read.extend

    def begin(self, given: Iterable[bytes]) -> None:
        """The handler has returned."""
        self._given, self._parts = given, iter(given)

    def read(self, most: int) -> bool:
        """Read up to ``most`` bytes. Returns whether that is all of it."""
        for part in self._parts:
            self._read += part
            if len(self._read) > most or not keeps(self.answer(whole=False)):
                return False
        return len(self._read) <= most

    def answer(self, *, whole: bool) -> Answer:
        """What is remembered of it."""
        status = int(self.status.partition(" ")[0])
        return Answer(status, tuple(self.headers), bytes(self._read) if whole else None)

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(self._read)
        yield from self._parts

    def close(self) -> None:
        """What the server, or else the middleware, calls at the end."""
        close = getattr(self._given, "close", None)
        if close is not None:
            close()


def _incoming(environ: Environ) -> Incoming:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): [str(value)]
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    headers["content-type"] = [str(environ.get("CONTENT_TYPE") or "")]
    path = f"{environ.get('SCRIPT_NAME') or ''}{environ.get('PATH_INFO') or '/'}"
    query = str(environ.get("QUERY_STRING") or "")
    return Incoming(str(environ["REQUEST_METHOD"]).upper(), path, query, headers, environ, "latin-1")


def _with_body(environ: Environ, body: bytes) -> Environ:
    own = {name: value for name, value in environ.items() if name != "HTTP_TRANSFER_ENCODING"}
    return {**own, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def _send(start_response: StartResponse, answer: Answer) -> list[bytes]:
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Answered"
    start_response(f"{answer.status} {phrase}", sent_headers(answer))
    return [answer.body or b""]


def _refuse(start_response: StartResponse, response: Response) -> list[bytes]:
    start_response(f"{int(response.status)} {response.status.phrase}", response.all_headers)
    return [response.body]
