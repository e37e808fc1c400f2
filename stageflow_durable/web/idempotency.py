"""What a request with an ``Idempotency-Key`` gets: to be handled once, its answer again, or a refusal as a problem.

The middleware of :mod:`stageflow_durable.web.asgi` and :mod:`stageflow_durable.web.wsgi` brings requests here. The
header is that of the IETF's draft (draft-ietf-httpapi-idempotency-key-header-07, which is no standard yet).

```
no key ──► required: 400 · else handled as ever
key ──► nobody had it ──► handled ──► 2xx, 3xx, chosen 4xx: remembered · other 4xx: forgotten · 5xx: handled again
    ──► done: its answer again, marked · in flight: waited for, then 409 · other request: 422
```
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import os
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeAlias

from stageflow_durable.codec import Classes, encode, fingerprint
from stageflow_durable.errors import (
    ConfigurationError,
    FenceLost,
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidKey,
    ReplayRefused,
    StageflowError,
    StoreUnavailable,
)
from stageflow_durable.idempotency.keeper import Held, LeaseKeeper
from stageflow_durable.idempotency.keys import Scope, seconds_of, valid_key
from stageflow_durable.idempotency.store import Claimed, Done, IdempotencyStore, InProgress
from stageflow_durable.masking import masking
from stageflow_durable.web.http import AWAY_SECONDS, Refused, content_type_of, problem
from stageflow_durable.web.replay import SIGNATURE, ReplayGuard, SignedRequest

log = masking(logging.getLogger("stageflow.web"))

HEADER = "Idempotency-Key"
MARK = "Idempotent-Replayed"
"""The header of an answer that was given before; its value is ``true``."""

MOST_BYTES = 1_048_576
PROBLEM = "urn:stageflow:idempotency:"
"""What the ``type`` of each problem begins with."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPED = re.compile(r'\\(["\\])')
_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)
# Of one connection, of one moment or of one caller: never of an answer that is given again.
_NOT_AGAIN = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "date", "server", "content-length", "set-cookie"),
    }
)
_KEPT_CHARACTERS = 190
_NO_CLASSES = Classes(None)
_POLL_SECONDS = (0.02, 0.5)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request before its body is read. ``path``: whole, as the client sent it, decoded; ``query``: without ``?``;
    ``headers``: by name in small letters, each value in its order. ``given``: all that the server said of it (ASGI's
    scope, WSGI's environ), with what outer middleware found out, as who it is. ``encoding``: of the bytes that ``path``
    was.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, Sequence[str]]
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)
    encoding: str = "utf-8"

    def header(self, name: str) -> str:
        """A header's values, as one; "" where there is none."""
        return ", ".join(self.headers.get(name.lower(), ()))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answered. ``body`` None: it was too large to be kept, or a stream without an end."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | None

    def header(self, name: str) -> str:
        """A header's first value; "" where there is none."""
        return next((value for given, value in self.headers if given.lower() == name), "")


@dataclass(slots=True)
class Asked:
    """A request under a key: whose, which, and what it asks for."""

    scope: Scope
    key: str
    fingerprint: str
    params: str
    waited: float = 0.0
    pause: float = _POLL_SECONDS[0]
    fence: int = 0

    @property
    def own_key(self) -> str:
        """The key as others may use it: one of this client's, whoever else sends the same."""
        whole = json.dumps([self.scope.client_id, self.scope.operation, self.key])
        return f"{self.key[:_KEPT_CHARACTERS]}~{hashlib.sha256(whole.encode()).hexdigest()[:32]}"


current_key: ContextVar[str | None] = ContextVar("stageflow_idempotency_key", default=None)


def idempotency_key() -> str | None:
    """Within a handler: the key of the request, to be handed on, as in ``engine.enqueue(…,
    idempotency_key=idempotency_key())``; None where it has none. It holds what was sent and a digest of whose it is, so
    that the same key of another client is another one.
    """
    return current_key.get()


