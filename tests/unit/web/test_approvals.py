"""The pages of links to approvals: what a person sees, what the form does, and what opening a link never does."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from stageflow_durable.errors import InvalidInput, LinkRefused, NotAllowed, StoreUnavailable
from stageflow_durable.model.run import ApprovalView, OpenedApproval
from stageflow_durable.model.status import RunStatus, StageState
from tests.cli.fakes import stage
from tests.unit.web.requests import AT, Answer, Ask, Asked, FakeEngine, by_asgi

DIGEST = "ab" * 32
LINK = "/approvals/TOKEN"
FORM = "application/x-www-form-urlencoded"


def linked(asked: Any = None, state: StageState = StageState.WAITING, **more: Any) -> OpenedApproval:
    """What the engine says of a link."""
    there = stage("release", state, approval=asked)
    given = {"status": RunStatus.WAITING, **more}
    return OpenedApproval("01J9", "refunds", there, "ann", AT, **given)


def asks(content: Any = None, **more: Any) -> ApprovalView:
    return ApprovalView("release", 1, content or {"amount": 42}, DIGEST, ("ann",), AT, **more)


@pytest.fixture(autouse=True)
def _linked(engine: FakeEngine) -> None:
    engine.linked = linked(asks())


def opened(method: str = "GET", path: str = LINK) -> Asked:
    return Asked(method=method, path=path, body=b"", content_type=None, length=None)


def sent(path: str = LINK, body: bytes | None = None, **fields: str) -> Asked:
    """The form, as a browser sends it."""
    given = {"digest": DIGEST, "decision": "approve", "reason": "", **fields}
    return Asked(path=path, body=urlencode(given).encode() if body is None else body, content_type=FORM)


def title(answer: Answer) -> str:
    """What the page says first."""
    found = re.search("<h1>(.*?)</h1>", answer.body.decode())
    assert found is not None
    return found[1]


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mounted", ["", "/stageflow", "/approvals"])
def test_the_page_shows_what_is_asked_and_a_form(ask: Ask, engine: FakeEngine, mounted: str) -> None:
    answer = ask(engine, opened()._replace(mounted=mounted))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = answer.body.decode()
    for shown in ("Approve release?", "refunds", "01J9", "ann", "&#34;amount&#34;: 42", f'value="{DIGEST}"'):
        assert shown in page
    assert re.findall('name="decision" value="(.*?)"', page) == ["approve", "deny"]
    assert "action=" not in page  # it is sent to the link itself, wherever that is mounted


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_opening_it_decides_nothing(ask: Ask, engine: FakeEngine, method: str) -> None:
    for _prefetched in range(3):
        answer = ask(engine, opened(method))
        assert answer.status == 200
        assert (answer.body == b"") is (method == "HEAD")
    assert engine.decided == []


def test_what_others_wrote_cannot_act_on_the_page_or_hide_in_it(ask: Ask, engine: FakeEngine) -> None:
    hostile = "</pre><script>alert(1)</script>\u202e"
    engine.linked = replace(linked(asks({hostile: [hostile]})), pipeline=hostile, actor=hostile)
    page = ask(engine, opened()).body.decode()
    assert "<script" not in page
    assert "\u202e" not in page
    assert page.count("&lt;script&gt;") == 4
    engine.error = NotAllowed("01J9", "approve", hostile)
    assert "<script" not in ask(engine, sent()).body.decode()


def test_values_that_json_does_not_have_are_shown(ask: Ask, engine: FakeEngine) -> None:
    engine.linked = linked(asks({"at": AT, 1: {"x"}, "raw": b"\x00", "none": None, "nan": float("nan")}))
    answer = ask(engine, opened())
    assert (answer.status, title(answer)) == (200, "Approve release?")
    assert b"2026-01-01T00:00:00.000000Z" in answer.body


@pytest.mark.parametrize(
    ("seen", "status", "said", "why"),
    [
        (
            linked(None, StageState.PENDING, status=RunStatus.RUNNING),
            200,
            "Nothing is asked now",
            "Open it again later",
        ),
        (
            linked(None, StageState.RUNNING, status=RunStatus.RUNNING),
            200,
            "Nothing is asked now",
            "Open it again later",
        ),
        (linked(asks(open=False), status=RunStatus.PARKED), 200, "Nothing is asked now", "The run is parked"),
        (
            linked(asks(decision="denied", actor="bob", open=False), StageState.PENDING, status=RunStatus.RUNNING),
            *(200, "Nothing is asked now", "Open it again later"),
        ),
        (linked(None, StageState.PENDING, status=RunStatus.CANCELLED), 409, "There is nothing to decide", "in time"),
        (linked(asks(), StageState.FAILED, status=RunStatus.COMPENSATED), 409, "There is nothing to decide", "in time"),
        (
            linked(asks(open=False), StageState.SKIPPED, status=RunStatus.RUNNING),
            *(409, "There is nothing to decide", "Nobody decided in time"),
        ),
        (linked(asks(decision="denied", actor="bob")), 409, "It is denied already", "By bob."),
        (
            linked(asks(decision="approved", actor="bob", open=False), StageState.OK, status=RunStatus.SUCCEEDED),
            *(409, "It is approved already", "By bob."),
        ),
    ],
)
def test_where_nothing_is_to_be_decided_the_page_says_so_and_has_no_form(
    ask: Ask, engine: FakeEngine, seen: OpenedApproval, status: int, said: str, why: str
) -> None:
    engine.linked = seen
    answer = ask(engine, opened())
    assert (answer.status, title(answer)) == (status, said)
    assert why in answer.body.decode()
    assert b"<form" not in answer.body


@pytest.mark.parametrize("status", [RunStatus.WAITING, RunStatus.RUNNING, RunStatus.PARKED])
def test_what_is_open_is_asked_also_while_the_run_is_parked_or_a_worker_looks_again(
    ask: Ask, engine: FakeEngine, status: RunStatus
) -> None:
    engine.linked = linked(asks(), StageState.PENDING, status=status)
    assert b"<form" in ask(engine, opened()).body
    said = ask(engine, sent()).body.decode()
    assert ("once somebody has resumed the run" in said) is (status is RunStatus.PARKED)


# --- deciding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decision", "said"), [("approve", "You have approved it"), ("deny", "You have denied it")])
def test_the_form_decides(ask: Ask, engine: FakeEngine, decision: str, said: str) -> None:
    answer = ask(engine, sent(decision=decision, reason=" it is right "))
    assert (answer.status, title(answer)) == (200, said)
    assert engine.decided == [{"token": "TOKEN", "decision": decision, "digest": DIGEST, "reason": "it is right"}]


def test_without_a_reason_the_history_says_that_it_was_by_link(ask: Ask, engine: FakeEngine) -> None:
    ask(engine, sent(reason="  "))
    assert [one["reason"] for one in engine.decided] == ["decided by link"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (sent()._replace(content_type="application/json"), 415),
        (sent()._replace(content_type=None), 415),
        (sent()._replace(content_type="multipart/form-data; boundary=x"), 415),
        (sent(body=b"a=1&" * 11), 400),
        (sent(body=b"nothing"), 400),
        (sent(body=b"\xff=1"), 400),
        (sent(body=b"decision=approve&decision=deny"), 400),
        (sent(reason="x" * 20_000), 413),
        (opened("PUT"), 405),
        (opened("DELETE"), 405),
        (opened("OPTIONS"), 405),
        (opened("POST"), 415),
    ],
)
def test_what_is_no_form_decides_nothing(ask: Ask, engine: FakeEngine, asked: Asked, status: int) -> None:
    answer = ask(engine, asked)
    assert (answer.status, engine.decided) == (status, [])
    if status == 405:
        assert answer.headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (NotAllowed("01J9", "approve", "look again"), 409, "look again"),
        (InvalidInput("link", ["decision: approve or deny"]), 422, "decision: approve or deny"),
    ],
)
def test_what_is_not_taken_is_said_on_the_page_that_asks(
    ask: Ask, engine: FakeEngine, error: Exception, status: int, said: str
) -> None:
    engine.error = error
    answer = ask(engine, sent(reason="typed <b>"))
    assert (answer.status, title(answer)) == (status, "Approve release?")
    assert said in answer.body.decode()
    assert b'role="alert"' in answer.body
    assert b">typed &lt;b&gt;</textarea>" in answer.body  # nobody has to type it again


@pytest.mark.parametrize("asked", [opened(), sent()], ids=["opened", "sent"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LinkRefused("", "", "forged", "why"), 404),
        (LinkRefused("01J9", "release", "used", "why"), 410),
        (LinkRefused("01J9", "release", "expired", "why"), 410),
        (LinkRefused("01J9", "", "gone", "why"), 410),
        (LinkRefused("01J9", "release", "withdrawn", "why"), 410),
        (StoreUnavailable("postgresql://user:secret@host"), 503),
        (RuntimeError("secret"), 500),
    ],
)
def test_a_link_that_is_refused_is_a_page_without_secrets(
    ask: Ask, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, asked: Asked, error: Exception, status: int
) -> None:
    def raised(token: str) -> OpenedApproval:
        raise error

    monkeypatch.setattr(engine, "open_approval_link", raised)
    answer = ask(engine, asked)
    assert (answer.status, engine.decided) == (status, [])
    for secret in (b"secret", b"01J9", b"TOKEN", b"why"):
        assert secret not in answer.body
    assert ("Retry-After" in answer.headers) is (status == 503)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_where_no_answer_came_to_a_decision_nobody_says_that_nothing_was_changed(ask: Ask, engine: FakeEngine) -> None:
    engine.error = StoreUnavailable("the answer to the commit was lost")
    answer = ask(engine, sent())
    assert answer.status == 503
    assert b"Nobody knows whether your decision was recorded. Open the link again" in answer.body
    assert b"Nothing was changed" not in answer.body


def test_a_form_that_comes_before_anything_is_asked_is_no_success(ask: Ask, engine: FakeEngine) -> None:
    engine.linked = linked(None, StageState.PENDING, status=RunStatus.RUNNING)
    engine.error = NotAllowed("01J9", "approve", "it does not ask yet")
    assert ask(engine, sent()).status == 409


@pytest.mark.parametrize(("zeros", "most"), [(100_000, 400_000), (5000, 70_000), (2, 40_000)])
def test_however_deep_and_wide_the_content_is_the_page_is_not_much_larger(
    ask: Ask, engine: FakeEngine, zeros: int, most: int
) -> None:
    content: Any = [0] * zeros
    for _level in range(90):
        content = [content]
    engine.linked = linked(asks(content))
    assert len(ask(engine, opened()).body) < most


@pytest.mark.parametrize("path", ["/approvals", "/approvals/", "/approvals/a/b", "/x/approvals/TOKEN"])
def test_other_paths_are_none_of_ours(ask: Ask, engine: FakeEngine, path: str) -> None:
    engine.linked = None  # the token that such a path would name was not made here
    answer = ask(engine, opened(path=path))
    assert (answer.status, engine.decided) == (404, [])


def test_the_page_is_kept_by_nobody_framed_by_nobody_and_loads_nothing(ask: Ask, engine: FakeEngine) -> None:
    headers = ask(engine, opened()).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    for said in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert said in policy
    assert "unsafe" not in policy


def test_its_style_is_the_one_that_the_policy_allows(engine: FakeEngine) -> None:
    from base64 import b64encode
    from hashlib import sha256

    answer = by_asgi(engine, opened())
    found = re.search("<style>(.*?)</style>", answer.body.decode(), re.DOTALL)
    assert found is not None
    allowed = b64encode(sha256(found[1].encode()).digest()).decode()
    assert f"'sha256-{allowed}'" in answer.headers["Content-Security-Policy"]


def test_no_token_is_logged(ask: Ask, engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for asked in (opened(), sent()):
        ask(engine, asked)
    engine.error = RuntimeError("why")
    ask(engine, sent())
    assert "release was approved by link" in caplog.text
    assert "TOKEN" not in caplog.text
