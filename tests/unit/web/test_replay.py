"""Signed requests: once as they were, again only under a key, and refused by name otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.errors import ConfigurationError, ReplayRefused
from stageflow_durable.idempotency import MemoryIdempotencyStore
from stageflow_durable.web import ReplayGuard
from stageflow_durable.web.replay import SIGNATURE, SignedRequest
from tests.unit.web.guarded import Got, Site

OLD, NEW = "an older secret, of 16 bytes", "a newer secret, of 16 bytes"
REQUEST = SignedRequest("POST", b"/orders", "a=1", b'{"n": 1}', "order-A-1")


class Time:
    now = 1_764_547_200.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def guard(clock: Time) -> ReplayGuard:
    return ReplayGuard({"2026": NEW}, client="ann", store=MemoryIdempotencyStore(clock), clock=clock)


def reason(guard: ReplayGuard, request: SignedRequest, header: str | None) -> str:
    with pytest.raises(ReplayRefused) as refused:
        guard.check(request, header)
    return refused.value.reason


def test_a_signed_request_is_of_who_signed_it(guard: ReplayGuard) -> None:
    header = guard.signature(REQUEST)
    assert guard.check(REQUEST, header) == ("ann", False)
    assert guard.check(REQUEST, header) == ("ann", True)  # as it was, under its key


def test_nobody_signs_as_another_where_each_key_has_its_client(clock: Time) -> None:
    keys, store = {"of ann": OLD, "of max": NEW}, MemoryIdempotencyStore(clock)
    guard = ReplayGuard(keys, clients={"of ann": "ann", "of max": "max"}, store=store, clock=clock)
    as_max, as_ann = (ReplayGuard({"of max": NEW}, client=name, clock=clock) for name in ("max", "ann"))
    assert guard.check(REQUEST, as_max.signature(REQUEST)) == ("max", False)
    assert reason(guard, REQUEST, as_ann.signature(REQUEST)) == "tampered"


@pytest.mark.parametrize("clients", [{}, {"2026": "ann", "2027": "ann"}])
def test_each_key_has_a_client_or_none_has(clients: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="clients= names a client for each of keys="):
        ReplayGuard({"2026": NEW}, clients=clients)


def test_without_a_key_it_counts_once(guard: ReplayGuard) -> None:
    plain = REQUEST._replace(idempotency_key="")
    header = guard.signature(plain)
    guard.check(plain, header)
    assert reason(guard, plain, header) == "seen"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": b"/refunds"},
        {"query": "a=2"},
        {"body": b'{"n": 2}'},
        {"idempotency_key": "order-A-2"},
    ],
)
def test_whatever_was_changed_is_tampered_with(guard: ReplayGuard, change: dict[str, Any]) -> None:
    assert reason(guard, REQUEST._replace(**change), guard.signature(REQUEST)) == "tampered"


@pytest.mark.parametrize(
    ("what", "other"), [("client=ann", "client=max"), ("at=17645", "at=17646"), ("key=2026", "key=2")]
)
def test_whatever_of_the_signature_was_changed_is_too(guard: ReplayGuard, what: str, other: str) -> None:
    assert reason(guard, REQUEST, guard.signature(REQUEST).replace(what, other)) == "tampered"


def test_it_is_stale_after_its_window_and_of_the_future_before_its_time(guard: ReplayGuard, clock: Time) -> None:
    header = guard.signature(REQUEST)
    clock.now += 330
    assert guard.check(REQUEST, header).client == "ann"
    clock.now += 1
    assert reason(guard, REQUEST, header) == "stale"
    header = guard.signature(REQUEST)
    clock.now -= 30
    assert guard.check(REQUEST, header).client == "ann"
    clock.now -= 1
    assert reason(guard, REQUEST, header) == "future"


def test_a_nonce_lives_as_long_as_any_of_its_signatures_could_hold(clock: Time) -> None:
    guard = ReplayGuard({"k": NEW}, store=MemoryIdempotencyStore(clock), clock=clock, nonce=lambda: "n" * 16)
    plain = REQUEST._replace(idempotency_key="")
    clock.now += 30
    header = guard.signature(plain)  # by a client whose clock is ahead
    clock.now -= 30
    guard.check(plain, header)
    clock.now += 359
    assert reason(guard, plain, header) == "seen"
    clock.now += 2
    assert reason(guard, plain, header) == "stale"


def test_a_nonce_of_another_request_was_seen(clock: Time) -> None:
    guard = ReplayGuard({"k": NEW}, store=MemoryIdempotencyStore(clock), clock=clock, nonce=lambda: "n" * 16)
    guard.check(REQUEST, guard.signature(REQUEST))
    other = REQUEST._replace(body=b"{}")
    assert reason(guard, other, guard.signature(other)) == "seen"


def test_keys_follow_each_other(clock: Time) -> None:
    store = MemoryIdempotencyStore(clock)
    both = ReplayGuard({"2026": NEW, "2025": OLD}, store=store, clock=clock)
    before, after = (ReplayGuard(keys, clock=clock) for keys in ({"2025": OLD}, {"2026": NEW}))
    for client in (before, after, both):
        both.check(REQUEST, client.signature(REQUEST))
    only_new = ReplayGuard({"2026": NEW}, store=store, clock=clock)
    assert reason(only_new, REQUEST, before.signature(REQUEST)) == "tampered"


def test_each_refusal_is_told(clock: Time, caplog: pytest.LogCaptureFixture) -> None:
    told: list[ReplayRefused] = []
    guard = ReplayGuard({"k": NEW}, store=MemoryIdempotencyStore(clock), clock=clock, refused=told.append)
    assert reason(guard, REQUEST, None) == "missing"
    assert reason(guard, REQUEST._replace(body=b"{}"), guard.signature(REQUEST)) == "tampered"
    assert [one.reason for one in told] == ["missing", "tampered"]
    assert [record.__dict__["event"] for record in caplog.records] == ["replay.missing", "replay.tampered"]
    assert NEW not in caplog.text


@given(st.text(max_size=200))
def test_whatever_the_header_is_it_is_refused_by_name(header: str) -> None:
    guard = ReplayGuard({"k": NEW}, store=MemoryIdempotencyStore())
    assert reason(guard, REQUEST, header) == "malformed"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"keys": {}}, "at least one"),
        ({"keys": {"k": "short"}}, "16 bytes"),
        ({"keys": {"k": NEW}, "window": 0}, "window"),
    ],
)
def test_what_is_made_wrongly_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ReplayGuard(**given)
    with pytest.raises(ConfigurationError, match="store="):
        ReplayGuard({"k": NEW}).check(REQUEST, "")


# --- the vectors of the documentation ---------------------------------------------------------------------------------


def test_the_vectors_hold() -> None:
    guard = ReplayGuard(
        {"2026": "correct horse battery staple"},
        client="shop",
        clock=lambda: 1764547200,
        nonce=lambda: "n0nce-of-16-char",
    )
    begin = "client=shop, key=2026, at=1764547200, nonce=n0nce-of-16-char, v1="
    other = SignedRequest("DELETE", "/caf\u00e9/a b".encode(), "", b"")
    assert guard.signature(REQUEST) == begin + "3e39df27e0788b57570e28cc4c7ad19b8f4fb7a22c05468e8119b375343267ea"
    assert guard.signature(other) == begin + "50d6118821836a8508fdf05969f590c785a11bf857e9bf2731b78b63d9d99348"


# --- clients ----------------------------------------------------------------------------------------------------------


def _by_requests(guard: ReplayGuard, url: str, **given: Any) -> tuple[str, str, bytes, str | None]:
    made = requests.Request("POST", url, auth=guard.sign, **given).prepare()
    body = made.body.encode() if isinstance(made.body, str) else made.body or b""
    return made.path_url, made.headers[SIGNATURE], body, made.headers.get("Idempotency-Key")


def _by_httpx(guard: ReplayGuard, url: str, **given: Any) -> tuple[str, str, bytes, str | None]:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer), auth=guard.sign) as client:
        client.post(url, **given)
    (made,) = seen
    return made.url.raw_path.decode(), made.headers[SIGNATURE], made.read(), made.headers.get("Idempotency-Key")


@pytest.mark.parametrize("by", [_by_requests, _by_httpx])
@pytest.mark.parametrize("body", [{"json": {"n": 1}}, {"data": {"n": "1"}}, {}])
def test_clients_sign_what_they_send(guard: ReplayGuard, by: Callable[..., Any], body: dict[str, Any]) -> None:
    url = "https://shop.test/caf%C3%A9/a%20b?x=1&y=%2F"
    target, header, sent, key = by(guard, url, headers={"Idempotency-Key": "k-1"}, **body)
    path, _mark, query = target.partition("?")
    assert path == "/caf%C3%A9/a%20b"
    assert key == "k-1"
    assert guard.check(SignedRequest("POST", "/caf\u00e9/a b".encode(), query, sent, "k-1"), header).client == "ann"


def test_a_stream_is_not_signed(guard: ReplayGuard) -> None:
    with pytest.raises(ConfigurationError, match="stream"):
        requests.Request("POST", "https://shop.test/", data=iter([b"a"]), auth=guard.sign).prepare()


# --- in the middleware ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
class TestMiddleware:
    def ask(self, site: Site, guard: ReplayGuard, header: str | None = None, **given: Any) -> Got:
        key = given.get("key", "order-A-1")
        method, body = given.get("method", "POST"), given.get("body", b'{"n": 1}')
        signed = header or guard.signature(SignedRequest(method, b"/orders", "", body, key or ""))
        return site.ask(key, body, method=method, who=None, beside={SIGNATURE: signed})

    def test_an_honest_resend_gets_the_answer_and_a_signature_of_later_too(
        self, kind: str, guard: ReplayGuard, clock: Time
    ) -> None:
        site = Site(kind, secret=None, replay=guard)
        header = guard.signature(SignedRequest("POST", b"/orders", "", b'{"n": 1}', "order-A-1"))
        assert [self.ask(site, guard, header).replayed for _time in range(3)] == [False, True, True]
        clock.now += 400
        got = self.ask(site, guard, header)
        assert (got.status, got.kind, got["www-authenticate"]) == (401, "signature-stale", SIGNATURE)
        assert self.ask(site, guard).replayed
        assert len(site.handler.done) == 1

    def test_without_a_signature_nothing_is_done(self, kind: str, guard: ReplayGuard) -> None:
        site = Site(kind, secret=None, replay=guard)
        assert site.ask().kind == "signature-missing"
        assert site.ask(None, method="PUT").kind == "signature-missing"
        assert self.ask(site, guard, "nonsense").kind == "signature-malformed"
        assert site.handler.done == []

    def test_a_request_without_a_key_counts_once(self, kind: str, guard: ReplayGuard) -> None:
        site = Site(kind, secret=None, replay=guard)
        header = guard.signature(SignedRequest("PUT", b"/orders", "", b'{"n": 1}'))
        assert self.ask(site, guard, header, key=None, method="PUT").status == 201
        assert self.ask(site, guard, header, key=None, method="PUT").kind == "signature-seen"
        assert [body for _, body, _ in site.handler.done] == [b'{"n": 1}']

    def test_whoever_signed_is_whose_key_it_is(self, kind: str, guard: ReplayGuard, clock: Time) -> None:
        site = Site(kind, secret=None, replay=guard)
        other = ReplayGuard({"2026": NEW}, client="max", clock=clock)
        assert [self.ask(site, by).replayed for by in (guard, other, guard)] == [False, False, True]
        assert json.loads(self.ask(site, other, body=b"{}").body)["status"] == 422