Client: TypeAlias = Callable[[Incoming], str | None]
"""Says who sends a request; None: nobody is known to."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The rules of one middleware.

    ``client``: says who sends a request (1 to 255 characters), once that was checked; answers are never given to
    anybody else. Left out, it is an HMAC, by ``secret``, of ``Authorization`` and of the cookies named by ``cookies``
    (left out: of all of them). A request of which nobody knows whose it is gets a 400.

    ``required``: methods that have to have a key, or a function that says so of a request. Other unsafe methods may
    have one. GET, HEAD and OPTIONS are handled as ever, whatever they have.

    ``remember``: statuses of 400 to 499 that are remembered as 2xx and 3xx are.

    ``replay``: checks the signature of each unsafe request, with a key or without; where neither ``client`` nor
    ``secret`` is given, it tells who sends a request as well.

    ``ttl_seconds``: how long an answer is remembered; ``lease_seconds``: how long the key of a process that died stays
    taken; ``wait_seconds``: how long a duplicate waits for the first. Seconds or timedelta; positive, the last may be
    0.

    ``max_request_bytes``: of a request with a key; a larger one gets a 413. ``max_response_bytes``: of an answer that
    is remembered whole; of a larger one only that it was given. ``operation``: what keys are for; two applications
    that share a store have two.

    Raises ConfigurationError.
    """

    store: IdempotencyStore
    client: Client | None = None
    secret: str | bytes | None = None
    cookies: Sequence[str] | None = None
    required: Collection[str] | Callable[[Incoming], bool] = ("POST", "PATCH")
    remember: Collection[int] = ()
    replay: ReplayGuard | None = None
    ttl_seconds: float | timedelta = 86400
    lease_seconds: float | timedelta = 30.0
    wait_seconds: float | timedelta = 10.0
    max_request_bytes: int = MOST_BYTES
    max_response_bytes: int = MOST_BYTES
    operation: str = "http"
    _running: LeaseKeeper = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.store, IdempotencyStore):
            raise ConfigurationError(f"store= is a {type(self.store).__name__}, not a store of idempotency keys")
        if self.client is None and not self.secret and self.replay is None:
            raise ConfigurationError(
                "say whose a key is: client= (a function of the request), or secret=, the same in every process, by "
                "which Authorization and cookies tell it"
            )
        wrong = [status for status in self.remember if status not in range(400, 500)]
        if wrong:
            raise ConfigurationError(f"remember= has {wrong[0]}: statuses of 400 to 499 are chosen")
        if isinstance(self.required, str) or isinstance(self.cookies, str):
            raise ConfigurationError("required= and cookies= are lists of names, not text")
        lease = seconds_of(self.lease_seconds, "lease_seconds")
        seconds_of(self.ttl_seconds, "ttl_seconds")
        if self.wait_seconds:
            seconds_of(self.wait_seconds, "wait_seconds")
        Scope("any", self.operation)
        object.__setattr__(self, "_running", LeaseKeeper(self._renew, lease / 3))

    # --- before the body is read ------------------------------------------------------------------------------------

    def is_handled_as_ever(self, request: Incoming) -> bool:
        """Whether the request is none of the middleware's business. Raises Refused."""
        if request.method in _SAFE:
            return True
        if self._given(request):
            _key(self._given(request))
            return False
        if self._requires(request):
            raise _refused(HTTPStatus.BAD_REQUEST, "missing-key", f"{request.method} needs the header {HEADER}")
        return self.replay is None

    @staticmethod
    def _given(request: Incoming) -> Sequence[str]:
        return request.headers.get(HEADER.lower(), ())

    def _requires(self, request: Incoming) -> bool:
        return self.required(request) if callable(self.required) else request.method in self.required

    def _client(self, request: Incoming, verified: str | None) -> str:
        told = (
            self.client(request) if self.client is not None else self._credentials(request) if self.secret else verified
        )
        if not told:
            why = "whose key it is cannot be told: the request says nothing of who sends it"
            raise _refused(HTTPStatus.BAD_REQUEST, "unknown-client", why)
        try:
            return valid_key(told, "client")
        except InvalidKey as error:
            raise _refused(HTTPStatus.BAD_REQUEST, "unknown-client", str(error)) from None

    def _verified(self, request: Incoming, body: bytes) -> str | None:
        """Who signed the request, where signatures are checked."""
        if self.replay is None:
            return None
        path = request.path.encode(request.encoding, "surrogateescape")
        signed = SignedRequest(request.method, path, request.query, body, request.header(HEADER))
        try:
            return self.replay.check(signed, request.header(SIGNATURE) or None).client
        except ReplayRefused as why:
            kind, challenge = f"signature-{why.reason}", {"WWW_Authenticate": SIGNATURE}
            raise _refused(HTTPStatus.UNAUTHORIZED, kind, str(why), **challenge) from None
        except StoreUnavailable as error:
            raise _away(error) from None

    def _credentials(self, request: Incoming) -> str | None:
        cookies = request.header("cookie") if self.cookies is None else _named(request.header("cookie"), self.cookies)
        told = [request.header("authorization"), cookies]
        if not any(told):
            return None
        assert self.secret
        secret = self.secret.encode() if isinstance(self.secret, str) else self.secret
        return hmac.new(secret, json.dumps(told).encode(), hashlib.sha256).hexdigest()

    # --- claiming ---------------------------------------------------------------------------------------------------

    def asked(self, request: Incoming, body: bytes) -> Asked | None:
        """The request under its key, with all that it asks for; None: it has no key, and is handled. Raises Refused."""
        verified = self._verified(request, body)
        if not self._given(request):
            return None
        scope, key = Scope(self._client(request, verified), self.operation), _key(self._given(request))
        kind, digest = _digest(request.header("content-type"), body)
        said = {
            "method": request.method,
            "path": request.path,
            "query": hashlib.sha256(request.query.encode()).hexdigest(),  # it is kept, and may hold anything
            "content_type": kind,
            "body": digest,
        }
        return Asked(scope, key, fingerprint(said), encode(said))

    def claim(self, asked: Asked) -> Answer | float | None:
        """The answer that is remembered; None: the request is to be handled; a number: seconds until it is asked again.
        Raises Refused.
        """
        try:
            found = self._claim(asked)
        except IdempotencyParamMismatch as error:
            named = ", ".join(error.fields) or "something"
            what = (
                f"{HEADER} was used before with another request: {named} differs. Send the same request, or a new key"
            )
            raise _refused(HTTPStatus.UNPROCESSABLE_ENTITY, "mismatch", what, errors=error.fields) from None
        except IdempotencyConflict:
            undone = "what was done under this key was undone, or its answer erased; send a new key to start over"
            raise _refused(HTTPStatus.CONFLICT, "undone", undone) from None
        except InvalidKey as error:
            raise _refused(HTTPStatus.BAD_REQUEST, "bad-key", str(error)) from None
        except StoreUnavailable as error:
            raise _away(error) from None
        if isinstance(found, Claimed):
            asked.fence = found.fence
            self._running.add(Held(asked, asked.scope, asked.key, found.fence, _NO_CLASSES))
            return None
        if isinstance(found, Done):
            return _remembered(found.result)
        return self._patience(asked, found)

    def _claim(self, asked: Asked) -> Claimed | Done | InProgress:
        return self.store.claim(
            asked.scope,
            asked.key,
            asked.fingerprint,
            params_text=asked.params,
            owner=f"{socket.gethostname()}/{os.getpid()}"[:255],
            lease_seconds=self.lease_seconds,
            ttl_seconds=self.ttl_seconds,
        )

    def _patience(self, asked: Asked, found: InProgress) -> float:
        longest = seconds_of(self.wait_seconds, "wait_seconds") if self.wait_seconds else 0.0
        left = longest - asked.waited
        if left <= 0:
            raise _in_flight(found)
        pause = min(asked.pause, left)
        asked.waited += pause
        asked.pause = min(asked.pause * 2, _POLL_SECONDS[1])
        return pause

    # --- the end ----------------------------------------------------------------------------------------------------

    def settle(self, asked: Asked, answer: Answer) -> Answer:
        """Remember what was answered, before it is sent; returns what is to be sent. Raises Refused."""
        self._running.pop(asked)
        try:
            if answer.status < 400 or answer.status in self.remember:
                self.store.complete(asked.scope, asked.key, asked.fence, _saved(answer), ttl_seconds=self.ttl_seconds)
            else:
                # A 4xx says that nothing was done: whoever corrects the request may use the key again.
                self.store.release(asked.scope, asked.key, asked.fence, vouched=answer.status < 500)
        except FenceLost:
            return self._of_whoever_took_over(asked, answer)
        except StoreUnavailable as error:
            log.warning("an answer is sent, and not remembered: %s", error)
        return answer

    def _of_whoever_took_over(self, asked: Asked, answer: Answer) -> Answer:
        """This process was silent for a lease, and another took the key: all get that one's answer."""
        log.warning("a request was handled twice: its process was silent for longer than its lease")
        try:
            found = self._claim(asked)
            if isinstance(found, Claimed):
                self.store.release(asked.scope, asked.key, found.fence)
        except StageflowError:
            return answer
        if isinstance(found, InProgress):
            raise _in_flight(found)
        return _remembered(found.result) if isinstance(found, Done) else answer

    def give_up(self, asked: Asked) -> None:
        """Nothing was answered: the next one with this key is handled, without waiting for the lease."""
        self._running.pop(asked)
        try:
            self.store.release(asked.scope, asked.key, asked.fence)
        except (StoreUnavailable, FenceLost) as error:
            log.info("a lease is left to lapse: %s", error)

    def _renew(self, held: Held) -> None:
        self.store.renew(held.scope, held.key, held.fence, lease_seconds=self.lease_seconds)


