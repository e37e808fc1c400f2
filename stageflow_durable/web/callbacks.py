"""Serves the URLs that an engine makes. What is sent to ``/callbacks/TOKEN`` by POST, as JSON, ends the wait of a
stage; ``/approvals/TOKEN`` is the page of a link to an approval (:mod:`stageflow_durable.web.approvals`).

Mount it where the setting ``public_url`` says, in any server; it listens to nothing by itself::

    app = callbacks.asgi_app(engine)        # uvicorn shop:app, or app.mount("/stageflow", callbacks.asgi_app(engine))
    app = callbacks.wsgi_app(engine)        # gunicorn shop:app
"""

from __future__ import annotations

import logging
from functools import partial
from http import HTTPStatus
from typing import Protocol

from stageflow_durable.codec import UnreadableValue
from stageflow_durable.engine.callbacks import PATH
from stageflow_durable.errors import CallbackRefused, InvalidInput, SchemaBehind, StoreUnavailable, UnsavableValue
from stageflow_durable.masking import masking
from stageflow_durable.model.run import CallbackReceipt
from stageflow_durable.settings import Settings
from stageflow_durable.web import approvals
from stageflow_durable.web.http import (
    AWAY_SECONDS,
    READ_SECONDS,
    AsgiApp,
    Look,
    Refused,
    Request,
    Respond,
    Response,
    WsgiApp,
    json_response,
    problem,
)

log = masking(logging.getLogger("stageflow.web"))

_REFUSED = {"forged": HTTPStatus.NOT_FOUND, "late": HTTPStatus.GONE, "conflict": HTTPStatus.CONFLICT}
_SAID = {
    "forged": "there is no such address",
    "late": "nothing waits for this call any more",
    "conflict": "this address was called before, with something else",
}


class Receiver(approvals.Decider, Protocol):
    """What is needed of an engine."""

    @property
    def settings(self) -> Settings:
        """Its settings."""

    def receive_callback(self, token: str, body: bytes) -> CallbackReceipt:
        """Tell a stage what was sent to its callback URL."""


def asgi_app(engine: Receiver, *, read_seconds: float = READ_SECONDS) -> AsgiApp:
    """An ASGI application. ``read_seconds``: how long a body may take to come."""
    return AsgiApp(*handlers_of(engine), read_seconds)


def wsgi_app(engine: Receiver) -> WsgiApp:
    """A WSGI application. How long a body may take to come is a setting of the server."""
    return WsgiApp(*handlers_of(engine))


def handlers_of(engine: Receiver) -> tuple[Look, Respond]:
    """What looks at a request, and what responds to it, for servers that have a way of their own."""
    return partial(_look, engine), partial(_respond, engine)


def _look(engine: Receiver, request: Request) -> int:
    """Refuse what is neither before its body is read."""
    if approvals.is_link(request.path):
        return approvals.look(request)
    _token(request)
    if request.method != "POST":  # a mail scanner or a preview that opens the address ends nothing
        raise Refused(problem(HTTPStatus.METHOD_NOT_ALLOWED, "only POST ends a wait", Allow="POST"))
    return engine.settings.max_payload_bytes


def _token(request: Request) -> str:
    before, _, token = request.path.rpartition("/")
    if before != f"/{PATH}" or not token:
        raise Refused(problem(HTTPStatus.NOT_FOUND, _SAID["forged"]))
    return token


def _respond(engine: Receiver, request: Request) -> Response:
    if approvals.is_link(request.path):
        return approvals.respond(engine, request)
    return _call_back(engine, request)


def _call_back(engine: Receiver, request: Request) -> Response:
    kind = request.content_type
    if request.body and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        return problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is needed: Content-Type: application/json")
    try:
        receipt = engine.receive_callback(_token(request), request.body)
    except CallbackRefused as refused:
        if refused.run_id:
            log.info("%s", refused)
        return problem(_REFUSED[refused.reason], _SAID[refused.reason])
    except InvalidInput as error:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "what was sent does not validate", errors=error.fields)
    except (UnsavableValue, UnreadableValue) as error:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "what was sent cannot be saved", errors=[str(error)])
    except (StoreUnavailable, SchemaBehind):
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, "try again later", Retry_After=AWAY_SECONDS)
    log.info("run %s: stage %s was called back%s", receipt.run_id, receipt.stage, " again" * receipt.replayed)
    said = {"received_at": receipt.received_at.isoformat(), "replayed": receipt.replayed}
    return json_response(HTTPStatus.OK, said)
