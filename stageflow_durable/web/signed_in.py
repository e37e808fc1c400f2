"""Approvals for whoever is signed in: ``/approvals`` lists what runs ask for, ``/runs/RUN/approvals/STAGE`` shows one,
with a form that approves or denies it.

Who somebody is comes from the server that serves this; its sign-in is in a cookie or a header, which a browser sends
whoever made the form. So the form holds a secret of that person and page.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

from stageflow_durable.engine.actors import Actor
from stageflow_durable.errors import InvalidInput, SchemaBehind, StoreUnavailable, UnknownRun
from stageflow_durable.masking import masking
from stageflow_durable.model.plan import APPROVAL
from stageflow_durable.model.run import OpenedApproval, Run, RunSummary
from stageflow_durable.transitions.approval import DECISIONS
from stageflow_durable.web import pages
from stageflow_durable.web.http import Refused, Request, Response, problem

log = masking(logging.getLogger("stageflow.web"))

LIST = "approvals"
"""The path of the list."""

ONE = r"runs/[0-9A-Z]{26}/approvals/[^/]+"
"""The paths of the pages, as a regular expression."""

_PATH = re.compile(r"/runs/(?P<run>[0-9A-Z]{26})/approvals/(?P<stage>[^/]+)", re.ASCII)


class Handle(Protocol):
    """What is needed of a handle on a run."""

    def describe(self) -> Run:
        """The run in full."""


class Decider(Protocol):
    """What is needed of an engine."""

    def handle(self, run_id: str) -> Handle:
        """A handle on a run."""

    def unapproved(self) -> list[RunSummary]:
        """Runs that ask somebody to approve."""

    def approve(self, run_id: str, stage: str, *, digest: str, reason: str, actor: Actor) -> RunSummary:
        """Approve what a stage asks for."""

    def deny(self, run_id: str, stage: str, *, digest: str, reason: str, actor: Actor) -> RunSummary:
        """Deny it."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks. ``name``: as whom they signed in; None: the server asks nobody who they are, so that they see which
    runs ask, but not what, and decide nothing. ``read_only``: nobody decides on this server. ``secret``: what a form
    on a page has to send back, by its path; ``is_secret``: whether that is what was sent.
    """

    name: str | None
    read_only: bool
    secret: Callable[[str], str]
    is_secret: Callable[[str, str], bool]

    @property
    def cannot(self) -> str | None:
        """Why they decide nothing here; None: they may, if the run says so."""
        if self.name is None:
            return (
                "This server asks nobody who they are, so what is asked is not shown, and nothing is decided here. "
                "Start Flower with a sign-in (--basic-auth or --auth), or use stageflow show and stageflow approve."
            )
        return "This server is for looking only (--read-only)." if self.read_only else None


def look(request: Request) -> int:
    """Refuse what is no request for a page before its body is read; returns how many bytes that may have."""
    is_one = _PATH.fullmatch(request.path) is not None
    if request.method in ("GET", "HEAD"):
        return 0
    if request.method == "POST" and is_one:
        return pages.FORM_BYTES
    allowed = "GET, HEAD, POST" if is_one else "GET, HEAD"
    raise Refused(problem(HTTPStatus.METHOD_NOT_ALLOWED, "this page is opened, and its form is sent", Allow=allowed))


def respond(engine: Decider, visitor: Visitor, request: Request) -> Response:
    """The list, a page, or what becomes of its form."""
    try:
        found = _PATH.fullmatch(request.path)
        if found is None:
            return _list(engine, visitor)
        run_id, stage = found["run"], unquote(found["stage"])
        if request.method != "POST":
            return _page(engine, visitor, run_id, stage, request)
        return _decide(engine, visitor, run_id, stage, request)
    except UnknownRun:
        return pages.message(HTTPStatus.NOT_FOUND, "There is no such run", "It may have been deleted.")
    except (StoreUnavailable, SchemaBehind):
        return pages.not_now("Nothing was changed. Try again in a moment.")
    except Refused:
        raise
    except Exception:
        log.exception("%s could not be served", request.path)
        return pages.an_error()


_MOST = 100  # as the store gives


def _list(engine: Decider, visitor: Visitor) -> Response:
    return pages.listed(engine.unapproved(), who=visitor.name, why=visitor.cannot, most=_MOST)


def _page(engine: Decider, visitor: Visitor, run_id: str, stage: str, request: Request) -> Response:
    if visitor.name is None:
        return pages.message(HTTPStatus.FORBIDDEN, "Sign in to see what is asked", str(visitor.cannot))
    opened = _open(engine, visitor.name, run_id, stage)
    if visitor.read_only:
        return pages.page(HTTPStatus.OK, opened, visitor.cannot, form=False)
    return pages.page(HTTPStatus.OK, opened, secret=visitor.secret(request.path))


def _open(engine: Decider, name: str, run_id: str, stage: str) -> OpenedApproval:
    """What is asked at a stage. Raises UnknownRun; Refused where that stage asks nobody."""
    run = engine.handle(run_id).describe()
    there = next((one for one in run.stages if one.name == stage and one.kind == APPROVAL), None)
    if there is None:
        why = "The run has no approval of that name."
        raise Refused(pages.message(HTTPStatus.NOT_FOUND, "There is nothing to decide", why))
    return OpenedApproval(run.run_id, run.pipeline, there, name, None, run.status)


def _decide(engine: Decider, visitor: Visitor, run_id: str, stage: str, request: Request) -> Response:
    if visitor.name is None or visitor.read_only:
        return pages.message(HTTPStatus.FORBIDDEN, "Nothing is decided here", str(visitor.cannot))
    form, name = pages.fields_of(request), visitor.name
    if not visitor.is_secret(request.path, form.get("secret", "")):
        why = "Nothing was changed: the form is not from this page, or is too old. Open the page again."
        return pages.message(HTTPStatus.FORBIDDEN, "That was not sent from here", why)
    opened = _open(engine, name, run_id, stage)
    verbs: Mapping[str, Callable[..., RunSummary]] = {"approve": engine.approve, "deny": engine.deny}

    def record(decision: str, digest: str, reason: str) -> RunSummary:
        if decision not in verbs:
            raise InvalidInput("approval", [f"decision: {' or '.join(verbs)}"])
        return verbs[decision](run_id, stage, digest=digest, reason=reason, actor=Actor(name, authenticated=True))

    decided, response = pages.decide(
        form,
        opened,
        record,
        lambda: _open(engine, name, run_id, stage),
        no_reason="decided in Flower",
        no_answer="Open the page again: it says what was decided.",
        secret=visitor.secret(request.path),
    )
    if decided:
        log.info("run %s: stage %s was %s by %s", run_id, stage, DECISIONS[form["decision"]], name)
    return response
