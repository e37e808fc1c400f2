"""Serves links to approvals: ``/approvals/TOKEN`` shows what a run asks for; the form on that page approves or denies.

GET and HEAD change nothing: mail scanners and previews open every link that they see.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Literal, Protocol

from stageflow_durable.engine.approval_links import PATH
from stageflow_durable.errors import LinkRefused, SchemaBehind, StoreUnavailable
from stageflow_durable.masking import masking
from stageflow_durable.model.run import OpenedApproval, RunSummary
from stageflow_durable.transitions.approval import DECISIONS
from stageflow_durable.web import pages
from stageflow_durable.web.http import Refused, Request, Response, problem

log = masking(logging.getLogger("stageflow.web"))

_REFUSED = {
    "forged": (HTTPStatus.NOT_FOUND, "There is no such link", "Check that the whole link was copied."),
    "used": (HTTPStatus.GONE, "This link was used", "It decides once: what was decided by it is recorded, and counts."),
    "expired": (HTTPStatus.GONE, "This link has expired", "Ask whoever sent it for a new one."),
    "gone": (HTTPStatus.GONE, "There is nothing to decide", "Nothing asks this any more here."),
    "withdrawn": (HTTPStatus.GONE, "This link was withdrawn", "Who may approve was changed since it was made."),
}


class Decider(Protocol):
    """What is needed of an engine."""

    def open_approval_link(self, token: str) -> OpenedApproval:
        """What whoever opens a link sees."""

    def decide_by_link(
        self, token: str, decision: Literal["approve", "deny"], *, digest: str, reason: str
    ) -> RunSummary:
        """Decide as the person whom a link was made for."""


def is_link(path: str) -> bool:
    """Whether this is the path of a link to an approval."""
    return path.startswith(f"/{PATH}/")


def look(request: Request) -> int:
    """Refuse what is no request for a page before its body is read; returns how many bytes that may have."""
    if request.method in ("GET", "HEAD"):
        return 0
    if request.method == "POST":
        return pages.FORM_BYTES
    allowed = "GET, HEAD, POST"
    raise Refused(problem(HTTPStatus.METHOD_NOT_ALLOWED, "a link is opened, and its form is sent", Allow=allowed))


def respond(engine: Decider, request: Request) -> Response:
    """The page of a link, or what becomes of its form."""
    token = request.path.removeprefix(f"/{PATH}/")
    try:
        return _respond(engine, token, request)
    except Refused:
        raise
    except Exception:
        log.exception("a link to an approval could not be served")  # without its path, which holds a token
        return pages.an_error()


def _respond(engine: Decider, token: str, request: Request) -> Response:
    try:
        if request.method != "POST":
            return pages.page(HTTPStatus.OK, engine.open_approval_link(token))
        return _decide(engine, token, request)
    except LinkRefused as refused:
        status, title, why = _REFUSED[refused.reason]
        return pages.message(status, title, why)
    except (StoreUnavailable, SchemaBehind):
        return pages.not_now("Nothing was changed. Try again in a moment.")


def _decide(engine: Decider, token: str, request: Request) -> Response:
    form = pages.fields_of(request)
    opened = engine.open_approval_link(token)  # what the page says besides

    def record(decision: Any, digest: str, reason: str) -> RunSummary:
        return engine.decide_by_link(token, decision, digest=digest, reason=reason)

    decided, response = pages.decide(
        form,
        opened,
        record,
        lambda: engine.open_approval_link(token),
        no_reason="decided by link",
        no_answer="Open the link again: if it was used, it was.",
    )
    if decided:
        log.info("run %s: stage %s was %s by link", opened.run_id, opened.stage.name, DECISIONS[form["decision"]])
    return response
