"""Requests with an Idempotency-Key: handled once, answered alike, refused by name, under ASGI and WSGI."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow_durable.errors import ConfigurationError, FenceLost, StoreUnavailable
from stageflow_durable.idempotency import MemoryIdempotencyStore
from stageflow_durable.web import openapi
from tests.unit.web.guarded import Got, Said, Site, problem_of

KINDS = ("asgi", "wsgi")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str) -> Site:
    return Site(kind)


# --- the same request again -------------------------------------------------------------------------------------------


def test_a_request_that_comes_again_gets_the_same_answer_and_nothing_is_done(site: Site) -> None:
    first, again = site.ask(), site.ask()
    assert (first.status, first.body, first.replayed) == (201, b'{"payment": 1}', False)
    assert (again.status, again.body, again.replayed) == (201, b'{"payment": 1}', True)
    assert (again["x-order"], again["content-type"], again["content-length"]) == ("A-1", "application/json", "14")
    assert first["set-cookie"] == "s=secret"
    assert again["set-cookie"] is None
    assert len(site.handler.done) == 1


def test_the_handler_gets_the_body_and_a_key_of_this_client_alone(site: Site) -> None:
    site.ask(who="ann")
    site.ask(who="max")
    (_, body, anns), (_, _, maxs) = site.handler.done
    assert body == b'{"n": 1}'
    assert anns is not None and maxs is not None
    assert anns.startswith("order-A-1~") and maxs.startswith("order-A-1~")
    assert anns != maxs
    assert len(anns) <= 255


def test_a_long_key_is_handed_on_shortened_and_still_its_own(site: Site) -> None:
    for end in "ab":
        assert site.ask("k" * 254 + end).status == 201
    keys = {key for _, _, key in site.handler.done}
    assert len(keys) == 2
    assert all(key is not None and len(key) <= 255 for key in keys)


def test_two_clients_with_one_key_never_meet(site: Site) -> None:
    assert not site.ask(who="ann").replayed
    assert not site.ask(who="max", body=b'{"n": 2}').replayed
    assert site.ask(who="ann").replayed


def test_cookies_tell_who_it_is_and_only_those_that_are_named(kind: str) -> None:
    site = Site(kind, cookies=["session"])
    assert not site.ask(who=None, beside={"cookie": "session=ann; seen=1"}).replayed
    assert site.ask(who=None, beside={"cookie": "seen=2; session=ann"}).replayed
    assert not site.ask(who=None, beside={"cookie": "session=max"}).replayed
    assert site.ask(who=None, beside={"cookie": "seen=3"}).kind == "unknown-client"
    every = Site(kind)
    assert not every.ask(who=None, beside={"cookie": "session=ann; seen=1"}).replayed
    assert not every.ask(who=None, beside={"cookie": "session=ann; seen=2"}).replayed


def test_a_function_tells_who_it_is(kind: str) -> None:
    site = Site(kind, client=lambda request: request.header("x-user") or None)
    assert not site.ask(who="one", beside={"x-user": "ann"}).replayed
    assert site.ask(who="another", beside={"x-user": "ann"}).replayed
    assert (site.ask().status, site.ask().kind) == (400, "unknown-client")
    assert site.ask(beside={"x-user": "a" * 256}).kind == "unknown-client"


# --- which key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_without_a_key_where_one_is_required_it_is_a_400(site: Site, method: str) -> None:
    got = site.ask(None, method=method)
    assert (got.status, got.kind) == (400, "missing-key")
    assert site.handler.done == []


def test_methods_that_may_have_a_key_are_handled_without_one(site: Site) -> None:
    for _time in range(2):
        assert site.ask(None, method="PUT").status == 201
    assert [key for _, _, key in site.handler.done] == [None, None]
    assert [site.ask(method="PUT").replayed for _time in range(2)] == [False, True]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_are_handled_as_ever(site: Site, method: str) -> None:
    assert [site.ask(method=method, body=b"").replayed for _time in range(2)] == [False, False]
    assert [key for _, _, key in site.handler.done] == [None, None]


def test_a_function_says_which_requests_need_a_key(kind: str) -> None:
    site = Site(kind, required=lambda request: request.path.startswith("/payments"))
    assert site.ask(None).status == 201
    assert site.ask(None, path="/payments").kind == "missing-key"


BAD_KEYS = [
    "",
    " ",
    '"',
    '"open',
    '"a" b',
    "k" * 256,
    "a\tb",
    "caf\u00e9",
    '""',
    '"\x7f"',
    "one\x00",
    "one, two",
    "one,two",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_malformed_key_is_a_400(site: Site, key: str) -> None:
    got = site.ask(key)
    assert (got.status, got.kind) == (400, "bad-key")
    assert site.handler.done == []


def test_a_key_that_is_sent_twice_is_refused(kind: str) -> None:
    assert Site(kind).ask(["one", "two"]).kind == "bad-key"  # a WSGI server has made one of them: "one,two"


def test_a_quoted_key_is_what_it_quotes(site: Site) -> None:
    assert not site.ask('"order \\"A\\" \\\\ 1"').replayed
    assert site.ask('order "A" \\ 1').replayed


# --- another request --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"body": b'{"n": 2}'}, "body"),
        ({"body": b"{}"}, "body"),
        ({"path": "/refunds"}, "path"),
        ({"method": "PUT"}, "method"),
        ({"kind": "text/plain"}, "content_type"),
    ],
)
def test_another_request_under_the_key_is_a_422(site: Site, other: dict[str, Any], named: str) -> None:
    site.ask()
    got = site.ask(**other)
    assert (got.status, got.kind) == (422, "mismatch")
    assert named in problem_of(got)["errors"]
    assert len(site.handler.done) == 1


@pytest.mark.parametrize("same", [b'{"b": 1.0, "a": [2]}', b' {"a":[2],"b":1}'])
def test_json_that_means_the_same_is_the_same(site: Site, same: bytes) -> None:
    site.ask(body=b'{"a": [2], "b": 1}')
    assert site.ask(body=same).replayed


@pytest.mark.parametrize("other", [b'{"a": 1, "a": 1}', b'{"a": NaN}', b"[" * 20_000, b"\xff", b'{"a": true}', b""])
def test_json_that_is_none_is_compared_byte_by_byte(site: Site, other: bytes) -> None:
    site.ask(body=b'{"a": 1}')
    assert site.ask(body=other).kind == "mismatch"
    assert not site.ask("another", body=other).replayed
    assert site.ask("another", body=other).replayed


def test_a_form_with_a_file_is_the_same_whatever_its_boundary(site: Site) -> None:
    def form(boundary: str, content: bytes) -> dict[str, Any]:
        part = b'\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + content + b"\r\n"
        body = b"--" + boundary.encode() + part + b"--" + boundary.encode() + b"--\r\n"
        return {"body": body, "kind": f"multipart/form-data; boundary={boundary}"}

    assert not site.ask(**form("one", b"\x00\x01")).replayed
    assert site.ask(**form("two", b"\x00\x01")).replayed
    assert site.ask(**form("three", b"\x00\x02")).kind == "mismatch"


# --- what is remembered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "replayed"), [(200, True), (204, True), (303, True), (402, True), (404, False)])
def test_what_is_remembered(kind: str, status: int, replayed: bool) -> None:
    site = Site(kind, remember=[402])
    site.handler.says = Said(status, (("Location", "/orders/1"),), (b"",))
    assert [site.ask().replayed for _time in range(2)] == [False, replayed]
    assert len(site.handler.done) == (1 if replayed else 2)


def test_after_a_4xx_the_key_is_free_for_a_mended_request(site: Site) -> None:
    site.handler.says = Said(400)
    site.ask(body=b'{"n": "x"}')
    site.handler.says = Said(201)
    assert site.ask(body=b'{"n": 2}').status == 201


def test_after_a_5xx_the_same_request_is_handled_again_and_no_other(site: Site) -> None:
    site.handler.says = Said(503)
    assert site.ask().status == 503
    site.handler.says = Said(201)
    assert site.ask(body=b'{"n": 2}').kind == "mismatch"
    assert (site.ask().status, site.ask().replayed) == (201, True)


@pytest.mark.parametrize("parts", [(RuntimeError(),), (b"a", RuntimeError())])
def test_a_handler_that_raises_is_called_again(site: Site, parts: Any) -> None:
    site.handler.says = Said(parts=parts)
    with pytest.raises(RuntimeError):
        site.ask()
    site.handler.says = Said()
    assert site.ask().status == 201


def test_an_answer_in_parts_is_remembered_whole(site: Site) -> None:
    site.handler.says = Said(parts=(b"a", b"", b"bc"))
    assert [site.ask().body for _time in range(2)] == [b"abc", b"abc"]


@pytest.mark.parametrize("headers", [(), (("Content-Type", "text/event-stream; charset=utf-8"),)])
def test_of_an_answer_that_is_not_kept_it_is_known_that_it_was_given(kind: str, headers: Any) -> None:
    site = Site(kind, max_response_bytes=1000)
    size = 10 if headers else 600
    site.handler.says = Said(200, headers, (b"a" * size, b"b" * size, b"c" * size))
    assert site.ask().body == b"a" * size + b"b" * size + b"c" * size
    again = site.ask()
    assert (again.status, again.kind) == (409, "answer-not-kept")
    assert len(site.handler.done) == 1


def test_a_request_that_is_too_large_is_a_413(kind: str) -> None:
    site = Site(kind, max_request_bytes=10)
    assert site.ask(body=b"x" * 11).status == 413
    assert site.ask(None, method="PUT", body=b"x" * 11).status == 201  # without a key there is nothing to compare


# --- at the same time -------------------------------------------------------------------------------------------------


def together(site: Site, count: int, **given: Any) -> list[Got]:
    got: list[Got] = []
    threads = [threading.Thread(target=lambda: got.append(site.ask(**given))) for _number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_those_that_come_meanwhile_wait_for_the_first(kind: str) -> None:
    site = Site(kind, wait_seconds=20)
    site.handler.during = lambda: time.sleep(0.1)
    got = together(site, 12)
    assert {(one.status, one.body) for one in got} == {(201, b'{"payment": 1}')}
    assert sorted(one.replayed for one in got) == [False] + [True] * 11
    assert len(site.handler.done) == 1


def test_whoever_waits_in_vain_is_told_when_to_come_again(site: Site) -> None:
    inside: list[Got] = []
    site.handler.during = lambda: inside.extend([site.ask(), site.ask(body=b'{"n": 2}')])
    assert site.ask().status == 201
    meanwhile, other = inside
    assert (meanwhile.status, meanwhile.kind) == (409, "in-progress")
    assert 1 <= int(meanwhile["retry-after"] or 0) <= 10
    assert (other.status, other.kind) == (422, "mismatch")


def test_a_handler_that_takes_longer_than_a_lease_keeps_its_key(kind: str) -> None:
    site = Site(kind, lease_seconds=0.2)
    inside: list[Got] = []

    def during() -> None:
        time.sleep(0.5)
        inside.append(site.ask())

    site.handler.during = during
    assert site.ask().status == 201
    assert inside[0].kind == "in-progress"


# --- a store that fails -----------------------------------------------------------------------------------------------


class Failing(MemoryIdempotencyStore):
    """``fails``: what its methods raise."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: dict[str, Exception] = {}

    def claim(self, *given: Any, **more: Any) -> Any:
        self._fail("claim")
        return super().claim(*given, **more)

    def complete(self, *given: Any, **more: Any) -> None:
        self._fail("complete")
        super().complete(*given, **more)

    def release(self, *given: Any, **more: Any) -> None:
        self._fail("release")
        super().release(*given, **more)

    def _fail(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]


