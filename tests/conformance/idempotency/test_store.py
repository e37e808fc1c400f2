"""What every idempotency store promises (``idempotency/store.py``), on every store."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from stageflow_durable.codec import fingerprint
from stageflow_durable.errors import (
    ConfigurationError,
    FenceLost,
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidKey,
    UnsavableValue,
)
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.store import Claimed, Done, IdempotencyStore, InProgress
from tests.conformance.idempotency.backends import LONG, SCOPE, SHORT, Backend

# --- claims -----------------------------------------------------------------------------------------------------------


def test_every_store_is_an_idempotency_store(backend: Backend) -> None:
    assert isinstance(backend.store, IdempotencyStore)


def test_given_a_free_key_when_claimed_then_it_is_ours_with_a_fence(backend: Backend) -> None:
    assert backend.fence() > 0


def test_given_a_running_lease_when_claimed_again_then_it_is_in_progress_and_says_until_when(backend: Backend) -> None:
    fence = backend.fence(lease=60)
    answer = backend.claim(owner="worker-2")
    assert isinstance(answer, InProgress)
    assert (answer.fence, answer.owner) == (fence, "worker-1")
    assert answer.seconds_left is not None
    assert 30 < answer.seconds_left <= 60
    assert answer.until is not None
    assert answer.until.tzinfo is UTC


def test_given_a_running_lease_when_the_same_owner_claims_again_then_it_is_still_in_progress(backend: Backend) -> None:
    backend.fence()
    assert isinstance(backend.claim(owner="worker-1"), InProgress)


def test_given_a_lapsed_lease_when_claimed_again_then_it_is_taken_with_a_higher_fence(backend: Backend) -> None:
    first = backend.fence(lease=SHORT)
    backend.advance(SHORT * 1.5)
    assert backend.fence() > first


def test_given_a_renewed_lease_when_its_first_term_has_passed_then_it_is_still_in_progress(backend: Backend) -> None:
    term = 4 * SHORT  # on a busy machine there is a while between two statements
    fence = backend.fence(lease=term, ttl=term)
    backend.store.renew(SCOPE, "order-1", fence, lease_seconds=timedelta(seconds=60))
    backend.advance(term * 1.1)
    assert isinstance(backend.claim(), InProgress)


def test_given_a_renewal_shorter_than_the_rest_of_the_lifetime_then_the_lifetime_stays(backend: Backend) -> None:
    fence = backend.fence(params={"a": 1})
    backend.store.renew(SCOPE, "order-1", fence, lease_seconds=SHORT)
    backend.advance(SHORT * 1.5)
    with pytest.raises(IdempotencyParamMismatch):
        backend.claim(params={"a": 2})


def test_given_a_lease_longer_than_the_ttl_then_the_key_outlives_the_ttl(backend: Backend) -> None:
    backend.fence(lease=60, ttl=SHORT)
    backend.advance(SHORT * 1.5)
    assert isinstance(backend.claim(), InProgress)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, 1e12, timedelta(0)])
@pytest.mark.parametrize("name", ["lease_seconds", "ttl_seconds"])
def test_given_a_duration_that_is_not_positive_or_endless_then_it_is_refused_by_name(
    memory_backend: Backend, name: str, wrong: Any
) -> None:
    durations: dict[str, Any] = {"lease_seconds": 1, "ttl_seconds": 1, name: wrong}
    with pytest.raises(ConfigurationError, match=name):
        memory_backend.store.claim(SCOPE, "k", "f", owner="o", **durations)


@pytest.mark.parametrize("wrong", [0, -0.5, timedelta(seconds=-1)])
def test_given_a_ttl_that_is_not_positive_then_every_store_refuses_it(backend: Backend, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="ttl_seconds"):
        backend.claim(ttl=wrong)
    fence = backend.fence()
    with pytest.raises(ConfigurationError, match="ttl_seconds"):
        backend.store.complete(SCOPE, "order-1", fence, None, ttl_seconds=wrong)
    with pytest.raises(ConfigurationError, match="lease_seconds"):
        backend.store.renew(SCOPE, "order-1", fence, lease_seconds=wrong)


def test_given_an_owner_with_a_control_character_then_it_is_refused(backend: Backend) -> None:
    with pytest.raises(InvalidKey, match="owner"):
        backend.claim(owner="worker\x00")


# --- results ----------------------------------------------------------------------------------------------------------

RESULTS: list[Any] = [
    None,
    False,
    True,
    0,
    0.0,
    "",
    [],
    {},
    (),
    set(),
    b"",
    "\x00",
    "\ud800",
    "na\u00efve \u202e \U0001f382",
    10**30,
    -0.0,
    1e-300,
    Decimal("0.00"),
    timedelta(0),
    date(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=UTC),
    {"payment_id": "p-1", "lines": [{"n": 1}, {"n": None}], "tags": ("a", b"\x00\xff")},
    ["x" * 100_000],
]


def test_given_completed_keys_when_claimed_then_the_results_come_back_exactly_falsy_ones_too(backend: Backend) -> None:
    for number, result in enumerate(RESULTS):
        key = f"order-{number}"
        backend.store.complete(SCOPE, key, backend.fence(key), result, ttl_seconds=LONG)
    answers = [backend.claim(f"order-{number}") for number in range(len(RESULTS))]
    assert [repr(answer.result) for answer in answers if isinstance(answer, Done)] == [repr(one) for one in RESULTS]


def test_given_a_completed_key_when_completed_again_by_its_fence_then_the_first_result_stays(backend: Backend) -> None:
    fence = backend.fence()
    backend.store.complete(SCOPE, "order-1", fence, None, ttl_seconds=LONG)
    backend.store.complete(SCOPE, "order-1", fence, "second", ttl_seconds=SHORT)
    backend.advance(SHORT * 1.5)
    answer = backend.claim()
    assert isinstance(answer, Done)
    assert answer.result is None


def test_given_a_result_that_cannot_be_saved_then_it_is_refused_and_the_key_is_still_held(backend: Backend) -> None:
    fence = backend.fence()
    with pytest.raises(UnsavableValue):
        backend.store.complete(SCOPE, "order-1", fence, {"socket": object()}, ttl_seconds=LONG)
    assert isinstance(backend.claim(), InProgress)


def test_given_a_result_whose_ttl_has_passed_then_the_key_is_free_for_any_parameters(backend: Backend) -> None:
    fence = backend.fence(params={"a": 1})
    backend.store.complete(SCOPE, "order-1", fence, 1, ttl_seconds=SHORT)
    backend.advance(SHORT * 1.5)
    assert backend.fence(params={"a": 2}) > fence


def test_given_a_slow_body_then_the_ttl_counts_from_its_completion(backend: Backend) -> None:
    fence = backend.fence(lease=SHORT, ttl=60)
    backend.advance(SHORT)
    backend.store.complete(SCOPE, "order-1", fence, 1, ttl_seconds=timedelta(hours=1))
    assert isinstance(backend.claim(), Done)


# --- fences -----------------------------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[IdempotencyStore, int], None]] = {
    "renew": lambda store, fence: store.renew(SCOPE, "order-1", fence, lease_seconds=LONG),
    "complete": lambda store, fence: store.complete(SCOPE, "order-1", fence, "mine", ttl_seconds=LONG),
    "release": lambda store, fence: store.release(SCOPE, "order-1", fence),
    "vouch": lambda store, fence: store.release(SCOPE, "order-1", fence, vouched=True),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())


@every_write
def test_given_a_key_that_was_taken_over_then_no_write_of_the_old_owner_is_accepted(
    backend: Backend, write: Callable[[IdempotencyStore, int], None]
) -> None:
    old = backend.fence(lease=SHORT)
    backend.advance(SHORT * 1.5)
    new = backend.fence()
    with pytest.raises(FenceLost, match="order-1"):
        write(backend.store, old)
    assert isinstance(backend.claim(), InProgress)
    backend.store.complete(SCOPE, "order-1", new, "new", ttl_seconds=LONG)
    with pytest.raises(FenceLost):
        write(backend.store, old)
    answer = backend.claim()
    assert isinstance(answer, Done)
    assert answer.result == "new"


@every_write
def test_given_an_expired_or_unknown_key_then_no_write_is_accepted(
    backend: Backend, write: Callable[[IdempotencyStore, int], None]
) -> None:
    with pytest.raises(FenceLost):
        write(backend.store, 1)
    fence = backend.fence(lease=SHORT, ttl=SHORT)
    backend.advance(SHORT * 1.5)
    with pytest.raises(FenceLost):
        write(backend.store, fence)
    assert backend.fence() > fence


@every_write
def test_given_a_vouched_release_then_only_releasing_again_is_accepted(
    backend: Backend, write: Callable[[IdempotencyStore, int], None]
) -> None:
    fence = backend.fence()
    backend.store.release(SCOPE, "order-1", fence, vouched=True)
    if write in {WRITES["release"], WRITES["vouch"]}:
        write(backend.store, fence)
    else:
        with pytest.raises(FenceLost):
            write(backend.store, fence)
    assert backend.fence() > fence


@pytest.mark.parametrize("name", ["renew", "release", "vouch"])
def test_given_a_completed_key_then_its_owner_neither_renews_nor_releases_it(backend: Backend, name: str) -> None:
    fence = backend.fence()
    backend.store.complete(SCOPE, "order-1", fence, 1, ttl_seconds=LONG)
    with pytest.raises(FenceLost):
        WRITES[name](backend.store, fence)
    assert isinstance(backend.claim(), Done)


@pytest.mark.parametrize("name", ["renew", "complete", "release", "vouch"])
def test_given_a_lapsed_lease_that_nobody_took_then_its_owner_may_still_write(backend: Backend, name: str) -> None:
    fence = backend.fence(lease=SHORT)
    backend.advance(SHORT * 1.5)
    WRITES[name](backend.store, fence)
    assert isinstance(backend.claim(), {"renew": InProgress, "complete": Done}.get(name, Claimed))


def test_given_releases_expiries_and_takeovers_then_fences_only_rise(backend: Backend) -> None:
    fences = [backend.fence(lease=SHORT, ttl=SHORT)]
    for vouched in (True, False) * 3:
        backend.advance(SHORT * 1.5)
        fences.append(backend.fence())
        backend.store.release(SCOPE, "order-1", fences[-1], vouched=vouched)
        fences.append(backend.fence(lease=SHORT, ttl=SHORT))
    assert fences == sorted(set(fences))


# --- release ----------------------------------------------------------------------------------------------------------


def test_given_a_release_then_the_next_claim_need_not_wait(backend: Backend) -> None:
    fence = backend.fence()
    backend.store.release(SCOPE, "order-1", fence)
    backend.store.release(SCOPE, "order-1", fence)
    assert backend.fence() > fence


def test_given_a_release_that_is_not_vouched_then_the_key_stays_bound_to_its_parameters(backend: Backend) -> None:
    backend.store.release(SCOPE, "order-1", backend.fence(params={"amount": 1}))
    with pytest.raises(IdempotencyParamMismatch):
        backend.claim(params={"amount": 2})


def test_given_a_vouched_release_then_the_key_is_free_for_any_parameters(backend: Backend) -> None:
    backend.store.release(SCOPE, "order-1", backend.fence(params={"amount": 1}), vouched=True)
    assert backend.fence(params={"amount": 2})


# --- parameters -------------------------------------------------------------------------------------------------------

ORDER = {"amount": 4200, "to": {"name": "Ada", "iban": "DE1"}, "rush": True}


def _finish(backend: Backend, fence: int) -> None:
    backend.store.complete(SCOPE, "order-1", fence, "done", ttl_seconds=LONG)


def _let_it_lapse(backend: Backend, fence: int) -> None:
    backend.store.release(SCOPE, "order-1", fence)


def _leave_it(backend: Backend, fence: int) -> None:
    pass


@pytest.mark.parametrize("then", [_leave_it, _finish, _let_it_lapse])
def test_given_other_parameters_then_the_mismatch_names_the_key_and_the_fields(
    backend: Backend, then: Callable[[Backend, int], None]
) -> None:
    then(backend, backend.fence(params=ORDER))
    with pytest.raises(IdempotencyParamMismatch, match="order-1") as caught:
        backend.claim(params={"amount": 4300, "to": {"name": "Ada"}, "rush": True})
    assert caught.value.key == "order-1"
    assert caught.value.fields == ("amount", "to.iban")


@pytest.mark.parametrize("then", [_leave_it, _finish])
def test_given_a_duplicate_that_leaves_the_parameters_out_then_every_field_is_named(
    backend: Backend, then: Callable[[Backend, int], None]
) -> None:
    then(backend, backend.fence(params=ORDER))
    with pytest.raises(IdempotencyParamMismatch) as caught:
        backend.store.claim(SCOPE, "order-1", fingerprint(None), owner="o", lease_seconds=1, ttl_seconds=1)
    assert set(caught.value.fields) >= {"amount", "rush"}


def test_given_a_first_claim_without_parameters_then_a_duplicate_with_some_is_refused(backend: Backend) -> None:
    backend.store.claim(SCOPE, "order-1", fingerprint(None), owner="o", lease_seconds=LONG, ttl_seconds=LONG)
    with pytest.raises(IdempotencyParamMismatch) as caught:
        backend.claim(params={"amount": 1})
    assert caught.value.fields == ("amount",)


@pytest.mark.parametrize("same", [{"b": [1.0], "a": 1}, {"a": 1.0, "b": [1]}])
def test_given_equal_parameters_in_another_order_or_number_type_then_it_is_a_duplicate(
    backend: Backend, same: Any
) -> None:
    backend.fence(params={"a": 1, "b": [1]})
    assert isinstance(backend.claim(params=same), InProgress)


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (None, ""), (2**70, 2**70 + 1), ({}, [])])
def test_given_parameters_that_only_look_alike_then_they_differ(backend: Backend, one: Any, other: Any) -> None:
    backend.fence(params={"value": one})
    with pytest.raises(IdempotencyParamMismatch) as caught:
        backend.claim(params={"value": other})
    assert caught.value.fields == ("value",)


# --- keys are data ----------------------------------------------------------------------------------------------------

HOSTILE = [
    "'; DROP TABLE stageflow_idempotency_keys; --",
    '"',
    "\\",
    "%s %(key)s :key $1 {0} {key}",
    "*",
    "a:b",
    "a",
    " a",
    "a ",
    "A",
    "\u00e9",
    "e\u0301",
    "\u00c5",
    "\u212b",
    "\U0001f382" * 255,
    "\u202edesrever",
    "\u200b",
    "\u2028",
    "\uffff",
    "\U0010ffff",
    "\ufdfa" * 255,
    "null",
    "0",
    "x" * 255,
]


def test_given_hostile_keys_then_each_is_a_key_of_its_own_and_comes_back(backend: Backend) -> None:
    for number, key in enumerate(HOSTILE):
        backend.store.complete(SCOPE, key, backend.fence(key), number, ttl_seconds=LONG)
    for number, key in enumerate(HOSTILE):
        answer = backend.claim(key)
        assert isinstance(answer, Done), key
        assert answer.result == number


REFUSED = {
    "": "empty",
    "\x00": "control character",
    "a\x00b": r"U\+0000\) at position 1",
    "line\nbreak": "control character",
    "\x7f": "control character",
    "\x85": "control character",
    "\ud800": "lone surrogate",
    "k" * 256: "256 characters",
    "k" * 10_240: "10240 characters",
}


def test_given_a_malformed_key_then_it_is_refused_and_says_why(backend: Backend) -> None:
    for key, why in REFUSED.items():
        with pytest.raises(InvalidKey, match=why):
            backend.claim(key)
        with pytest.raises(InvalidKey, match=why):
            backend.store.renew(SCOPE, key, 1, lease_seconds=1)
        with pytest.raises(InvalidKey, match=why):
            backend.store.complete(SCOPE, key, 1, None, ttl_seconds=1)
        with pytest.raises(InvalidKey, match=why):
            backend.store.release(SCOPE, key, 1)


def test_given_the_longest_scope_and_key_that_are_allowed_together_then_the_store_takes_them(backend: Backend) -> None:
    def text(start: int, size: int) -> str:  # without repetition: an index must not get by with compression
        return "".join(chr(0x4E00 + (start * 7919 + n * 104_729) % 20_000) for n in range(size))

    scope = Scope(text(1, 255), text(2, 255))
    assert isinstance(backend.claim(text(3, 255), scope=scope), Claimed)
    astral = Scope("\U00020000" * 255, "\U00020001" * 255)
    with pytest.raises(InvalidKey, match="3060 bytes together"):
        backend.claim("\U00020002" * 255, scope=astral)


def test_given_two_clients_or_operations_with_one_key_then_they_never_meet(backend: Backend) -> None:
    scopes = [
        Scope("web", "charge"),
        Scope("web2", "charge"),
        Scope("web", "refund"),
        Scope("we", "bcharge"),
        Scope("web:charge", "x"),
        Scope("web", "charge:x"),
        Scope("WEB", "charge"),
    ]
    for number, scope in enumerate(scopes):
        answer = backend.claim(scope=scope, params={"n": number})
        assert isinstance(answer, Claimed), scope
        backend.store.complete(scope, "order-1", answer.fence, number, ttl_seconds=LONG)
    for number, scope in enumerate(scopes):
        done = backend.claim(scope=scope, params={"n": number})
        assert isinstance(done, Done)
        assert done.result == number


# --- fingerprints of an earlier version -------------------------------------------------------------------------------


class Payment(BaseModel):
    amount: int
    memo: str = Field("", exclude=True)


PAYMENT, OTHER = Payment(amount=1, memo="x"), Payment(amount=2, memo="x")
BEFORE = hashlib.sha256(b'{"amount":1}').hexdigest()


def claimed_before(backend: Backend, lease: float = LONG) -> int:
    answer = backend.store.claim(
        SCOPE, "order-1", BEFORE, owner="worker-1", lease_seconds=lease, ttl_seconds=LONG, params_text='{"amount":1}'
    )
    assert isinstance(answer, Claimed)
    return answer.fence


def test_given_a_key_of_an_earlier_version_when_claimed_with_the_same_parameters_then_it_is_no_mismatch(
    backend: Backend,
) -> None:
    fence = claimed_before(backend)
    assert fingerprint(PAYMENT) != BEFORE
    assert isinstance(backend.claim(params=PAYMENT), InProgress)
    backend.store.complete(SCOPE, "order-1", fence, "paid", ttl_seconds=LONG)
    assert backend.claim(params=PAYMENT) == Done('"paid"')
    with pytest.raises(IdempotencyParamMismatch) as refused:
        backend.claim(params=OTHER)
    assert "amount" in refused.value.fields


def test_given_a_lapsed_key_of_an_earlier_version_when_claimed_with_the_same_parameters_then_it_is_taken(
    backend: Backend,
) -> None:
    first = claimed_before(backend, lease=SHORT)
    backend.advance(SHORT * 1.5)
    with pytest.raises(IdempotencyParamMismatch):
        backend.claim(params=OTHER)
    assert backend.fence(params=PAYMENT) > first
    assert isinstance(backend.claim(params=PAYMENT), InProgress)


# --- forgetting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"a": 1}, {"a": 2}])
def test_given_a_forgotten_result_when_claimed_then_it_is_refused_whatever_the_parameters(
    backend: Backend, params: dict[str, int]
) -> None:
    fence = backend.fence(params={"a": 1})
    backend.store.complete(SCOPE, "order-1", fence, {"name": "Ann"}, ttl_seconds=LONG)
    backend.store.forget(SCOPE, "order-1")
    with pytest.raises(IdempotencyConflict, match="what it gave was erased"):
        backend.claim(params=params)


def test_given_a_forgotten_key_when_its_lease_lapses_then_it_is_taken_with_a_higher_fence(backend: Backend) -> None:
    first = backend.fence(lease=SHORT, params={"a": 1})
    backend.store.forget(SCOPE, "order-1")
    backend.advance(SHORT * 1.5)
    assert backend.fence(params={"a": 1}) > first


def test_given_no_such_key_when_forgotten_then_nothing_happens(backend: Backend) -> None:
    backend.store.forget(SCOPE, "order-1")
    assert backend.fence() > 0
