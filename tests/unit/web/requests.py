"""Requests to the applications that serve an engine's URLs, put as a server under ASGI and one under WSGI put them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stageflow_durable.engine.actors import Actor
from stageflow_durable.errors import LinkRefused, UnknownRun
from stageflow_durable.model.run import CallbackReceipt, OpenedApproval, Run, RunSummary
from stageflow_durable.model.status import RunStatus
from stageflow_durable.settings import Settings
from stageflow_durable.web import callbacks
from tests.cli.fakes import run

AT = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT = 1024


class FakeEngine:
    """Takes what is sent, or raises ``error``."""

    def __init__(self) -> None:
        self.settings = Settings(max_payload_bytes=LIMIT)
        self.taken: list[tuple[str, bytes]] = []
        self.error: Exception | None = None
        self.replayed = False
        self.linked: OpenedApproval | None = None
        self.decided: list[dict[str, str]] = []
        self.run: Run | None = None

    def receive_callback(self, token: str, body: bytes) -> CallbackReceipt:
        if self.error is not None:
            raise self.error
        self.taken.append((token, body))
        return CallbackReceipt("01J9", "render", AT, self.replayed)

    def open_approval_link(self, token: str) -> OpenedApproval:
        if self.linked is None:
            raise LinkRefused("", "", "forged", "why")
        return self.linked

    def decide_by_link(self, token: str, decision: str, *, digest: str, reason: str) -> RunSummary:
        if self.error is not None:
            raise self.error
        self.decided.append({"token": token, "decision": decision, "digest": digest, "reason": reason})
        return run(RunStatus.RUNNING)

    def unapproved(self) -> list[RunSummary]:
        if self.error is not None:
            raise self.error
        return [] if self.run is None else [self.run]

    def handle(self, run_id: str) -> FakeEngine:
        if self.run is None or run_id != self.run.run_id:
            raise UnknownRun(f"no run {run_id}")
        return self

    def describe(self) -> Run:
        assert self.run is not None
        return self.run

    def approve(self, run_id: str, stage: str, *, digest: str, reason: str, actor: Actor) -> RunSummary:
        return self._decide("approve", run_id, stage, digest, reason, actor)

    def deny(self, run_id: str, stage: str, *, digest: str, reason: str, actor: Actor) -> RunSummary:
        return self._decide("deny", run_id, stage, digest, reason, actor)

    def _decide(self, decision: str, run_id: str, stage: str, digest: str, reason: str, actor: Actor) -> RunSummary:
        if self.error is not None:
            raise self.error
        by = {"actor": actor.name, "authenticated": str(actor.authenticated)}
        told = {"run": run_id, "stage": stage, "decision": decision, "digest": digest, "reason": reason}
        self.decided.append({**told, **by})
        return run(RunStatus.RUNNING)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)


class Asked(NamedTuple):
    """A request, as a test puts it."""

    method: str = "POST"
    path: str = "/callbacks/TOKEN"
    body: bytes = b'{"n": 1}'
    content_type: str | None = "application/json"
    length: str | None = "right"
    mounted: str = ""
    chunks: int = 1


def by_asgi(engine: FakeEngine, asked: Asked, read_seconds: float = 5.0) -> Answer:
    sent: list[MutableMapping[str, Any]] = []
    headers = [] if asked.content_type is None else [(b"content-type", asked.content_type.encode())]
    if asked.length is not None:
        headers.append(
            (b"Content-Length", (str(len(asked.body)) if asked.length == "right" else asked.length).encode())
        )
    size = max(1, -(-len(asked.body) // asked.chunks))
    parts = [asked.body[at : at + size] for at in range(0, len(asked.body), size)] or [b""]
    coming = iter([{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts])

    async def receive() -> MutableMapping[str, Any]:
        return next(coming)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    path = asked.mounted + asked.path
    scope = {"type": "http", "method": asked.method, "path": path, "root_path": asked.mounted, "headers": headers}
    asyncio.run(callbacks.asgi_app(engine, read_seconds=read_seconds)(scope, receive, send))
    start, body = sent
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    assert all(name == name.lower() for name in names)
    return Answer(start["status"], {name.title(): value for name, value in names.items()}, body["body"])


def by_wsgi(engine: FakeEngine, asked: Asked) -> Answer:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": asked.method,
        "PATH_INFO": asked.path,
        "SCRIPT_NAME": asked.mounted,
        "wsgi.input": io.BytesIO(asked.body),
    }
    if asked.content_type is not None:
        environ["CONTENT_TYPE"] = asked.content_type
    if asked.length is not None:
        environ["CONTENT_LENGTH"] = str(len(asked.body)) if asked.length == "right" else asked.length
    started: list[Any] = []
    body = b"".join(callbacks.wsgi_app(engine)(environ, lambda *given: started.append(given)))
    [(status, headers)] = started
    return Answer(int(status.split()[0]), {name.title(): value for name, value in headers}, body)


Ask = Callable[[FakeEngine, Asked], Answer]
