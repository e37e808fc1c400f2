"""Serves links to approvals: ``/approvals/TOKEN`` shows what a run asks for; the form on that page approves or denies.

GET and HEAD change nothing: mail scanners and previews open every link that they see. The page needs no script and
loads nothing. What it shows comes from elsewhere, and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Literal, Protocol
from urllib.parse import parse_qs

from stageflow_durable.engine.approval_links import PATH
from stageflow_durable.errors import (
    InvalidInput,
    LinkRefused,
    NotAllowed,
    SchemaBehind,
    StoreUnavailable,
)
from stageflow_durable.legible import harmless_json, jsonable, legible
from stageflow_durable.model.run import LinkedApproval, RunSummary
from stageflow_durable.model.status import RunStatus, StageState
from stageflow_durable.transitions.approval import DECISIONS
from stageflow_durable.web.http import AWAY_SECONDS, Refused, Request, Response, problem

log = logging.getLogger("stageflow.web")

FORM_BYTES = 16_384
"""What the form may send: a decision, a digest and a reason."""

_FORM = "application/x-www-form-urlencoded"
_NO_REASON = "decided by link"
_REFUSED = {
    "forged": (HTTPStatus.NOT_FOUND, "There is no such link", "Check that the whole link was copied."),
    "used": (HTTPStatus.GONE, "This link was used", "It decides once: what was decided by it is recorded, and counts."),
    "expired": (HTTPStatus.GONE, "This link has expired", "Ask whoever sent it for a new one."),
    "gone": (HTTPStatus.GONE, "There is nothing to decide", "Nothing asks this any more here."),
    "withdrawn": (HTTPStatus.GONE, "This link was withdrawn", "Who may approve was changed since it was made."),
}
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem }
dt { opacity: .7 }
dd { margin: 0; overflow-wrap: anywhere }
pre { padding: 1rem; border: 1px solid; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere }
textarea { width: 100%; box-sizing: border-box; font: inherit }
button { font: inherit; padding: .5rem 1.2rem; margin: 1rem 1rem 0 0; cursor: pointer }
.problem { border-left: .3rem solid #c33; padding-left: 1rem }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


class Decider(Protocol):
    """What is needed of an engine."""

    def open_approval_link(self, token: str) -> LinkedApproval:
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
        return FORM_BYTES
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
        return _message(HTTPStatus.INTERNAL_SERVER_ERROR, "An error", "It is the server's, which has logged it.")


def _respond(engine: Decider, token: str, request: Request) -> Response:
    try:
        if request.method != "POST":
            return _page(HTTPStatus.OK, engine.open_approval_link(token))
        return _decide(engine, token, request)
    except LinkRefused as refused:
        status, title, why = _REFUSED[refused.reason]
        return _message(status, title, why)
    except (StoreUnavailable, SchemaBehind):
        return _not_now("Nothing was changed. Try again in a moment.")


def _not_now(why: str) -> Response:
    return _message(HTTPStatus.SERVICE_UNAVAILABLE, "Not now", why, Retry_After=AWAY_SECONDS)


def _decide(engine: Decider, token: str, request: Request) -> Response:
    if request.content_type != _FORM:
        return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a form is needed: Content-Type: {_FORM}")
    form = _fields(request.body)
    linked = engine.open_approval_link(token)  # what the page says besides
    reason, decision = form.get("reason", ""), form.get("decision", "")
    try:
        given: Any = decision  # whatever came
        engine.decide_by_link(token, given, digest=form.get("digest", ""), reason=reason.strip() or _NO_REASON)
    except InvalidInput as error:
        return _page(HTTPStatus.UNPROCESSABLE_ENTITY, linked, "; ".join(error.fields), reason)
    except NotAllowed as error:
        return _page(HTTPStatus.CONFLICT, engine.open_approval_link(token), str(error), reason)
    except StoreUnavailable:
        return _not_now("Nobody knows whether your decision was recorded. Open the link again: if it was used, it was.")
    log.info("run %s: stage %s was %s by link", linked.run_id, linked.stage.name, DECISIONS[decision])
    then = "It is recorded, and counts once somebody has resumed the run, which is parked."
    then = then if linked.status is RunStatus.PARKED else _THEN[decision]
    return _message(HTTPStatus.OK, f"You have {DECISIONS[decision]} it", then, linked)


_THEN = {
    "approve": "It is recorded. The run goes on, if it still asks for exactly this.",
    "deny": "It is recorded. The run does not do it.",
}


def _fields(body: bytes) -> dict[str, str]:
    """The fields of a form, each once. Raises Refused."""
    try:
        found = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=10)
    except ValueError:
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "this is no form")) from None
    if any(len(values) > 1 for values in found.values()):
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "a field was sent twice"))
    return {name: values[0] for name, values in found.items()}


# --- pages ------------------------------------------------------------------------------------------------------------


def _page(status: HTTPStatus, linked: LinkedApproval, wrong: str | None = None, reason: str = "") -> Response:
    """The page of a link that may be used. ``wrong``: why what was sent is not taken; ``reason``: that was typed."""
    asked = linked.stage.approval
    if linked.status not in _ON_ITS_WAY or linked.stage.state in _OVER:
        return _over(linked)
    if asked is None or not asked.open:
        why = "The run has not come here. Open the link again later."
        if linked.status is RunStatus.PARKED:
            why = "The run is parked. It asks once somebody has resumed it."
        return _message(status, "Nothing is asked now", why, linked)
    if asked.decision is not None:
        return _over(linked)
    return _html(status, linked=linked, asked=asked, content=_shown(asked.content), wrong=wrong, reason=reason)


_ON_ITS_WAY = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PARKED)
_OVER = (StageState.OK, StageState.SKIPPED)


def _over(linked: LinkedApproval) -> Response:
    """Somebody has decided, or nobody did in time."""
    asked = linked.stage.approval
    if asked is not None and asked.decision is not None:
        return _message(HTTPStatus.CONFLICT, f"It is {asked.decision} already", f"By {asked.actor}.", linked)
    why = f"Nobody decided in time, or it is not to be done any more. The run is {linked.status}."
    return _message(HTTPStatus.CONFLICT, "There is nothing to decide", why, linked)


def _shown(content: Any) -> str:
    """As JSON, a line for each value unless that would make it much longer: each is indented by its depth."""
    value = jsonable(content)
    text = json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=2, ensure_ascii=False) if len(text) <= _MOST_IN_LINES else text
    return harmless_json(lines if len(lines) <= max(_MOST_IN_LINES, 4 * len(text)) else text)


_MOST_IN_LINES = 16_384


def _message(
    status: HTTPStatus, title: str, why: str, linked: LinkedApproval | None = None, **headers: str
) -> Response:
    return _html(status, headers, title=title, why=why, linked=linked, asked=None)


def _html(status: HTTPStatus, headers: Mapping[str, str] | None = None, **said: Any) -> Response:
    text = _template().render(style=_STYLE, **said)
    named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    return Response(status, text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _POLICY, **named})


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    here = PackageLoader("stageflow_durable.web", "templates")
    pages = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["legible"] = legible
    return pages.get_template("approval.html")