AWAY = StoreUnavailable("Redis did not answer")


@pytest.fixture
def store() -> Failing:
    return Failing()


@pytest.fixture
def failing(kind: str, store: Failing) -> Site:
    return Site(kind, store)


def test_while_the_store_is_away_nothing_is_done(failing: Site, store: Failing) -> None:
    store.fails = {"claim": AWAY}
    got = failing.ask()
    assert (got.status, got.kind, got["retry-after"]) == (503, "store-unavailable", "5")
    assert failing.handler.done == []


@pytest.mark.parametrize(("status", "call"), [(201, "complete"), (500, "release")])
def test_an_answer_that_cannot_be_remembered_is_sent(failing: Site, store: Failing, status: int, call: str) -> None:
    store.fails = {call: AWAY}
    failing.handler.says = Said(status)
    assert failing.ask().status == status


def test_of_two_that_handled_it_all_get_the_answer_of_who_has_the_key(failing: Site, store: Failing) -> None:
    def another_finishes() -> None:
        failing.handler.during = lambda: None
        failing.handler.says = Said(parts=(b"theirs",))
        _lose_everything(store)
        assert failing.ask().body == b"theirs"
        failing.handler.says = Said(parts=(b"mine",))

    failing.handler.during = another_finishes
    assert failing.ask().body == b"theirs"
    assert failing.ask().body == b"theirs"


