"""The pages about runs inside Flower: behind its sign-in, below its prefix, with a token of their own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from stageflow_durable import Pipeline
from stageflow_durable.model.status import RunStatus
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests
from tests.unit.web.flower_server import served

BASIC: dict[str, Any] = {"basic_auth": ["ann:pa:ss"]}
ANN = ("ann", "pa:ss")
Talk = Callable[[Any], Coroutine[Any, Any, Any]]


def fails(_ctx: Any) -> None:
    raise TypeError("a bug")


@pytest.fixture
def engine() -> Iterator[InProcessEngine]:
    clock = FakeClock()
    with engine_for_tests([Pipeline("checkout").stage("charge", fails)], store=MemoryStore(clock=clock.time)) as made:
        made.enqueue("checkout", {"order": "A-1"}, idempotency_key="order-A-1")
        made.drain()
        yield made


def talk(engine: Any, how: Talk, prefix: str = "", **options: Any) -> Any:
    async def one() -> Any:
        async with served(engine, prefix, **options) as client:
            return await how(client)

    return asyncio.run(one())


def token_of(page: Any) -> str:
    (found,) = re.findall('data-token="(.*?)"', page.text)
    return str(found)


@pytest.mark.parametrize("prefix", ["", "mon.itor+"])
def test_pages_scripts_and_json_stand_below_the_prefix(engine: InProcessEngine, prefix: str) -> None:
    below = f"/{prefix}" if prefix else ""
    run_id = engine.runs()[0].run_id

    async def how(client: Any) -> Any:
        paths = ("runs", f"runs/{run_id}", "stageflow/workers")
        pages = [await client.get(f"{below}/{path}", auth=ANN) for path in paths]
        scripts = [re.search('type="module" src="(.*?)"', page.text)[1] for page in pages]  # type: ignore[index]  # it is there
        assets = [await client.get(script) for script in scripts]
        return pages, assets, await client.get(f"{below}/api/stageflow/runs", auth=ANN)

    pages, assets, told = talk(engine, how, prefix, **BASIC)
    assert [page.status_code for page in pages] == [200] * 3
    assert [(asset.status_code, "javascript" in asset.headers["content-type"]) for asset in assets] == [(200, True)] * 3
    assert told.json()["runs"][0]["run_id"] == run_id
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=", page.text), "a policy without inline scripts"
        assert 'href="/' in page.text or below in page.text
        assert re.search(rf'href="{re.escape(below)}/runs"\s+aria-current="page"', page.text)


@pytest.mark.parametrize("as_", [None, ("ann", "wrong"), ("eve", "pa:ss")])
def test_a_wrong_password_sees_and_does_nothing(engine: InProcessEngine, as_: Any) -> None:
    run_id = engine.runs()[0].run_id
    paths = ("runs", f"runs/{run_id}", "api/stageflow/runs", "api/stageflow/live", f"api/stageflow/runs/{run_id}/live")

    async def how(client: Any) -> Any:
        looked = [await client.get(f"/{path}", auth=as_) for path in paths]
        return [*looked, await client.post(f"/api/stageflow/runs/{run_id}/resume", auth=as_, json={"reason": "x"})]

    for told in talk(engine, how, **BASIC):
        assert (told.status_code, "checkout" in told.text, "data-token" in told.text) == (401, False, False)
    assert engine.runs()[0].status is RunStatus.PARKED


def test_a_post_takes_the_token_of_a_page_whoever_sends_it(engine: InProcessEngine) -> None:
    run_id = engine.runs()[0].run_id
    path = f"/api/stageflow/runs/{run_id}/resume"

    async def how(client: Any) -> Any:
        token = token_of(await client.get("/runs", auth=ANN))

        async def send(**headers: str) -> int:
            sent = await client.post(path, auth=ANN, json={"reason": "mended"}, headers=headers)
            return int(sent.status_code)

        forged = [await send(), *[await send(**{"X-Stageflow-Token": one}) for one in ("x", token[:-1])]]
        form = await client.post(path, auth=ANN, data={"reason": "x"}, headers={"X-Stageflow-Token": token})
        return forged, form.status_code, await send(**{"X-Stageflow-Token": token})

    forged, form, sent = talk(engine, how, **BASIC)
    assert (forged, form, sent) == ([403] * 3, 415, 200)
    assert [event.data["actor"] for event in engine.history(run_id) if event.type == "operator.resume"] == ["ann"]


READ_ONLY = {**BASIC, "read_only": True}


@pytest.mark.parametrize(("options", "as_"), [({}, None), (READ_ONLY, ANN)], ids=["nobody", "read-only"])
def test_where_nobody_may_change_anything_pages_say_so_and_have_no_token(
    engine: InProcessEngine, options: dict[str, Any], as_: Any
) -> None:
    run_id = engine.runs()[0].run_id

    async def how(client: Any) -> Any:
        page = await client.get(f"/runs/{run_id}", auth=as_)
        told = await client.get(f"/api/stageflow/runs/{run_id}", auth=as_)
        sent = await client.post(f"/api/stageflow/runs/{run_id}/resume", auth=as_, json={"reason": "x"})
        return page, told, sent

    page, told, sent = talk(engine, how, **options)
    assert (token_of(page), 'data-cannot=""' in page.text, sent.status_code) == ("", False, 403)
    assert ("A-1" in told.json()["input"]["text"]) is bool(as_)


@pytest.mark.parametrize(("host", "status"), [("evil.example:80", 403), ("127.0.0.1:5555", 200), ("localhost", 200)])
def test_without_a_sign_in_pages_are_shown_under_this_machines_own_name_alone(
    engine: InProcessEngine, host: str, status: int
) -> None:
    """Else another site's name, made to mean this machine, would let that site's script read them."""

    async def how(client: Any) -> Any:
        paths = ("runs", "api/stageflow/runs", "api/stageflow/live?status=x", "approvals")
        return [(await client.get(f"/{path}", headers={"Host": host})).status_code for path in paths]

    refused = talk(engine, how)
    assert refused == [status, status, 422 if status == 200 else status, status]


def test_whoever_looks_is_told_of_changes_as_they_come(engine: InProcessEngine) -> None:
    run_id = engine.runs()[0].run_id

    async def how(client: Any) -> list[str]:
        seen: list[str] = []
        async with client.stream("GET", f"/api/stageflow/runs/{run_id}/live", auth=ANN) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line.removeprefix("data: "))["status"])
                    if len(seen) == 2:
                        return seen
                    await asyncio.to_thread(engine.resume, run_id, reason="again", actor="ann")
        return seen

    assert talk(engine, how, **BASIC) == ["parked", "running"]


def test_a_stream_that_is_asked_for_wrongly_is_refused(engine: InProcessEngine) -> None:
    async def how(client: Any) -> Any:
        paths = ("live?status=x", "runs/01J9F2QZ7KXV3M5N8P0R2T4W6Y/live")
        return [(await client.get(f"/api/stageflow/{path}", auth=ANN)).status_code for path in paths]

    assert talk(engine, how, **BASIC) == [422, 404]
