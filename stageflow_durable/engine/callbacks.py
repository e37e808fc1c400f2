"""Callback URLs, and what is sent to them: whose stage it is, whether it may be, and what it says.

A URL's token names the run and the stage, and is signed with a key that is derived from the audit key. So every attempt
of a stage has the same one, nothing that could be stolen is stored, and a forged one is refused before the database is
asked.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stageflow_durable.clock import as_moment
from stageflow_durable.codec import json_mistake, strict_json
from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.payload import PAYLOAD_BYTES
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.public_urls import PublicUrls
from stageflow_durable.engine.signalling import checked_payload
from stageflow_durable.engine.twins import in_thread
from stageflow_durable.errors import CallbackRefused, InvalidInput, UnknownRun
from stageflow_durable.model.keys import is_run_id
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.run import CallbackReceipt
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings import Settings, Urls, listed
from stageflow_durable.store.protocol import Store
from stageflow_durable.transitions.callback import Call
from stageflow_durable.transitions.waiting import SchemaChanged

PATH = "callbacks"
"""The part of a callback URL between the address of the application and the token."""

_TOKEN = re.compile(r"(?P<run>[0-9A-Z]{26})\.(?P<stage>[\w-]{1,1400})\.(?P<signature>[0-9a-f]{32})", re.ASCII)


class CallbackUrls:
    """Makes the URLs of stages, and reads them. ``older``: audit keys of before, whose URLs are still taken."""

    def __init__(self, public_url: str | None, audit_key: str | None, older: Sequence[str] = ()) -> None:
        self._urls = PublicUrls(PATH, b"callbacks 1", public_url, audit_key, older)

    def url(self, run_id: str, stage: str) -> str:
        """The URL that ends the wait of a stage. Raises ConfigurationError."""
        named = base64.urlsafe_b64encode(stage.encode()).decode().rstrip("=")
        return self._urls.url("ctx.callback_url()", (run_id, named), signed=f"{run_id}\n{stage}")

    def read(self, token: str) -> tuple[str, str]:
        """The run and the stage that a token was made for. Raises CallbackRefused for one that was not made here."""
        found = _TOKEN.fullmatch(token)
        if found is not None and is_run_id(found["run"]):
            stage = _text(found["stage"])
            if stage is not None and self._urls.accepts(found["signature"], f"{found['run']}\n{stage}"):
                return found["run"], stage
        raise CallbackRefused("", "", "forged", "this address was not made here")


def _text(named: str) -> str | None:
    try:
        raw = base64.b64decode(named + "=" * (-len(named) % 4), altchars=b"-_", validate=True)
        text = raw.decode()
    except ValueError:
        return None
    # One text has one name: what decodes alike is not signed alike.
    return text if base64.urlsafe_b64encode(raw).decode().rstrip("=") == named else None


class Callbacks:
    """Takes what is sent to callback URLs."""

    def __init__(
        self,
        store: Store,
        urls: CallbackUrls,
        pipelines: Mapping[str, Pipeline[Any, Any]],
        payload_bytes: int = PAYLOAD_BYTES,
    ) -> None:
        self._store = store
        self._urls = urls
        self._pipelines = pipelines
        self._payload_bytes = payload_bytes

    def receive(self, token: str, body: bytes) -> tuple[CallbackReceipt, tuple[Nudge, ...]]:
        """End the wait that a token names with what was sent, or keep it; returns what to publish as well. Raises
        CallbackRefused, InvalidInput, StoreUnavailable.
        """
        run_id, stage = self._urls.read(token)
        payload = _payload(body, stage)
        while True:
            try:
                plan = self._store.plan(run_id)
                text, same, schema = checked_payload(plan, self._pipelines, stage, payload, self._payload_bytes)
                took = self._store.call_back(Call(run_id, stage, text, same, schema))
            except SchemaChanged:
                continue  # a deploy came in between
            except UnknownRun:
                raise CallbackRefused(run_id, stage, "late", "the run was deleted") from None
            return CallbackReceipt(run_id, stage, as_moment(took.at), took.replayed), took.nudges


class CallbackOperations:
    """What an engine does for callback URLs. A subclass brings its parts."""

    pipelines: Mapping[str, Pipeline[Any, Any]]

    if TYPE_CHECKING:

        @cached_property
        def store(self) -> Store: ...  # noqa: D102  # as Engine has it

        @cached_property
        def publisher(self) -> Publisher: ...  # noqa: D102  # as Engine has it

        @cached_property
        def settings(self) -> Settings: ...  # noqa: D102  # as Engine has it

        @cached_property
        def urls(self) -> Urls: ...  # noqa: D102  # as Engine has it

    @cached_property
    def _callback_urls(self) -> CallbackUrls:
        return CallbackUrls(self.settings.public_url, self.urls.audit_key, listed(self.settings.old_audit_keys))

    @cached_property
    def _callbacks(self) -> Callbacks:
        return Callbacks(self.store, self._callback_urls, self.pipelines, self.settings.max_payload_bytes)

    def receive_callback(self, token: str, body: bytes) -> CallbackReceipt:
        """Tell a stage what was sent to its ``ctx.callback_url()``, for applications that serve that address
        themselves; :mod:`stageflow_durable.web.callbacks` does it for the others. ``token``: what stands behind the
        last slash of the URL; ``body``: JSON in UTF-8, which becomes the stage's output; nothing at all is null.

        The same again is answered as before (``replayed``). Raises CallbackRefused, InvalidInput naming the fields,
        StoreUnavailable.
        """
        sent: tuple[Any, Any] = token, body  # an application may hand on what its framework gives it
        if not isinstance(sent[0], str) or not isinstance(sent[1], bytes):
            given = f"token: {type(token).__name__}, body: {type(body).__name__}"
            raise InvalidInput("callback", [f"{given} given; the token is text, the body bytes as they came"])
        receipt, nudges = self._callbacks.receive(token, body)
        publish(self.store, self.publisher, nudges)
        return receipt

    areceive_callback = in_thread(receive_callback)


def _payload(body: bytes, stage: str) -> Any:
    """What was sent: JSON in UTF-8; nothing at all is null."""
    what = f"callback of {stage}"
    try:
        text = body.decode("utf-8-sig")
        return strict_json(text) if text.strip() else None
    except UnicodeDecodeError as error:
        raise InvalidInput(what, [f"body: not UTF-8 at byte {error.start + 1}"]) from None
    except ValueError as error:
        raise InvalidInput(what, [f"body: not JSON: {json_mistake(error)}"]) from None
