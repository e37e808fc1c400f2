"""Whoever opens a link while a worker is about to ask, or died doing so, is told to come back, not that it is over."""

from __future__ import annotations

from stageflow_durable import Engine, Pipeline
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from stageflow_durable.web.approvals import respond
from stageflow_durable.web.http import Request

PAID = Pipeline("paid").approve("release", of=lambda ctx: {"cents": 1}).stage("pay", lambda ctx: None)
URL, KEY = "https://shop.example.com", "the audit key of this test"


def opened(engine: Engine, token: str) -> tuple[int, str]:
    page = respond(engine, Request("GET", f"/approvals/{token}"))
    return int(page.status), page.body.decode().partition("<h1>")[2].partition("</h1>")[0]


def test_a_link_that_is_opened_while_a_worker_is_about_to_ask_says_that_nothing_is_asked_yet() -> None:
    with engine_for_tests([PAID], store="memory", public_url=URL, audit_key=KEY) as engine:
        assert isinstance(engine, InProcessEngine)
        run = engine.enqueue("paid", {})
        token = engine.approval_link(run.run_id, "release", to="ann").rpartition("/")[2]
        engine.faults.at("before", "ask")  # its worker dies
        engine.work()
        assert engine.crashes == 1
        assert opened(engine, token) == (200, "Nothing is asked yet")
        engine.advance(engine.settings.lease_seconds + 1)
        engine.sweep()
        engine.work()
        assert opened(engine, token) == (200, "Approve release?")
