"""An application behind the middleware, under ASGI and under WSGI, and requests to it as servers put them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stageflow_durable.idempotency import IdempotencyStore, MemoryIdempotencyStore
from stageflow_durable.web import asgi, idempotency_key, wsgi

Headers = Sequence[tuple[str, str]]


class Said(NamedTuple):
    """What the handler answers. ``parts``: of the body; an exception among them is raised there."""

    status: int = 201
    headers: Headers = (("Content-Type", "application/json"), ("X-Order", "A-1"), ("Set-Cookie", "s=secret"))
    parts: Sequence[bytes | Exception] = (b'{"payment": 1}',)


@dataclass(frozen=True)
class Got:
    """What came back; its headers by their names."""

    status: int
    headers: Headers
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        return {key.lower(): value for key, value in self.headers}.get(name)

    @property
    def replayed(self) -> bool:
        return self["idempotent-replayed"] == "true"

    @property
    def kind(self) -> str:
        """Of a problem."""
        assert self["content-type"] == "application/problem+json", self
        said = json.loads(self.body)
        assert said["status"] == self.status
        return str(said["type"].removeprefix("urn:stageflow:idempotency:"))


@dataclass
class Handler:
    """The application's one handler: it counts what it did. ``during``: is called meanwhile."""

    says: Said = field(default_factory=Said)
    done: list[tuple[str, bytes, str | None]] = field(default_factory=list)
    during: Callable[[], object] = lambda: None

    def __call__(self, method: str, body: bytes) -> Said:
        self.done.append((method, body, idempotency_key()))
        self.during()
        return self.says

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        said = await asyncio.to_thread(self, scope["method"], body)
        headers = [(name.encode(), value.encode()) for name, value in said.headers]
        await send({"type": "http.response.start", "status": said.status, "headers": headers})
        for part in said.parts:
            if isinstance(part, Exception):
                raise part
            more = part is not said.parts[-1]
            await send({"type": "http.response.body", "body": part, "more_body": more})
        if not said.parts:
            await send({"type": "http.response.body"})

    def wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        said = self(environ["REQUEST_METHOD"], environ["wsgi.input"].read())
        start_response(f"{said.status} Said", list(said.headers))
        return _parts(said.parts)


def _parts(parts: Sequence[bytes | Exception]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


class Site:
    """A server with the application. ``ask`` puts a request and gives what comes back."""

    def __init__(self, kind: str, store: IdempotencyStore | None = None, **options: Any) -> None:
        self.kind = kind
        self.handler = Handler()
        self.store = MemoryIdempotencyStore() if store is None else store
        given = {"store": self.store, "secret": "s", "wait_seconds": 0, **options}
        if kind == "asgi":
            self._asgi = asgi.IdempotencyMiddleware(self.handler.asgi, **given)
        else:
            self._wsgi = wsgi.IdempotencyMiddleware(self.handler.wsgi, **given)

    def ask(
        self,
        key: str | Sequence[str] | None = "order-A-1",
        body: bytes = b'{"n": 1}',
        *,
        method: str = "POST",
        path: str = "/orders",
        who: str | None = "ann",
        kind: str = "application/json",
        beside: Mapping[str, str] | None = None,
    ) -> Got:
        keys = [key] if isinstance(key, str) else key or []
        headers = [("Idempotency-Key", one) for one in keys] + [
            (name.title(), value) for name, value in (beside or {}).items()
        ]
        if who is not None:
            headers.append(("Authorization", f"Bearer {who}"))
        headers.append(("Content-Type", kind))
        return (self._by_asgi if self.kind == "asgi" else self._by_wsgi)(method, path, headers, body)

    def _by_asgi(self, method: str, path: str, headers: Headers, body: bytes) -> Got:
        sent: list[MutableMapping[str, Any]] = []
        coming = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> MutableMapping[str, Any]:
            return next(coming, {"type": "http.disconnect"})

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": raw}
        asyncio.run(self._asgi(scope, receive, send))
        names = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        return Got(sent[0]["status"], names, b"".join(message["body"] for message in sent[1:]))

    def _by_wsgi(self, method: str, path: str, headers: Headers, body: bytes) -> Got:
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": ""}
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        for name, value in headers:  # servers join what comes several times
            field_name = "CONTENT_TYPE" if name == "Content-Type" else f"HTTP_{name.upper().replace('-', '_')}"
            environ[field_name] = f"{environ[field_name]},{value}" if field_name in environ else value
        started: list[Any] = []
        given = self._wsgi(environ, lambda *given: started.append(given))
        try:
            told = b"".join(given)
        finally:
            getattr(given, "close", lambda: None)()
        status, names = started[-1]
        return Got(int(status.split()[0]), names, told)


def problem_of(got: Got) -> Mapping[str, Any]:
    """What a problem says."""
    found: Mapping[str, Any] = json.loads(got.body)
    return found
