"""Idempotency for ASGI applications: Starlette, FastAPI, and any other.

::

app.add_middleware(IdempotencyMiddleware, store=store, client=who)       # Starlette, FastAPI
app = IdempotencyMiddleware(app, store=store, client=who)                # any other
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias, TypeVar

from stageflow_durable.idempotency.in_thread import ask_in_thread
from stageflow_durable.web.http import READ_SECONDS, Receive, Refused, Response, Scope, Send, asgi_body
from stageflow_durable.web.idempotency import Answer, Asked, Guard, Incoming, current_key, keeps, sent_headers

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

_BESIDE_THE_BODY = frozenset({"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"})
"""Ways to answer that the middleware would not see."""


class IdempotencyMiddleware:
    """Handles a request with an ``Idempotency-Key`` once, and gives its answer to those that come again.

    ``options``: those of :class:`stageflow_durable.web.idempotency.Guard`. ``read_seconds``: how long the body of a
    request with a key may take to come.
    """

    def __init__(self, app: App, /, *, read_seconds: float = READ_SECONDS, **options: Any) -> None:
        self._app = app
        self._guard = Guard(**options)
        self._read_seconds = read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _incoming(scope)
        try:
            if self._guard.is_handled_as_ever(request):
                await self._app(scope, receive, send)
                return
            body = await asgi_body(scope, receive, self._guard.max_request_bytes, self._read_seconds)
            if body is None:
                return  # the client has gone before it had asked for anything
            asked = await ask_in_thread(self._guard.asked, request, body)
            if asked is None:
                await self._app(scope, _replayed(body, receive), send)
                return
            # The key is in a store that tells nobody when it changes.
            while isinstance(found := await ask_in_thread(self._guard.claim, asked), float):  # noqa: ASYNC110  # no event
                await asyncio.sleep(found)
        except Refused as refused:
            await _refuse(send, refused.response)
            return
        if found is not None:
            await _send(send, found)
            return
        await self._handle(scope, receive, send, asked, body)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, asked: Asked, body: bytes) -> None:
        held = _Held(self._guard, asked, send)
        token = current_key.set(asked.own_key)
        try:
            await self._app(_without(scope), _replayed(body, receive), held)
        finally:
            current_key.reset(token)
            if not held.settled:  # it raised, was cancelled, or ended without an answer
                await ask_in_thread(self._guard.give_up, asked)


class _Held:
    """The handler's ``send``: nothing is sent before the answer is remembered."""

    def __init__(self, guard: Guard, asked: Asked, send: Send) -> None:
        self._guard, self._asked, self._send = guard, asked, send
        self._start: MutableMapping[str, Any] = {}
        self._body = bytearray()
        self._is_endless = self._passes = False
        self.settled = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Take one message of the handler's."""
        if self._passes:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._start = message
            self._is_endless = not keeps(Answer(message["status"], _pairs(message.get("headers", ())), None))
        elif message["type"] == "http.response.body" and not self.settled:
            await self._take(message)

    async def _take(self, message: Mapping[str, Any]) -> None:
        self._body += message.get("body", b"")
        more, fits = bool(message.get("more_body", False)), len(self._body) <= self._guard.max_response_bytes
        if more and fits and not self._is_endless:
            return
        self.settled = True
        body = bytes(self._body)
        kept = Answer(self._start["status"], _pairs(self._start.get("headers", ())), None if more or not fits else body)
        try:
            told = await ask_in_thread(self._guard.settle, self._asked, kept)
        except Refused as refused:
            await _refuse(self._send, refused.response)
            return
        if told is not kept:
            await _send(self._send, told)  # another's
            return
        self._passes = more
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _incoming(scope: Scope) -> Incoming:
    headers: dict[str, list[str]] = {}
    for name, value in scope.get("headers", ()):
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    whole = path if path.startswith(root) else root + path
    query = scope.get("query_string", b"").decode("latin-1")
    return Incoming(str(scope["method"]).upper(), whole, query, headers, scope)


def _without(scope: Scope) -> Scope:
    known = scope.get("extensions") or {}
    return {**scope, "extensions": {name: found for name, found in known.items() if name not in _BESIDE_THE_BODY}}


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read, and after that whatever comes: that the client has gone."""
    read: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return read.pop() if read else await receive()

    return again


def _pairs(headers: Any) -> tuple[tuple[str, str], ...]:
    return tuple((bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers)


async def _send(send: Send, answer: Answer) -> None:
    await send(_start(answer.status, sent_headers(answer)))
    await send({"type": "http.response.body", "body": answer.body or b""})


async def _refuse(send: Send, response: Response) -> None:
    await send(_start(int(response.status), response.all_headers))
    await send({"type": "http.response.body", "body": response.body})


def _start(status: int, headers: list[tuple[str, str]]) -> MutableMapping[str, Any]:
    told = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": told}
