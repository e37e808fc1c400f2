"""Requests that are signed, so that what somebody captured and sends again does nothing.

A signature is an HMAC-SHA256 over who sends, method, path, query, the digest of the body, the time, a nonce and the
``Idempotency-Key``. It holds for ``window`` seconds, and its nonce once. The same request sent again as it was (by a
proxy, or a client that tries again) is no attack: under an ``Idempotency-Key`` it gets the answer that is remembered.
Later the client signs anew, with the same key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes

from stageflow_durable.codec import fingerprint
from stageflow_durable.errors import ConfigurationError, IdempotencyParamMismatch, InvalidKey, ReplayRefused
from stageflow_durable.idempotency.keys import Scope, seconds_of, valid_key
from stageflow_durable.idempotency.store import Claimed, IdempotencyStore
from stageflow_durable.masking import masking

R = TypeVar("R")

log = masking(logging.getLogger("stageflow.replay"))

SIGNATURE = "Stageflow-Signature"
"""The header of a signature: ``client=…, key=…, at=…, nonce=…, v1=…``."""

SHORTEST_SECRET = 16
"""Bytes."""

_OPERATION = "signed request"
_PARTS = re.compile(
    r"client=([^,\s]{1,800}), ?key=([^,\s]{1,800}), ?at=(\d{1,12}), ?nonce=([\w.-]{16,64}), ?v1=([0-9a-f]{64})"
)


class SignedRequest(NamedTuple):
    """What is signed of a request. ``path``: decoded, as bytes; ``query``: as it is sent, without ``?``."""

    method: str
    path: bytes
    query: str
    body: bytes
    idempotency_key: str = ""


class Verified(NamedTuple):
    """A request whose signature holds. ``resent``: it came before, exactly so."""

    client: str
    resent: bool


class ReplayGuard:
    """Signs requests, and refuses those that were tampered with, are stale or of the future, or were seen.

    ``keys``: secrets of at least 16 bytes by their names; the first signs, all are accepted, so that one can follow
    another. ``client``: who signs here. ``clients``: by a key's name, who alone signs with it; left out, whoever has
    one of the secrets signs as any client, so that they are to be given to one party. ``window``: for how long a
    signature holds; ``skew``: how far the clocks of clients and servers may be apart; seconds or timedelta. ``store``:
    where nonces are kept, for ``window`` and twice ``skew``; the same for all servers; left out where requests are only
    signed. ``refused``: is told of each refusal, for an audit of your own; they are in the log ``stageflow.replay``
    too. ``clock``: seconds since the epoch; ``nonce``: makes nonces.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        keys: Mapping[str, str | bytes],
        *,
        client: str = "default",
        clients: Mapping[str, str] | None = None,
        window: float | timedelta = 300.0,
        skew: float | timedelta = 30.0,
        store: IdempotencyStore | None = None,
        refused: Callable[[ReplayRefused], object] | None = None,
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], str] = lambda: secrets.token_urlsafe(18),
    ) -> None:
        if not keys:
            raise ConfigurationError("keys= is empty; give at least one secret, by its name")
        self._keys = {valid_key(name, "key"): _secret(name, value) for name, value in keys.items()}
        self._client = valid_key(client, "client")
        self._clients = clients
        if clients is not None and clients.keys() != self._keys.keys():
            raise ConfigurationError("clients= names a client for each of keys=, and for no other")
        self._window, self._skew = seconds_of(window, "window"), seconds_of(skew, "skew")
        self._store = store
        self._refused = refused
        self._clock, self._nonce = clock, nonce

    # --- signing ----------------------------------------------------------------------------------------------------

    def sign(self, request: R) -> R:
        """Sign a request of ``requests`` or ``httpx``; as their ``auth=``, in ``httpx.post(url, json=…,
        auth=guard.sign)``.

        Its body has to be there: bytes, text, JSON or a form. Raises ConfigurationError for one that is a stream.
        """
        given: Any = request
        given.headers[SIGNATURE] = self.signature(_to_be_signed(given))
        return request

    def signature(self, request: SignedRequest) -> str:
        """The header's value."""
        name = next(iter(self._keys))
        said = (self._client, name, str(int(self._clock())), self._nonce())
        return _written(*said, _code(self._keys[name], request, *said))

    # --- checking ---------------------------------------------------------------------------------------------------

    def check(self, request: SignedRequest, header: str | None) -> Verified:
        """Who sent a request. ``header``: the value of ``Stageflow-Signature``; None: it has none.

        Raises ReplayRefused; StoreUnavailable.
        """
        if self._store is None:
            raise ConfigurationError("ReplayGuard(store=…) is needed to check requests: nonces are kept there")
        try:
            return self._checked(self._store, request, header)
        except ReplayRefused as why:
            log.warning("%s", why, extra={"event": f"replay.{why.reason}", "client": why.client})
            if self._refused is not None:
                self._refused(why)
            raise

    def _checked(self, store: IdempotencyStore, request: SignedRequest, header: str | None) -> Verified:
        if header is None:
            raise ReplayRefused("missing", f"the header {SIGNATURE} is missing")
        client, name, at, nonce, code = _read(header)
        # Of an unknown key too something is computed, so that the time tells nothing of which there are.
        secret = self._keys.get(name)
        right = hmac.compare_digest(_code(secret or b"\0" * 32, request, client, name, at, nonce), code)
        if secret is None or not right:
            raise ReplayRefused("tampered", "the signature is not one of this request by a known key", client)
        if self._clients is not None and self._clients[name] != client:
            raise ReplayRefused("tampered", f"key {name!r} is another client's", client)
        age = self._clock() - int(at)
        if age > self._window + self._skew:
            raise ReplayRefused("stale", f"it was signed {age:.0f} s ago; sign it anew", client)
        if age < -self._skew:
            raise ReplayRefused("future", f"it was signed {-age:.0f} s ahead; set the client's clock", client)
        return Verified(client, self._is_resent(store, request, client, nonce, code))

    def _is_resent(self, store: IdempotencyStore, request: SignedRequest, client: str, nonce: str, code: str) -> bool:
        """Take the nonce. It is never completed: it is known for as long as its signature could hold."""
        life = self._window + 2 * self._skew
        try:
            found = store.claim(
                Scope(client, _OPERATION),
                nonce,
                fingerprint(code),
                owner="signed request",
                lease_seconds=life,
                ttl_seconds=life,
            )
        except IdempotencyParamMismatch:
            raise ReplayRefused("seen", "its nonce was used for another request", client) from None
        if isinstance(found, Claimed):
            return False
        if not request.idempotency_key:
            raise ReplayRefused("seen", "it was sent before; what may be sent again has an Idempotency-Key", client)
        return True


