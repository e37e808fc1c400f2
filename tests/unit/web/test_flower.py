"""Flower's server with an engine's URLs: the same answers, below its prefix, and no token in its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from tests.unit.web.flower_server import served
from tests.unit.web.requests import LIMIT, FakeEngine
from tests.unit.web.test_approvals import DIGEST, asks, linked


@pytest.fixture(params=["", "mon.itor+", "/monitor/"], ids=["", "marks", "slashes"])
def asked(request: pytest.FixtureRequest, engine: FakeEngine) -> Callable[..., Any]:
    """Ask the server, below its prefix."""
    engine.linked = linked(asks())
    prefix = request.param.strip("/")
    below = f"/{prefix}" if prefix else ""

    def ask(method: str, path: str, **given: Any) -> Any:
        async def one() -> Any:
            async with served(engine, request.param) as client:
                return await client.request(method, below + path, **given)

        coroutine: Coroutine[Any, Any, Any] = one()
        return asyncio.run(coroutine)

    return ask


def test_a_callback_is_taken(asked: Callable[..., Any], engine: FakeEngine) -> None:
    answer = asked("POST", "/callbacks/TOKEN", json={"n": 1})
    assert (answer.status_code, engine.taken) == (200, [("TOKEN", b'{"n":1}')])


def test_a_link_is_opened_and_its_form_decides(asked: Callable[..., Any], engine: FakeEngine) -> None:
    page = asked("GET", "/approvals/TOKEN")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert DIGEST in page.text
    assert asked("HEAD", "/approvals/TOKEN").status_code == 200
    assert engine.decided == []
    done = asked("POST", "/approvals/TOKEN", data={"digest": DIGEST, "decision": "deny"})
    assert (done.status_code, [one["decision"] for one in engine.decided]) == (200, ["deny"])
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


def test_what_is_refused_under_other_servers_is_refused_here(asked: Callable[..., Any], engine: FakeEngine) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _part in range(LIMIT):
            yield b"12"

    json = {"content-type": "application/json"}
    assert asked("GET", "/callbacks/TOKEN").status_code == 405
    assert asked("POST", "/callbacks/TOKEN", data={"a": "b"}).status_code == 415
    assert asked("POST", "/callbacks/TOKEN", content=b"1" * (LIMIT + 1), headers=json).status_code == 413
    assert asked("POST", "/callbacks/TOKEN", content=parts(), headers=json).status_code == 413
    assert asked("PUT", "/approvals/TOKEN").status_code == 405
    assert asked("POST", "/callbacks/a/b", content=b"1", headers=json).status_code == 404
    assert (engine.taken, engine.decided) == ([], [])


def test_other_paths_are_flowers_own(asked: Callable[..., Any]) -> None:
    assert asked("GET", "/").text == "a page of Flower's"
    assert asked("GET", "/approval/x").text == "a page of Flower's"


def said_in(caplog: pytest.LogCaptureFixture) -> str:
    """What servers and the engine logged; the client's own lines aside."""
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "asyncio"))]
    return "\n".join(f"{record.getMessage()} {record.exc_text or record.exc_info or ''}" for record in ours)


def test_no_token_is_logged(asked: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    asked("GET", "/approvals/TOKEN")
    asked("PUT", "/approvals/TOKEN")
    asked("POST", "/callbacks/TOKEN", json=1)
    assert said_in(caplog).count("of a callback or a link") == 3
    assert "TOKEN" not in said_in(caplog)


def test_nor_where_the_handler_itself_fails(
    asked: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_given: Any) -> Any:
        raise RuntimeError("no thread is to be had")

    monkeypatch.setattr(asyncio, "to_thread", fails)
    assert asked("GET", "/approvals/TOKEN").status_code == 500
    assert "of a callback or a link (127.0.0.1) failed" in said_in(caplog)
    assert "TOKEN" not in said_in(caplog)
