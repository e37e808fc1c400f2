"""The pages of approvals as values: what is asked, with a form; what became of it; a list of what is asked.

They need no script and load nothing. What they show comes from elsewhere, and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote

from stageflow_durable.errors import InvalidInput, NotAllowed, StoreUnavailable
from stageflow_durable.legible import harmless_json, jsonable, legible
from stageflow_durable.model.run import OpenedApproval, RunSummary
from stageflow_durable.model.status import RunStatus, StageState
from stageflow_durable.transitions.approval import DECISIONS
from stageflow_durable.web.http import AWAY_SECONDS, Refused, Request, Response, problem

FORM_BYTES = 16_384
"""What the form may send: a decision, a digest and a reason."""

_FORM = "application/x-www-form-urlencoded"
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem }
dt { opacity: .7 }
dd { margin: 0; overflow-wrap: anywhere }
pre { padding: 1rem; border: 1px solid; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere }
textarea { width: 100%; box-sizing: border-box; font: inherit }
li { margin-bottom: .75rem; overflow-wrap: anywhere }
button { font: inherit; padding: .5rem 1.2rem; margin: 1rem 1rem 0 0; cursor: pointer }
.problem { border-left: .3rem solid #c33; padding-left: 1rem }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


# --- what is sent -----------------------------------------------------------------------------------------------------


def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form, each once. Raises Refused."""
    if request.content_type != _FORM:
        raise Refused(problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a form is needed: Content-Type: {_FORM}"))
    body = request.body
    try:
        found = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=10)
    except ValueError:
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "this is no form")) from None
    if any(len(values) > 1 for values in found.values()):
        raise Refused(problem(HTTPStatus.BAD_REQUEST, "a field was sent twice"))
    return {name: values[0] for name, values in found.items()}


def decide(
    form: Mapping[str, str],
    opened: OpenedApproval,
    record: Callable[[str, str, str], RunSummary],
    reopen: Callable[[], OpenedApproval],
    *,
    no_reason: str,
    no_answer: str,
    secret: str | None = None,
) -> tuple[bool, Response]:
    """Whether ``record`` took the form's decision, digest and reason, and the page that says what became of it.

    ``reopen``: what is asked now, where it did not; ``no_reason``: the reason where none was given; ``no_answer``:
    what to say where nobody knows whether it was recorded; ``secret``: as of :func:`page`.
    """
    decision, reason = form.get("decision", ""), form.get("reason", "")
    try:
        record(decision, form.get("digest", ""), reason.strip() or no_reason)
    except InvalidInput as error:
        return False, page(HTTPStatus.UNPROCESSABLE_ENTITY, opened, "; ".join(error.fields), reason, secret)
    except NotAllowed as error:
        return False, page(HTTPStatus.CONFLICT, reopen(), str(error), reason, secret)
    except StoreUnavailable:
        return False, not_now(f"Nobody knows whether your decision was recorded. {no_answer}")
    then = "It is recorded, and counts once somebody has resumed the run, which is parked."
    then = then if opened.status is RunStatus.PARKED else _THEN[decision]
    return True, message(HTTPStatus.OK, f"You have {DECISIONS[decision]} it", then, opened)


_THEN = {
    "approve": "It is recorded. The run goes on, if it still asks for exactly this.",
    "deny": "It is recorded. The run does not do it.",
}


# --- pages ------------------------------------------------------------------------------------------------------------


def page(
    status: HTTPStatus,
    opened: OpenedApproval,
    wrong: str | None = None,
    reason: str = "",
    secret: str | None = None,
    *,
    form: bool = True,
) -> Response:
    """The page of an approval. ``wrong``: why what was sent is not taken, or nothing is; ``reason``: that was typed;
    ``secret``: what the form is to send back, where a cookie or a header signs people in; ``form``: whether it has one.
    """
    asked = opened.stage.approval
    if opened.status not in _ON_ITS_WAY or opened.stage.state in _OVER:
        return _over(opened)
    if asked is None or not asked.open:
        why = "The run has not come here. Open it again later."
        if opened.status is RunStatus.PARKED:
            why = "The run is parked. It asks once somebody has resumed it."
        return message(status, "Nothing is asked now", why, opened)
    if asked.decision is not None:
        return _over(opened)
    said: dict[str, Any] = {
        "content": _shown(asked.content),
        "wrong": wrong,
        "reason": reason,
        "secret": secret,
        "form": form,
    }
    return _html(status, opened=opened, asked=asked, **said)


_ON_ITS_WAY = (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PARKED)
_OVER = (StageState.OK, StageState.SKIPPED)


def _over(opened: OpenedApproval) -> Response:
    """Somebody has decided, or nobody did in time."""
    asked = opened.stage.approval
    if asked is not None and asked.decision is not None:
        return message(HTTPStatus.CONFLICT, f"It is {asked.decision} already", f"By {asked.actor}.", opened)
    why = f"Nobody decided in time, or it is not to be done any more. The run is {opened.status}."
    return message(HTTPStatus.CONFLICT, "There is nothing to decide", why, opened)


def listed(runs: Sequence[RunSummary], *, who: str | None, why: str | None, most: int) -> Response:
    """A page that lists what runs ask for. ``who`` is signed in; ``why``: why nobody decides here; None: they do.
    ``most``: as many as are listed at all.
    """
    return _html(HTTPStatus.OK, name="approvals.html", runs=runs, who=who, why=why, most=most)


def _shown(content: Any) -> str:
    """As JSON, a line for each value unless that would make it much longer: each is indented by its depth."""
    value = jsonable(content)
    text = json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=2, ensure_ascii=False) if len(text) <= _MOST_IN_LINES else text
    return harmless_json(lines if len(lines) <= max(_MOST_IN_LINES, 4 * len(text)) else text)


_MOST_IN_LINES = 16_384


def message(status: HTTPStatus, title: str, why: str, opened: OpenedApproval | None = None, **headers: str) -> Response:
    """A page that says something, with which approval it is about."""
    return _html(status, headers, title=title, why=why, opened=opened, asked=None)


def not_now(why: str) -> Response:
    """The database is away."""
    return message(HTTPStatus.SERVICE_UNAVAILABLE, "Not now", why, Retry_After=AWAY_SECONDS)


def an_error() -> Response:
    """Something failed here."""
    return message(HTTPStatus.INTERNAL_SERVER_ERROR, "An error", "It is the server's, which has logged it.")


def _html(
    status: HTTPStatus, headers: Mapping[str, str] | None = None, name: str = "approval.html", **said: Any
) -> Response:
    text = _templates().get_template(name).render(style=_STYLE, **said)
    named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    return Response(status, text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _POLICY, **named})


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    here = PackageLoader("stageflow_durable.web", "templates")
    pages = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"legible": legible, "segment": lambda text: quote(text, safe="")}
    return pages
