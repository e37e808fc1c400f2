"""Approvals for whoever signed in to Flower: who they are, what they see, and what a form from elsewhere never does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from stageflow_durable.errors import InvalidInput, NotAllowed, StoreUnavailable
from stageflow_durable.model.run import Run
from stageflow_durable.model.status import RunStatus, StageState
from tests.cli.fakes import RUN_ID, run, stage
from tests.unit.web.flower_server import served
from tests.unit.web.requests import FakeEngine
from tests.unit.web.test_approvals import DIGEST, asks

RUN = f"{RUN_ID:0<26}"[:26]
PAGE = f"/runs/{RUN}/approvals/release"
BASIC: dict[str, Any] = {"basic_auth": ["ann:pa:ss", "max:word"]}
ANN, MAX = ("ann", "pa:ss"), ("max", "word")

Talk = Callable[[Any], Coroutine[Any, Any, Any]]


def asking(content: Any = None, **more: Any) -> Run:
    """A run that asks at ``release``."""
    asked = asks(content, **more)
    there = stage("release", StageState.WAITING, kind="approval", approval=asked)
    return run(RunStatus.WAITING, stage("check"), there, run_id=RUN, approval=asked)


@pytest.fixture(autouse=True)
def _asks(engine: FakeEngine) -> None:
    engine.run = asking()


def talk(engine: FakeEngine, how: Talk, prefix: str = "", **options: Any) -> Any:
    """What comes of a conversation with a Flower that was started with these options."""

    async def one() -> Any:
        async with served(engine, prefix, **options) as client:
            return await how(client)

    return asyncio.run(one())


def secret_of(page: Any) -> str:
    (found,) = re.findall('name="secret" value="(.*?)"', page.text)
    return str(found)


def hrefs(page: Any) -> list[str]:
    """Where a page leads, the way back last."""
    return re.findall('<a href="(.*?)">', page.text)


def form(secret: str, **more: str) -> dict[str, str]:
    return {"digest": DIGEST, "decision": "approve", "reason": "", "secret": secret, **more}


async def opened_and_sent(client: Any, as_: Any = ANN, page: str = PAGE, **more: str) -> Any:
    """The page is opened, and its form is sent."""
    shown = await client.get(page, auth=as_)
    return await client.post(page, auth=as_, data=form(secret_of(shown), **more))


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "mon.itor+"])
def test_the_list_leads_to_a_page_that_shows_what_is_asked_and_a_form(engine: FakeEngine, prefix: str) -> None:
    below = f"/{prefix}" if prefix else ""

    async def how(client: Any) -> Any:
        listed = await client.get(f"{below}/approvals", auth=ANN)
        (href,) = hrefs(listed)[:-1]
        page = await client.get(str(listed.url.join(href)), auth=ANN)
        back = [one.url.join(hrefs(one)[-1]).path for one in (listed, page)]
        return listed, page, back

    listed, page, back = talk(engine, how, prefix, **BASIC)
    assert back == [f"{below}/", f"{below}/approvals"]
    assert (listed.status_code, page.status_code) == (200, 200)
    assert "You are ann." in listed.text
    assert "checkout: release" in listed.text
    for shown in ("Approve release?", RUN, "&#34;amount&#34;: 42", f'value="{DIGEST}"', "May approve</dt><dd>ann<"):
        assert shown in page.text
    assert engine.decided == []
    for answer in (listed, page):
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_the_list_says_that_nothing_is_asked(engine: FakeEngine) -> None:
    engine.run = None
    assert "No run asks for anything" in talk(engine, lambda client: client.get("/approvals", auth=ANN), **BASIC).text


def test_a_stage_is_found_whatever_its_name_is(engine: FakeEngine) -> None:
    name = "free/ze ä?"
    asked = replace(asks(), stage=name)
    there = stage(name, StageState.WAITING, kind="approval", approval=asked)
    engine.run = run(RunStatus.WAITING, there, run_id=RUN, approval=asked)

    async def how(client: Any) -> Any:
        listed = await client.get("/approvals", auth=ANN)
        (href,) = hrefs(listed)[:-1]
        return await opened_and_sent(client, page=f"/{href}")

    assert talk(engine, how, **BASIC).status_code == 200
    assert [one["stage"] for one in engine.decided] == [name]


def test_what_others_wrote_cannot_act_on_the_pages(engine: FakeEngine) -> None:
    hostile = "</pre><script>alert(1)</script>\u202e"
    engine.run = replace(asking({hostile: hostile}), pipeline=hostile)

    async def how(client: Any) -> Any:
        return [(await client.get(path, auth=ANN)).text for path in ("/approvals", PAGE)]

    for page in talk(engine, how, **BASIC):
        assert "&lt;script&gt;" in page
        assert "<script" not in page
        assert "\u202e" not in page


def test_where_nobody_is_asked_who_they_are_nothing_is_decided_and_no_content_shown(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")

    async def how(client: Any) -> Any:
        return await client.get("/approvals"), await client.get(PAGE), await client.post(PAGE, data=form("x"))

    listed, page, sent = talk(engine, how)
    assert (listed.status_code, page.status_code, sent.status_code) == (200, 403, 403)
    assert "checkout: release" in listed.text
    for answer in (listed, page, sent):
        assert "--basic-auth" in answer.text
        assert "amount" not in answer.text
        assert "access-control-allow-origin" not in answer.headers
    assert engine.decided == []


@pytest.mark.parametrize("as_", [None, ("ann", "wrong"), ("eve", "pa:ss"), ("ann", "")])
@pytest.mark.parametrize(("method", "path"), [("GET", "/approvals"), ("GET", PAGE), ("POST", PAGE), ("HEAD", PAGE)])
def test_a_wrong_password_sees_and_does_nothing(engine: FakeEngine, method: str, path: str, as_: Any) -> None:
    answer = talk(engine, lambda client: client.request(method, path, auth=as_), **BASIC)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert ("release" in answer.text, engine.decided) == (False, [])


# --- deciding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("as_", "name"), [(ANN, "ann"), (MAX, "max")])
@pytest.mark.parametrize(("decision", "said"), [("approve", "You have approved it"), ("deny", "You have denied it")])
def test_the_form_decides_as_whoever_is_signed_in(
    engine: FakeEngine, as_: Any, name: str, decision: str, said: str
) -> None:
    answer = talk(engine, lambda client: opened_and_sent(client, as_, decision=decision, reason=" right "), **BASIC)
    assert (answer.status_code, said in answer.text) == (200, True)
    told = {"run": RUN, "stage": "release", "decision": decision, "digest": DIGEST, "reason": "right"}
    assert engine.decided == [{**told, "actor": name, "authenticated": "True"}]


def test_whom_flower_signed_in_by_oauth_decides_under_their_address(engine: FakeEngine) -> None:
    async def how(client: Any) -> Any:
        stranger = await client.get(PAGE)
        refused = await client.post(PAGE, data=form("x"))
        await client.get("/sign-in", params={"as": "ann@example.com"})
        return stranger, refused, await opened_and_sent(client, as_=None)

    stranger, refused, sent = talk(engine, how, auth=".*@example.com")
    assert (stranger.status_code, stranger.headers["location"].startswith("/login")) == (302, True)
    assert refused.status_code == 403
    assert sent.status_code == 200
    assert [(one["actor"], one["authenticated"]) for one in engine.decided] == [("ann@example.com", "True")]


def test_an_address_that_flower_does_not_let_in_decides_nothing(engine: FakeEngine) -> None:
    async def how(client: Any) -> Any:
        await client.get("/sign-in", params={"as": "eve@elsewhere.org"})
        return await client.get(PAGE)

    assert talk(engine, how, auth=".*@example.com").status_code == 302


def test_a_form_that_is_not_from_that_page_and_person_changes_nothing(engine: FakeEngine) -> None:
    async def how(client: Any) -> Any:
        shown = await client.get(PAGE, auth=ANN)
        other = await client.get(f"{PAGE}s", auth=ANN)
        mine = secret_of(shown)
        attempts = [(ANN, PAGE, ""), (ANN, PAGE, "forged"), (MAX, PAGE, mine), (ANN, f"{PAGE}s", mine)]
        attempts += [(ANN, PAGE, mine[:-1] + ("0" if mine[-1] != "0" else "1"))]
        assert other.status_code == 404
        return [(await client.post(path, auth=who, data=form(secret))).status_code for who, path, secret in attempts]

    assert talk(engine, how, **BASIC) == [403] * 5
    assert engine.decided == []


def test_a_form_is_too_old_after_a_day(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    async def how(client: Any) -> Any:
        shown = await client.get(PAGE, auth=ANN)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_401)
        return await client.post(PAGE, auth=ANN, data=form(secret_of(shown)))

    answer = talk(engine, how, **BASIC)
    assert (answer.status_code, "Open the page again" in answer.text, engine.decided) == (403, True, [])


def test_a_server_for_looking_only_shows_and_decides_nothing(engine: FakeEngine) -> None:
    async def how(client: Any) -> Any:
        return await client.get(PAGE, auth=ANN), await client.post(PAGE, auth=ANN, data=form("x"))

    shown, sent = talk(engine, how, read_only=True, **BASIC)
    assert (shown.status_code, sent.status_code, engine.decided) == (200, 403, [])
    assert "&#34;amount&#34;: 42" in shown.text
    assert "<form" not in shown.text


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (NotAllowed(RUN, "approve", "max is not among its approvers"), 409, "not among its approvers"),
        (InvalidInput("approve", ["digest: look again"]), 422, "digest: look again"),
        (StoreUnavailable("hunter2"), 503, "Open the page again: it says what was decided."),
        (RuntimeError("hunter2"), 500, "which has logged it"),
    ],
)
def test_what_is_not_taken_is_said(engine: FakeEngine, error: Exception, status: int, said: str) -> None:
    async def how(client: Any) -> Any:
        shown = await client.get(PAGE, auth=MAX)
        engine.error = error
        return await client.post(PAGE, auth=MAX, data=form(secret_of(shown), reason="typed <b>"))

    answer = talk(engine, how, **BASIC)
    assert (answer.status_code, said in answer.text) == (status, True)
    assert "hunter2" not in answer.text
    if status in (409, 422):
        assert secret_of(answer)  # it can be sent again
        assert ">typed &lt;b&gt;</textarea>" in answer.text


def test_neither_decision_is_refused_by_field(engine: FakeEngine) -> None:
    answer = talk(engine, lambda client: opened_and_sent(client, decision="maybe"), **BASIC)
    assert (answer.status_code, "decision: approve or deny" in answer.text) == (422, True)


@pytest.mark.parametrize("prefix", ["", "monitor"])
def test_the_list_is_found_with_a_slash_too(engine: FakeEngine, prefix: str) -> None:
    below = f"/{prefix}" if prefix else ""
    answer = talk(engine, lambda client: client.get(f"{below}/approvals/", auth=ANN), prefix, **BASIC)
    assert (answer.status_code, answer.headers["location"]) == (301, f"{below}/approvals")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", PAGE, 405),
        ("OPTIONS", PAGE, 405),
        ("POST", "/approvals", 405),
        ("GET", f"/runs/{'0' * 26}/approvals/release", 404),
        ("GET", f"/runs/{RUN}/approvals/check", 404),
        ("GET", f"/runs/{RUN}/approvals/gone", 404),
        ("POST", PAGE, 415),
    ],
)
def test_what_is_no_page_is_said(engine: FakeEngine, method: str, path: str, status: int) -> None:
    assert talk(engine, lambda client: client.request(method, path, auth=ANN), **BASIC).status_code == status


def test_a_large_form_is_not_taken(engine: FakeEngine) -> None:
    large = form("x", reason="x" * 20_000)
    assert talk(engine, lambda client: client.post(PAGE, auth=ANN, data=large), **BASIC).status_code == 413
    assert engine.decided == []


def test_where_the_database_is_away_the_list_says_so(engine: FakeEngine) -> None:
    engine.error = StoreUnavailable("postgresql://user:secret@host")
    answer = talk(engine, lambda client: client.get("/approvals", auth=ANN), **BASIC)
    assert (answer.status_code, "secret" in answer.text, "retry-after" in answer.headers) == (503, False, True)