def keeps(answer: Answer) -> bool:
    """Whether an answer may be held until its end is there: a stream of events has none."""
    return content_type_of(answer.header("content-type")) != "text/event-stream"


def again(answer: Answer) -> Answer:
    """A remembered answer as it is sent once more. Raises Refused where it was not kept."""
    if answer.body is None:
        why = f"this was done, with status {answer.status}; its answer was too large to be kept"
        raise _refused(HTTPStatus.CONFLICT, "answer-not-kept", why)
    return Answer(answer.status, (*answer.headers, (MARK, "true")), answer.body)


def sent_headers(answer: Answer) -> list[tuple[str, str]]:
    """Name and value of each header of an answer that is sent whole."""
    if answer.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        return list(answer.headers)
    return [*answer.headers, ("Content-Length", str(len(answer.body or b"")))]


# --- the header -------------------------------------------------------------------------------------------------------


def _key(given: Sequence[str]) -> str:
    """The key that the header names: a string of RFC 8941 as the draft has it, or plain, as most clients send it."""
    if len(given) > 1:
        raise _refused(HTTPStatus.BAD_REQUEST, "bad-key", f"{HEADER} was sent {len(given)} times")
    text = given[0].strip(" \t")
    if text.startswith('"'):
        quoted = _QUOTED.fullmatch(text)
        if quoted is None:
            raise _refused(HTTPStatus.BAD_REQUEST, "bad-key", f'{HEADER}: what begins with " is no string of RFC 8941')
        text = _ESCAPED.sub(r"\1", quoted[1])
    elif "," in text:  # some servers join a header that was sent twice
        raise _refused(HTTPStatus.BAD_REQUEST, "bad-key", f'{HEADER} was sent twice, or has a comma: put it in "')
    if not text.strip() or not text.isascii():
        raise _refused(HTTPStatus.BAD_REQUEST, "bad-key", f"{HEADER}: 1 to 255 characters of ASCII")
    try:
        return valid_key(text, HEADER)
    except InvalidKey as error:
        raise _refused(HTTPStatus.BAD_REQUEST, "bad-key", str(error)) from None


