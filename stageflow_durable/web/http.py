"""Requests and responses as values, and the two ways in which servers bring them: ASGI and WSGI.

A body is read up to a limit in size and, under ASGI, in time; a WSGI server has a limit of its own for the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

from stageflow_durable.masking import masking

log = masking(logging.getLogger("stageflow.web"))

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
StartResponse: TypeAlias = Callable[..., Any]

READ_SECONDS = 10.0
"""How long the body of a request may take to come."""

AWAY_SECONDS = "5"
"""After how many seconds a caller may try again while the database is away."""

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every response: nothing is kept, nothing else is loaded, and no address is handed on."""


@dataclass(frozen=True, slots=True)
class Request:
    """``path``: below the place where the application is mounted. ``content_type``: without parameters, in small
    letters; "" where none is given. ``query``: what stands behind the question mark; ``secret``: what a page sends back
    to show that it is of this server; both only where somebody asks for them.
    """

    method: str
    path: str
    content_type: str = ""
    body: bytes = b""
    query: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """``headers``: besides :data:`HEADERS`."""

    status: HTTPStatus
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_headers(self) -> list[tuple[str, str]]:
        """Name and value of each header."""
        length = {"Content-Type": self.content_type, "Content-Length": str(len(self.body))}
        return list({**HEADERS, **length, **self.headers}.items())


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def json_response(status: HTTPStatus, value: Any) -> Response:
    """A response with a value as JSON."""
    return Response(status, json.dumps(value).encode())


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    errors: Iterable[str] = (),
    kind: str | None = None,
    type: str = "about:blank",
    **headers: str,
) -> Response:
    """An error as RFC 9457 has it. ``kind``: for programs; ``headers``: with ``_`` for ``-``."""
    said: dict[str, Any] = {"type": type, "title": status.phrase, "status": int(status), "detail": detail}
    listed = list(errors)
    if listed:
        said["errors"] = listed
    if kind is not None:
        said["kind"] = kind
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, json.dumps(said).encode(), "application/problem+json", named)


Respond: TypeAlias = Callable[[Request], Response]
"""Answers a request; may wait for the database. Raises :class:`Refused`."""

Look: TypeAlias = Callable[[Request], int]
"""What is looked at before the body is read: how many bytes it may have. Raises :class:`Refused`."""


def answer(respond: Respond, request: Request) -> Response:
    """What is responded, whatever fails."""
    try:
        return respond(request)
    except Refused as refused:
        return refused.response
    except Exception:
        log.exception("a request could not be answered")  # without its path, which may hold a token
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this is an error of the server, which has logged it")


def too_large(limit: int) -> Refused:
    """A body has more bytes than are taken."""
    return Refused(problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {limit} bytes are taken"))


def _length(given: str | None) -> int | None:
    """The length that a request declares; None: it declares none. Raises Refused."""
    if given is None or given == "":
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "Content-Length is no number"))
    return int(given)


def content_type_of(header: str) -> str:
    """A content type without parameters, in small letters."""
    return header.partition(";")[0].strip().lower()


# --- ASGI -------------------------------------------------------------------------------------------------------------


class AsgiApp:
    """An ASGI application: requests are answered in threads, since they wait for the database."""

    def __init__(self, look: Look, respond: Respond, read_seconds: float = READ_SECONDS) -> None:
        self._look = look
        self._respond = respond
        self._read_seconds = read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = _request(scope)
            limit = self._look(request)
            body = await asgi_body(scope, receive, limit, self._read_seconds)
            if body is None:
                return  # the client has gone
            request = Request(request.method, request.path, request.content_type, body)
            response = await asyncio.to_thread(answer, self._respond, request)
        except Refused as refused:
            response = refused.response
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.all_headers]
        await send({"type": "http.response.start", "status": int(response.status), "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})


async def asgi_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes | None:
    """The body of a request; None: the client has gone. Raises Refused where it is larger, or takes longer."""
    length = _length(_headers(scope).get("content-length"))
    if length is not None and length > limit:
        raise too_large(limit)
    found = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                found += message.get("body", b"")
                more = bool(message.get("more_body", False))
                if len(found) > limit:
                    raise too_large(limit)
    except TimeoutError:
        raise Refused(problem(HTTPStatus.REQUEST_TIMEOUT, "the body did not come in time")) from None
    return bytes(found)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}


def _request(scope: Scope) -> Request:
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    # Servers differ in whether the path has the place of the application before it.
    below = path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path
    return Request(str(scope["method"]).upper(), below or "/", content_type_of(_headers(scope).get("content-type", "")))


# --- WSGI -------------------------------------------------------------------------------------------------------------


class WsgiApp:
    """A WSGI application."""

    def __init__(self, look: Look, respond: Respond) -> None:
        self._look = look
        self._respond = respond

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> list[bytes]:
        """Answer one request, as WSGI has it."""
        method = str(environ["REQUEST_METHOD"]).upper()
        request = Request(
            method, str(environ.get("PATH_INFO") or "/"), content_type_of(str(environ.get("CONTENT_TYPE") or ""))
        )
        try:
            body = wsgi_body(environ, self._look(request))
            response = answer(self._respond, Request(method, request.path, request.content_type, body))
        except Refused as refused:
            response = refused.response
        start_response(f"{int(response.status)} {response.status.phrase}", response.all_headers)
        return [b""] if method == "HEAD" else [response.body]


def wsgi_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """The body of a request. Raises Refused where it is larger, or shorter than it says."""
    length = _length(environ.get("CONTENT_LENGTH"))
    if length is not None and length > limit:
        raise too_large(limit)
    if length is None and not environ.get("wsgi.input_terminated"):
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise Refused(problem(HTTPStatus.LENGTH_REQUIRED, "this server takes no body of unknown length"))
        return b""
    body: bytes = environ["wsgi.input"].read(limit + 1 if length is None else length)
    if length is not None and len(body) < length:
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "the body is shorter than its Content-Length"))
    if len(body) > limit:
        raise too_large(limit)
    return body
