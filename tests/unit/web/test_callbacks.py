"""The callbacks application under ASGI and under WSGI: what it takes, what it refuses, and with which words."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from stageflow_durable.errors import CallbackRefused, InvalidInput, StoreUnavailable, UnsavableValue
from stageflow_durable.web import callbacks
from tests.unit.web.requests import AT, LIMIT, Ask, Asked, FakeEngine, by_asgi


@pytest.mark.parametrize("mounted", ["", "/stageflow", "/callbacks"])
def test_what_is_posted_is_taken_wherever_it_is_mounted(ask: Ask, engine: FakeEngine, mounted: str) -> None:
    answer = ask(engine, Asked(mounted=mounted))
    assert engine.taken == [("TOKEN", b'{"n": 1}')]
    assert (answer.status, answer.said) == (200, {"received_at": AT.isoformat(), "replayed": False})


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"])
def test_kinds_of_json_are_taken(ask: Ask, engine: FakeEngine, kind: str) -> None:
    assert ask(engine, Asked(content_type=kind)).status == 200


def test_nothing_at_all_is_taken(ask: Ask, engine: FakeEngine) -> None:
    assert ask(engine, Asked(body=b"", content_type=None)).status == 200
    assert engine.taken == [("TOKEN", b"")]


def test_the_same_again_says_so(ask: Ask, engine: FakeEngine) -> None:
    engine.replayed = True
    assert ask(engine, Asked()).said["replayed"] is True


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (Asked(method="GET"), 405),
        (Asked(method="HEAD"), 405),
        (Asked(method="OPTIONS"), 405),
        (Asked(path="/"), 404),
        (Asked(path=""), 404),
        (Asked(path="/callbacks"), 404),
        (Asked(path="/callbacks/"), 404),
        (Asked(path="/callbacks/a/b"), 404),
        (Asked(path="/other/TOKEN"), 404),
        (Asked(path="/x/callbacks/TOKEN"), 404),
        (Asked(content_type="text/plain"), 415),
        (Asked(content_type=None), 415),
        (Asked(content_type="application/x-www-form-urlencoded"), 415),
        (Asked(body=b"1" * (LIMIT + 1)), 413),
        (Asked(length=str(LIMIT + 1)), 413),
        (Asked(length="many"), 400),
        (Asked(length="-1"), 400),
        (Asked(length="٣"), 400),
    ],
)
def test_what_is_no_callback_is_refused_before_the_engine_is_asked(
    ask: Ask, engine: FakeEngine, asked: Asked, status: int
) -> None:
    answer = ask(engine, asked)
    assert (answer.status, engine.taken) == (status, [])
    if asked.method != "HEAD":
        assert answer.said["status"] == status
        assert answer.headers["Content-Type"] == "application/problem+json"
    else:
        assert answer.body == b""
    if status == 405:
        assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CallbackRefused("", "", "forged", "why"), 404),
        (CallbackRefused("01J9", "render", "late", "why"), 410),
        (CallbackRefused("01J9", "render", "conflict", "why"), 409),
        (InvalidInput("payload of render", ["frames: too many"]), 422),
        (UnsavableValue("payload", "what"), 422),
        (StoreUnavailable("postgresql://user:secret@host"), 503),
        (RuntimeError("secret"), 500),
    ],
)
def test_what_the_engine_refuses_is_a_problem_without_secrets(
    ask: Ask, engine: FakeEngine, error: Exception, status: int
) -> None:
    engine.error = error
    answer = ask(engine, Asked())
    assert (answer.status, answer.said["status"]) == (status, status)
    assert b"secret" not in answer.body
    assert b"01J9" not in answer.body
    assert b"TOKEN" not in answer.body
    assert ("Retry-After" in answer.headers) is (status == 503)
    assert answer.said.get("errors") == (
        ["frames: too many"] if isinstance(error, InvalidInput) else answer.said.get("errors")
    )


def test_no_token_is_logged(ask: Ask, engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    ask(engine, Asked())
    for engine.error in (CallbackRefused("01J9", "render", "late", "why"), RuntimeError("why")):
        ask(engine, Asked())
    assert "render" in caplog.text
    assert "TOKEN" not in caplog.text


@pytest.mark.parametrize("asked", [Asked(), Asked(method="GET"), Asked(path="/"), Asked(content_type="text/html")])
def test_every_response_is_kept_by_nobody_and_loads_nothing(ask: Ask, engine: FakeEngine, asked: Asked) -> None:
    headers = ask(engine, asked).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert int(headers["Content-Length"]) > 0


# --- ASGI alone -------------------------------------------------------------------------------------------------------


def test_a_body_in_parts_is_put_together_and_bounded(engine: FakeEngine) -> None:
    assert by_asgi(engine, Asked(body=b"1" * 100, chunks=7, length=None)).status == 200
    assert engine.taken == [("TOKEN", b"1" * 100)]
    assert by_asgi(engine, Asked(body=b"1" * (LIMIT + 1), chunks=7, length=None)).status == 413


def test_a_path_that_a_server_has_cut_is_taken_as_well(engine: FakeEngine) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/callbacks/TOKEN", "root_path": "/stageflow", "headers": []}
    asyncio.run(callbacks.asgi_app(engine)(scope, receive, send))
    assert sent[0]["status"] == 200


def _listening(*messages: Any) -> tuple[Any, list[MutableMapping[str, Any]]]:
    coming: Iterator[Any] = iter(messages)
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        message = next(coming, None)
        if message is None:
            await asyncio.sleep(60)
            raise AssertionError("nobody waits for so long")
        return {"type": message} if isinstance(message, str) else dict(message)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    return (receive, send), sent


POST = {"type": "http", "method": "POST", "path": "/callbacks/TOKEN", "headers": []}


def test_a_body_that_does_not_come_is_not_waited_for(engine: FakeEngine) -> None:
    channels, sent = _listening({"type": "http.request", "body": b"{", "more_body": True})
    asyncio.run(callbacks.asgi_app(engine, read_seconds=0.05)(POST, *channels))
    assert (sent[0]["status"], engine.taken) == (408, [])


def test_a_client_that_has_gone_gets_nothing_and_ends_nothing(engine: FakeEngine) -> None:
    channels, sent = _listening({"type": "http.request", "body": b"{", "more_body": True}, "http.disconnect")
    asyncio.run(callbacks.asgi_app(engine)(POST, *channels))
    assert (sent, engine.taken) == ([], [])


def test_it_starts_and_ends_with_its_server_and_speaks_no_websocket(engine: FakeEngine) -> None:
    channels, sent = _listening("lifespan.startup", "lifespan.shutdown")
    asyncio.run(callbacks.asgi_app(engine)({"type": "lifespan"}, *channels))
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    channels, sent = _listening("websocket.connect")
    asyncio.run(callbacks.asgi_app(engine)({"type": "websocket", "path": "/callbacks/TOKEN"}, *channels))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- WSGI alone -------------------------------------------------------------------------------------------------------


def _wsgi(engine: FakeEngine, **environ: Any) -> int:
    given = {"REQUEST_METHOD": "POST", "PATH_INFO": "/callbacks/TOKEN", "CONTENT_TYPE": "application/json"}
    started: list[Any] = []
    callbacks.wsgi_app(engine)({**given, "wsgi.input": io.BytesIO(b"12"), **environ}, lambda *one: started.append(one))
    return int(started[0][0].split()[0])


def test_a_body_of_unknown_length_is_read_only_where_the_server_ends_it(engine: FakeEngine) -> None:
    assert _wsgi(engine, HTTP_TRANSFER_ENCODING="chunked") == 411
    assert engine.taken == []
    assert _wsgi(engine, HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input_terminated": True}) == 200
    assert engine.taken == [("TOKEN", b"12")]
    large = io.BytesIO(b"1" * (LIMIT + 1))
    assert _wsgi(engine, **{"wsgi.input_terminated": True, "wsgi.input": large}) == 413


def test_a_body_that_is_cut_off_ends_nothing(engine: FakeEngine) -> None:
    assert _wsgi(engine, CONTENT_LENGTH="3") == 400
    assert engine.taken == []