def _secret(name: str, given: str | bytes) -> bytes:
    found = given.encode() if isinstance(given, str) else given
    if len(found) < SHORTEST_SECRET:
        raise ConfigurationError(f"keys={{{name!r}: …}}: a secret has at least {SHORTEST_SECRET} bytes")
    return found


def _code(secret: bytes, request: SignedRequest, client: str, key: str, at: str, nonce: str) -> str:
    """The lines that are signed: none of them can hold a line's end."""
    lines = (
        "stageflow-signature-v1",
        quote(client, safe=""),
        quote(key, safe=""),
        at,
        nonce,
        request.method.upper(),
        quote(request.path, safe="/"),
        quote(request.query, safe="%&=+/?:@!$'()*,;~-._"),
        hashlib.sha256(request.body).hexdigest(),
        quote(request.idempotency_key, safe=""),
    )
    return hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()


def _written(client: str, key: str, at: str, nonce: str, code: str) -> str:
    return f"client={quote(client, safe='')}, key={quote(key, safe='')}, at={at}, nonce={nonce}, v1={code}"


def _read(header: str) -> tuple[str, str, str, str, str]:
    found = _PARTS.fullmatch(header.strip())
    if found is None or not header.isascii():
        raise ReplayRefused("malformed", f"the header {SIGNATURE} is malformed")
    client, key, at, nonce, code = found.groups()
    try:
        named = valid_key(unquote(client), "client")
        return named, valid_key(unquote(key), "key"), at, nonce, code
    except InvalidKey as error:
        raise ReplayRefused("malformed", f"the header {SIGNATURE} is malformed: {error}") from None


def _to_be_signed(request: Any) -> SignedRequest:
    """Of a ``requests.PreparedRequest`` or an ``httpx.Request``."""
    raw = getattr(request, "path_url", None)  # of requests
    if raw is None:
        target, body = request.url.raw_path.decode("ascii"), _content(request)
    else:
        target, body = raw, request.body or b""
    if isinstance(body, str):
        body = body.encode()
    if not isinstance(body, bytes):
        raise ConfigurationError("a request whose body is a stream cannot be signed; give it as bytes")
    path, _mark, query = target.partition("?")
    key = request.headers.get("Idempotency-Key") or ""
    return SignedRequest(request.method, unquote_to_bytes(path or "/"), query, body, key)


def _content(request: Any) -> Any:
    try:
        return request.read()  # of httpx: what is there already, or a form
    except RuntimeError:  # it is read asynchronously
        return None
