"""What every store of idempotency keys has to do, as tests to be inherited: ours are held to it, and so may yours be.

::

    from stageflow_durable.testing.idempotency_suite import Case, IdempotencySuite


    class TestMyStore(IdempotencySuite):
        @pytest.fixture
        def case(self):
            return Case(MyStore(...))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from stageflow_durable.clock import SystemClock
from stageflow_durable.codec import encode, fingerprint
from stageflow_durable.errors import (
    ConfigurationError,
    FenceLost,
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidKey,
    UnsavableValue,
)
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.store import Answer, Claimed, Done, IdempotencyStore, InProgress, Loss

LONG = 600.0
WEB = Scope("web", "charge")


@dataclass
class Case:
    """A store to be tested. ``advance``: lets its clock pass that many seconds. ``lose``: by what may be lost, a
    function that loses it and gives the store as it is found after that.
    """

    store: IdempotencyStore
    advance: Callable[[float], object] = SystemClock().sleep
    lose: Mapping[Loss, Callable[[], IdempotencyStore]] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid4().hex)

    def claim(
        self,
        params: object = None,
        *,
        key: str | None = None,
        scope: Scope = WEB,
        lease: float | timedelta = LONG,
        ttl: float | timedelta = LONG,
        told: bool = True,
    ) -> Answer:
        """A claim; ``told``: whether it says the parameters beside their fingerprint."""
        return self.store.claim(
            scope,
            self.key if key is None else key,
            fingerprint(params),
            owner="a test",
            lease_seconds=lease,
            ttl_seconds=ttl,
            params_text=encode(params) if told else None,
        )

    def fence(self, params: object = None, **options: Any) -> int:
        """A claim that gets the key."""
        answer = self.claim(params, **options)
        assert isinstance(answer, Claimed), answer
        return answer.fence

    def complete(self, fence: int, result: object, ttl: float = LONG) -> None:
        """The work is done."""
        self.store.complete(WEB, self.key, fence, result, ttl_seconds=ttl)

    def result(self, params: object = None) -> object:
        """What is remembered."""
        answer = self.claim(params)
        assert isinstance(answer, Done), answer
        return answer.result


_HOSTILE = ("'; DROP TABLE keys; --", "a:b", "{a}", "*", "\u202eevil", "\U0001f600" * 100, " ", "k" * 255)
_REFUSED = ("", "k" * 256, "a\x00b", "a\nb", "\ud800")
_RESULTS: tuple[object, ...] = (None, 0, "", False, [], {}, 0.0, {"a": [1, 2.5, None, "\u20ac"]}, 10**30, b"\x00\xff")


class IdempotencySuite:
    """Tests of one store: a subclass gives the fixture ``case``."""

    @pytest.fixture
    def case(self) -> Case:
        """The store, with no key in it that a test could meet."""
        raise NotImplementedError("give a fixture named case, that returns a Case")

    # --- claims -----------------------------------------------------------------------------------------------------

    def test_of_many_claims_at_once_one_gets_the_key(self, case: Case) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _number: case.claim(), range(24)))
        assert sum(isinstance(answer, Claimed) for answer in answers) == 1
        assert all(isinstance(answer, Claimed | InProgress) for answer in answers)

    def test_a_key_in_work_says_until_when(self, case: Case) -> None:
        case.fence(lease=30)
        answer = case.claim()
        assert isinstance(answer, InProgress)
        assert answer.seconds_left is not None and 0 < answer.seconds_left <= 30
        assert answer.owner == "a test"

    @pytest.mark.parametrize("result", _RESULTS, ids=repr)
    def test_what_was_done_is_remembered_as_it_was(self, case: Case, result: object) -> None:
        case.complete(case.fence(), result)
        found = case.result()
        assert (found, type(found)) == (result, type(result))

    def test_scopes_are_apart(self, case: Case) -> None:
        case.complete(case.fence(), 1)
        for other in (Scope("app", "charge"), Scope("web", "refund"), Scope("we", "bcharge")):
            assert isinstance(case.claim(scope=other), Claimed)

    @pytest.mark.parametrize("key", _HOSTILE)
    def test_keys_are_data(self, case: Case, key: str) -> None:
        case.key = key + uuid4().hex if len(key) < 200 else key[:-32] + uuid4().hex
        case.complete(case.fence(), "done")
        assert case.result() == "done"
        assert isinstance(case.claim(key=case.key[:-1]), Claimed)

    @pytest.mark.parametrize("key", _REFUSED, ids=ascii)
    def test_keys_that_are_none_are_refused(self, case: Case, key: str) -> None:
        with pytest.raises(InvalidKey):
            case.claim(key=key)

    # --- leases and fences ------------------------------------------------------------------------------------------

    def test_a_lapsed_lease_lets_another_in_and_the_first_write_nothing(self, case: Case) -> None:
        first = case.fence(lease=0.2)
        case.advance(0.3)
        second = case.fence()
        assert second > first
        with pytest.raises(FenceLost):
            case.complete(first, "late")
        with pytest.raises(FenceLost):
            case.store.renew(WEB, case.key, first, lease_seconds=LONG)
        with pytest.raises(FenceLost):
            case.store.release(WEB, case.key, first)
        case.complete(second, "mine")
        assert case.result() == "mine"

    def test_a_lease_that_is_renewed_holds(self, case: Case) -> None:
        fence = case.fence(lease=0.3)
        for _time in range(3):
            case.advance(0.2)
            case.store.renew(WEB, case.key, fence, lease_seconds=0.3)
        assert isinstance(case.claim(), InProgress)

    def test_what_is_said_twice_is_said_once(self, case: Case) -> None:
        fence = case.fence()
        case.complete(fence, "first")
        case.complete(fence, "second")
        assert case.result() == "first"
        with pytest.raises(FenceLost):
            case.store.release(WEB, case.key, fence)

    def test_a_release_lets_the_same_work_in_at_once_and_no_other(self, case: Case) -> None:
        case.store.release(WEB, case.key, case.fence({"n": 1}))
        with pytest.raises(IdempotencyParamMismatch):
            case.claim({"n": 2})
        assert isinstance(case.claim({"n": 1}), Claimed)

    def test_a_vouched_release_forgets_the_parameters(self, case: Case) -> None:
        first = case.fence({"n": 1})
        case.store.release(WEB, case.key, first, vouched=True)
        assert case.fence({"n": 2}) > first

    # --- parameters -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("finished", [True, False])
    @pytest.mark.parametrize("other", [{"a": 1, "b": {"c": 3}}, {"a": 1}, None, {"a": True, "b": {"c": 2}}], ids=repr)
    def test_other_parameters_are_refused(self, case: Case, finished: bool, other: object) -> None:
        fence = case.fence({"a": 1, "b": {"c": 2}})
        if finished:
            case.complete(fence, "done")
        with pytest.raises(IdempotencyParamMismatch) as refused:
            case.claim(other)
        assert refused.value.fields
        with pytest.raises(IdempotencyParamMismatch):
            case.claim(other, told=False)

    @pytest.mark.parametrize("same", [{"b": {"c": 2.0}, "a": 1}, {"a": 1.0, "b": {"c": 2}}], ids=repr)
    def test_the_same_parameters_are_the_same(self, case: Case, same: object) -> None:
        case.complete(case.fence({"a": 1, "b": {"c": 2}}), "done")
        assert case.result(same) == "done"

    # --- time -------------------------------------------------------------------------------------------------------

    def test_what_is_remembered_expires(self, case: Case) -> None:
        case.complete(case.fence(ttl=1), "done", ttl=1)
        assert case.result() == "done"
        case.advance(1.1)
        assert isinstance(case.claim({"another": "work"}), Claimed)

    @pytest.mark.parametrize("wrong", [0, -1, timedelta(0), float("nan")], ids=repr)
    def test_durations_are_positive(self, case: Case, wrong: Any) -> None:
        for given in ({"ttl": wrong}, {"lease": wrong}):
            with pytest.raises(ConfigurationError):
                case.claim(**given)
        fence = case.fence()
        with pytest.raises(ConfigurationError):
            case.complete(fence, 1, ttl=wrong)

    def test_what_cannot_be_saved_leaves_the_key_held(self, case: Case) -> None:
        fence = case.fence()
        with pytest.raises(UnsavableValue):
            case.complete(fence, object())
        assert isinstance(case.claim(), InProgress)
        case.complete(fence, "after all")
        assert case.result() == "after all"

    def test_what_is_forgotten_is_answered_no_more_and_stays_taken(self, case: Case) -> None:
        case.complete(case.fence({"n": 1}), "a secret")
        case.store.forget(WEB, case.key)
        for params in ({"n": 1}, {"n": 2}):
            with pytest.raises(IdempotencyConflict):
                case.claim(params)

    # --- losses -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("loss", Loss)
    def test_it_survives_what_it_says_and_nothing_else(self, case: Case, loss: Loss) -> None:
        survives: frozenset[Loss] = getattr(case.store, "survives", frozenset())
        if loss not in case.lose:
            return  # there is nothing of that kind to lose
        case.complete(case.fence(), "done")
        in_work = Case(case.store, case.advance)
        fence = in_work.fence()
        case.store = in_work.store = case.lose[loss]()
        if loss in survives:
            assert case.result() == "done"
            assert isinstance(in_work.claim(), InProgress)
            in_work.complete(fence, "done too")
            assert in_work.result() == "done too"
        else:
            assert isinstance(case.claim(), Claimed)
            case.advance(0.01)  # fences are times, where nothing is left to count from
            assert in_work.fence() > fence
            with pytest.raises(FenceLost):
                in_work.complete(fence, "late")