def test_of_two_at_work_the_one_that_lost_the_key_tells_to_come_again(failing: Site, store: Failing) -> None:
    inside: list[Got] = []

    def another_begins() -> None:
        _lose_everything(store)
        failing.handler.during = lambda: inside.append(failing.ask()) if not inside else None
        store.claim(*_claimed(failing), owner="other", lease_seconds=60, ttl_seconds=60)

    failing.handler.during = another_begins
    assert failing.ask().kind == "in-progress"


def _lose_everything(store: Failing) -> None:
    store._records.clear()
    time.sleep(0.002)  # the next fence is a time, in milliseconds


def _claimed(site: Site) -> tuple[Any, str, str]:
    guard = (site._asgi if site.kind == "asgi" else site._wsgi)._guard
    (held,) = guard._running._held.values()
    return held.scope, held.key, held.ctx.fingerprint


def test_a_lease_that_cannot_be_ended_lapses(failing: Site, store: Failing) -> None:
    store.fails = {"release": FenceLost("gone")}
    failing.handler.says = Said(parts=(RuntimeError("theirs"),))
    with pytest.raises(RuntimeError, match="theirs"):
        failing.ask()


# --- made wrongly -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"secret": None}, "whose a key is"),
        ({"store": object()}, "not a store"),
        ({"remember": [500]}, "400 to 499"),
        ({"required": "POST"}, "not text"),
        ({"cookies": "session"}, "not text"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"lease_seconds": -1}, "lease_seconds"),
        ({"wait_seconds": -1}, "wait_seconds"),
    ],
)
def test_options_that_are_wrong_are_refused(kind: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Site(kind, **options)


def test_the_fragment_of_openapi_names_the_header_and_the_answers() -> None:
    found = openapi(required=False)
    assert (found["parameters"][0]["name"], found["parameters"][0]["required"]) == ("Idempotency-Key", False)
    assert set(found["responses"]) == {"400", "409", "413", "422", "503"}


# --- whatever comes ---------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=300)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(key=_TEXT, body=st.binary(max_size=200), content=_TEXT, method=st.sampled_from(["POST", "PUT", "BREW"]))
def test_whatever_is_sent_is_handled_or_refused(kind: str, key: str, body: bytes, content: str, method: str) -> None:
    site = Site(kind)
    got = site.ask(key, body, method=method, kind=content)
    assert got.status in {201, 400}
    assert site.ask(key, body, method=method, kind=content).replayed == (got.status == 201)