def _named(header: str, names: Sequence[str]) -> str:
    """Those cookies, in the order of ``names``."""
    pairs = [part.strip().partition("=") for part in header.split(";")]
    return ";".join(f"{name}={value}" for wanted in names for name, _equals, value in pairs if name == wanted)


# --- what a request asks for ------------------------------------------------------------------------------------------


def _digest(content_type: str, body: bytes) -> tuple[str, str]:
    """The kind of the body, and its digest. The order of a JSON object's names makes no difference, nor does the
    boundary of a form, which is another one each time.
    """
    kind = content_type_of(content_type)
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        try:
            return kind, fingerprint(json.loads(body, object_pairs_hook=_object, parse_constant=_no_number))
        except (ValueError, RecursionError, StageflowError):
            return kind, hashlib.sha256(body).hexdigest()
    if kind.startswith("multipart/"):
        boundary = _BOUNDARY.search(content_type)
        if boundary is not None:
            body = body.replace(b"--" + boundary[1].encode("latin-1", "replace"), b"--")
    return kind, hashlib.sha256(body).hexdigest()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice: which counts is the handler's business")
    return found


def _no_number(text: str) -> None:
    raise ValueError(text)


# --- what is remembered -----------------------------------------------------------------------------------------------


def _saved(answer: Answer) -> dict[str, Any]:
    again = [[name, value] for name, value in answer.headers if name.lower() not in _NOT_AGAIN]
    return {"status": answer.status, "headers": again, "body": answer.body}


def _remembered(result: Any) -> Answer:
    return again(Answer(result["status"], tuple((name, value) for name, value in result["headers"]), result["body"]))


# --- problems ---------------------------------------------------------------------------------------------------------


def _refused(status: HTTPStatus, kind: str, detail: str, *, errors: Sequence[str] = (), **headers: str) -> Refused:
    return Refused(problem(status, detail, errors=errors, type=f"{PROBLEM}{kind}", **headers))


def _away(error: StoreUnavailable) -> Refused:
    log.warning("a request is refused: %s", error)
    why = "keys cannot be looked up just now; nothing was done"
    return _refused(HTTPStatus.SERVICE_UNAVAILABLE, "store-unavailable", why, Retry_After=AWAY_SECONDS)


def _in_flight(found: InProgress) -> Refused:
    left = 1.0 if found.seconds_left is None else found.seconds_left
    seconds = str(max(1, min(math.ceil(left), 10)))
    why = "the first request with this key is still at work; ask again later"
    return _refused(HTTPStatus.CONFLICT, "in-progress", why, Retry_After=seconds)


def openapi(*, required: bool = True) -> dict[str, Any]:
    """A fragment for an operation in OpenAPI 3: the header, and the answers that the middleware gives."""
    key = {
        "name": HEADER,
        "in": "header",
        "required": required,
        "description": "Names what is asked for: sent again with the same key, it is done once and answered alike.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }
    told = {
        "400": f"{HEADER} is missing or malformed.",
        "409": "The first request with this key is still at work, or what it did was undone.",
        "413": "The request is too large to be sent with a key.",
        "422": f"{HEADER} was used before with another request.",
        "503": "Keys cannot be looked up just now; nothing was done.",
    }
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    }
    body = {"application/problem+json": {"schema": schema}}
    answers = {status: {"description": text, "content": body} for status, text in told.items()}
    return {"parameters": [key], "responses": answers}
