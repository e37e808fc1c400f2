"""A stage body behind a key (``idempotency/interceptor.py``)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field, field_validator

from stageflow_durable.codec import Classes, UnreadableValue, encode, fingerprint
from stageflow_durable.errors import (
    ConfigurationError,
    FenceLost,
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidKey,
    StoreUnavailable,
    UnsavableValue,
)
from stageflow_durable.idempotency.interceptor import IdempotencyInterceptor, IdempotentStageMixin
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.memory import MemoryIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, Done, IdempotencyStore, InProgress
from stageflow_durable.model.context import AttemptEnd
from stageflow_durable.model.output import StageOutput
from tests.conformance.idempotency.backends import Backend, Clock
from tests.services.process import eventually


@dataclass(eq=False)
class Ctx:
    """What the interceptor reads of a stage's context."""

    input: Any = field(default_factory=lambda: {"amount": 1})
    idempotency_key: str | None = "order-1"
    client_id: str = "web"
    pipeline: str = "checkout"
    stage: str = "charge"
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def on_end(self, action: Any) -> None:
        self.asked.append(action)

    def ends(self, result: StageOutput, *, committed: bool = True) -> None:
        """As an engine says it."""
        for action in self.asked:
            action(AttemptEnd(self, result, committed=committed))  # type: ignore[arg-type]  # as much as is read of it

    @property
    def services(self) -> Any:
        return self

    def note(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))


@dataclass
class Body:
    """A stage body that counts how often it ran."""

    answer: Any = None
    runs: int = 0

    def __call__(self, ctx: Any) -> Any:
        self.runs += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryIdempotencyStore:
    return MemoryIdempotencyStore(clock)


@pytest.fixture
def guard(store: MemoryIdempotencyStore) -> IdempotencyInterceptor:
    return IdempotencyInterceptor(store, wait_seconds=0)


SCOPE = Scope("web", "checkout/charge")


def claim(store: IdempotencyStore, params: object, lease: float = 60) -> Any:
    return store.claim(
        SCOPE,
        "order-1",
        fingerprint(params),
        owner="other",
        lease_seconds=lease,
        ttl_seconds=60,
        params_text=encode(params),
    )


# --- once -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, {"id": "p-1"}, Decimal("0.10"), ("a", b"b")])
def test_given_a_body_that_ran_then_a_duplicate_gets_its_output_and_an_event(
    guard: IdempotencyInterceptor, value: Any
) -> None:
    body, duplicate = Body(StageOutput.ok(value)), Ctx()
    first = guard.run(Ctx(), body)
    assert guard.run(duplicate, body) == first == StageOutput.ok(value)
    assert type(guard.run(Ctx(), body).value) is type(value)
    assert body.runs == 1
    assert duplicate.events == [
        ("work.idempotency_hit", {"key": "order-1", "client_id": "web", "operation": "checkout/charge"})
    ]


def test_given_a_body_that_returns_a_plain_value_then_it_is_an_ok_with_that_value(
    guard: IdempotencyInterceptor,
) -> None:
    assert guard.run(Ctx(), Body({"id": 1})) == StageOutput.ok({"id": 1})
    assert guard.run(Ctx(), Body("never called")) == StageOutput.ok({"id": 1})


# --- around the stages of an engine -----------------------------------------------------------------------------------


def test_given_a_stage_when_its_outcome_is_committed_then_it_is_remembered_and_not_before(
    guard: IdempotencyInterceptor,
) -> None:
    ctx, body = Ctx(), Body(StageOutput.ok(7))
    assert guard.around(ctx, body) == StageOutput.ok(7)
    with pytest.raises(IdempotencyConflict):
        guard.around(Ctx(), body)
    ctx.ends(StageOutput.ok(7))
    ctx.ends(StageOutput.ok(8))
    assert guard.around(Ctx(), body) == StageOutput.ok(7)
    assert body.runs == 1


@pytest.mark.parametrize(
    ("result", "committed"),
    [
        (StageOutput.ok(7), False),
        (StageOutput.fail("what is further out raised"), True),
        (StageOutput.reject("what is further out says so"), True),
    ],
)
def test_given_an_output_that_the_run_has_not_then_the_next_one_runs_at_once(
    guard: IdempotencyInterceptor, result: StageOutput, committed: bool
) -> None:
    ctx, body = Ctx(), Body(StageOutput.ok(7))
    guard.around(ctx, body)
    ctx.ends(result, committed=committed)
    with pytest.raises(IdempotencyParamMismatch):  # nobody vouches that nothing happened
        guard.around(Ctx({"amount": 2}), body)
    guard.around(Ctx(), body)
    assert body.runs == 2


def test_given_a_body_that_raises_then_its_key_is_let_go_and_the_end_changes_nothing(
    guard: IdempotencyInterceptor,
) -> None:
    ctx = Ctx()
    with pytest.raises(ValueError, match="no"):
        guard.around(ctx, Body(ValueError("no")))
    ctx.ends(StageOutput.retry("no"))
    assert guard.around(Ctx(), Body(1)) == StageOutput.ok(1)


def test_given_a_body_that_never_answered_then_its_key_is_let_go_at_the_end(guard: IdempotencyInterceptor) -> None:
    ctx = Ctx()
    guard._claimed(ctx, Classes(None))
    guard._told_by(ctx, [])(AttemptEnd(ctx, StageOutput.ok()))  # type: ignore[arg-type]  # as much as is read
    assert guard.around(Ctx(), Body(1)) == StageOutput.ok(1)


def test_the_order_of_its_parameters_is_the_trackers() -> None:
    store = MemoryIdempotencyStore()
    guard = IdempotencyInterceptor(store, lambda ctx: ctx.input["id"], 60, False)
    guard.run(Ctx({"id": "a", "amount": 1}), Body("a"))
    assert guard.run(Ctx({"id": "a", "amount": 2}), Body("b")) == StageOutput.ok("a")
    assert (guard.name, guard.priority) == ("idempotency", 10)


# --- what is remembered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        StageOutput.retry("busy"),
        StageOutput.fail("broken"),
        StageOutput.skip("no need"),
        StageOutput.cancel("stop"),
        StageOutput.reject("declined"),
    ],
)
def test_given_an_output_that_is_not_ok_then_it_is_not_remembered_and_the_body_runs_again(
    guard: IdempotencyInterceptor, output: StageOutput
) -> None:
    body = Body(output)
    assert guard.run(Ctx(), body) is output
    assert guard.run(Ctx(), body) is output
    assert body.runs == 2


def test_given_a_rejected_body_then_the_key_is_free_for_other_parameters_but_not_after_a_failure(
    guard: IdempotencyInterceptor,
) -> None:
    guard.run(Ctx({"amount": 1}), Body(StageOutput.reject("declined")))
    guard.run(Ctx({"amount": 2}), Body(StageOutput.fail("broken")))
    with pytest.raises(IdempotencyParamMismatch):
        guard.run(Ctx({"amount": 3}), Body())


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_given_a_body_that_raises_then_it_is_seen_and_the_next_one_runs_at_once(
    guard: IdempotencyInterceptor, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        guard.run(Ctx(), Body(error))
    assert guard.run(Ctx(), Body(1)) == StageOutput.ok(1)


def test_given_an_output_that_cannot_be_saved_then_the_caller_is_told(guard: IdempotencyInterceptor) -> None:
    with pytest.raises(UnsavableValue):
        guard.run(Ctx(), Body({"socket": object()}))


# --- objects ----------------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "r"


class Receipt(BaseModel):
    """A model that says less than it holds: an alias, an excluded field, a validator that transforms."""

    payment: str = Field(alias="paymentId")
    cents: int
    token: str = Field("", exclude=True)

    @field_validator("cents")
    @classmethod
    def _from_euros(cls, euros: int) -> int:
        return euros * 100


@dataclass(frozen=True)
class Parcel:
    weight: Decimal
    colour: Colour


RECEIPT = Receipt(paymentId="p-1", cents=5, token="t")
OBJECTS = [
    (RECEIPT, Receipt),
    (Parcel(Decimal("0.10"), Colour.RED), Parcel),
    ([RECEIPT, RECEIPT], list[Receipt]),
    ({"receipt": RECEIPT, "n": 1}, dict[str, Receipt | int]),
    (Colour.RED, Colour),
]


@pytest.mark.parametrize(("value", "declared"), OBJECTS)
def test_given_a_declared_type_then_a_duplicate_gets_an_equal_object(
    backend: Backend, value: Any, declared: Any
) -> None:
    guard = IdempotencyInterceptor(backend.store, wait_seconds=0, result_type=declared)
    body = Body(value)
    assert guard.run(Ctx(), body).value is value
    again = guard.run(Ctx(), body).value
    assert (again, type(again), body.runs) == (value, type(value), 1)
    assert guard.around(Ctx(), body) == StageOutput.ok(value)


def issue(_ctx: Any) -> Receipt:
    return RECEIPT


async def issue_soon(_ctx: Any) -> Receipt:
    return RECEIPT


class Issue(IdempotentStageMixin):
    def __init__(self, guard: IdempotencyInterceptor) -> None:
        self.idempotency = guard

    def execute(self, _ctx: Any) -> Receipt:
        return RECEIPT


class Issuer:
    def __call__(self, _ctx: Any) -> Receipt:
        return RECEIPT


def test_given_an_annotated_body_then_a_duplicate_gets_an_equal_object_and_nothing_is_declared(
    store: MemoryIdempotencyStore, caplog: pytest.LogCaptureFixture
) -> None:
    guard = IdempotencyInterceptor(store, wait_seconds=0)
    calls: dict[str, Callable[[Any], Any]] = {
        "function": lambda ctx: guard.run(ctx, issue),
        "partial": lambda ctx: guard.run(ctx, partial(issue)),
        "coroutine": lambda ctx: asyncio.run(guard.arun(ctx, issue_soon)),
        "mixin": Issue(guard).execute,
        "object": lambda ctx: guard.run(ctx, Issuer()),
    }
    for stage, call in calls.items():
        assert [call(Ctx(stage=stage)).value for _ in range(2)] == [RECEIPT, RECEIPT], stage
    assert caplog.records == []


@pytest.mark.parametrize("value", [value for value, _ in OBJECTS])
def test_given_objects_of_no_known_class_then_it_is_told_once_and_duplicates_are_refused_without_calling_the_body(
    guard: IdempotencyInterceptor, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    body = Body(value)
    assert guard.run(Ctx(), body).value is value
    guard.run(Ctx(idempotency_key="order-2"), body)
    [line] = caplog.messages
    assert "the output of checkout/charge holds objects that duplicates cannot have back" in line
    for _ in range(2):
        with pytest.raises(UnreadableValue, match="result_type="):
            guard.run(Ctx(), body)
    assert body.runs == 2


def test_given_a_class_that_has_other_fields_now_then_a_duplicate_is_refused(store: MemoryIdempotencyStore) -> None:
    class Older(BaseModel):
        cents: str

    Older.__qualname__, Older.__module__ = "Receipt", Receipt.__module__
    IdempotencyInterceptor(store, result_type=Older).run(Ctx(), Body(Older(cents="5")))
    with pytest.raises(UnreadableValue, match="have other fields now"):
        IdempotencyInterceptor(store, result_type=Receipt).run(Ctx(), Body())


def test_given_a_remembered_output_when_its_ttl_has_passed_then_the_body_runs_again(
    store: MemoryIdempotencyStore, clock: Clock
) -> None:
    guard, body = IdempotencyInterceptor(store, ttl_seconds=10), Body()
    guard.run(Ctx(), body)
    clock.advance(9.9)
    guard.run(Ctx(), body)
    assert body.runs == 1
    clock.advance(0.1)
    guard.run(Ctx(), body)
    assert body.runs == 2


@pytest.mark.parametrize("option", ["ttl_seconds", "lease_seconds"])
def test_given_a_duration_that_is_not_positive_then_it_is_refused_by_name(
    store: MemoryIdempotencyStore, option: str
) -> None:
    with pytest.raises(ConfigurationError, match=option):
        IdempotencyInterceptor(store, **{option: 0})  # type: ignore[arg-type]  # one option of several types


# --- keys and parameters
# ------------------------------------------------------------------------------------------------


def test_given_other_parameters_then_the_mismatch_is_raised_and_told(guard: IdempotencyInterceptor) -> None:
    body, ctx = Body(), Ctx({"amount": 2})
    guard.run(Ctx({"amount": 1}), body)
    with pytest.raises(IdempotencyParamMismatch, match=r"order-1.*amount"):
        guard.run(ctx, body)
    assert ctx.events[0][0] == "work.idempotency_mismatch"
    assert ctx.events[0][1]["fields"] == ["amount"]
    assert body.runs == 1


def test_given_other_parameters_in_flight_then_the_mismatch_does_not_wait(store: MemoryIdempotencyStore) -> None:
    claim(store, {"amount": 1})
    with pytest.raises(IdempotencyParamMismatch):
        IdempotencyInterceptor(store, wait_seconds=60).run(Ctx({"amount": 2}), Body())


def test_given_validation_turned_off_then_parameters_do_not_matter(store: MemoryIdempotencyStore) -> None:
    guard = IdempotencyInterceptor(store, validate_params=False)
    guard.run(Ctx({"amount": 1}), Body(1))
    assert guard.run(Ctx({"amount": 2}), Body(2)) == StageOutput.ok(1)


def test_given_extractors_then_key_and_parameters_come_from_them(store: MemoryIdempotencyStore) -> None:
    guard = IdempotencyInterceptor(
        store, lambda ctx: ctx.input["id"], params_extractor=lambda ctx: ctx.input["amount"], operation="pay"
    )
    guard.run(Ctx({"id": "a", "amount": 1, "trace": 1}), Body("a"))
    assert guard.run(Ctx({"id": "a", "amount": 1, "trace": 2}, stage="other"), Body("b")) == StageOutput.ok("a")
    assert guard.run(Ctx({"id": "b", "amount": 1}), Body("b")) == StageOutput.ok("b")


def test_given_no_key_then_the_body_is_not_guarded(guard: IdempotencyInterceptor) -> None:
    body = Body()
    guard.run(Ctx(idempotency_key=None), body)
    guard.run(Ctx(idempotency_key=None), body)
    guard.run(object(), body)
    assert body.runs == 3


def test_given_a_malformed_key_then_the_body_does_not_run(guard: IdempotencyInterceptor) -> None:
    body = Body()
    with pytest.raises(InvalidKey):
        guard.run(Ctx(idempotency_key="a\x00"), body)
    assert body.runs == 0


@pytest.mark.parametrize("other", [Ctx(client_id="shop"), Ctx(pipeline="refunds"), Ctx(stage="refund")])
def test_given_another_client_pipeline_or_stage_then_the_key_is_another(
    guard: IdempotencyInterceptor, other: Ctx
) -> None:
    guard.run(Ctx(), Body(1))
    assert guard.run(other, Body(2)) == StageOutput.ok(2)


def test_given_a_context_of_the_least_then_it_is_guarded_without_events(guard: IdempotencyInterceptor) -> None:
    class Least:
        idempotency_key = "k"
        stage = "charge"

    assert guard.run(Least(), Body(1)) == guard.run(Least(), Body(2)) == StageOutput.ok(1)


# --- at once
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callers", [50, 300])
def test_given_many_duplicates_at_once_then_the_body_runs_once_and_all_get_its_output(
    backend: Backend, callers: int
) -> None:
    guard, body = IdempotencyInterceptor(backend.store, wait_seconds=60), Body({"payment": "p-1"})
    begun = threading.Event()

    def slow(ctx: Any) -> Any:
        begun.wait(0.1)
        return body(ctx)

    with ThreadPoolExecutor(callers) as pool:
        outputs = list(pool.map(lambda _: guard.run(Ctx(), slow), range(callers)))
    assert outputs == [StageOutput.ok({"payment": "p-1"})] * callers
    assert body.runs == 1


def test_given_a_first_that_fails_while_duplicates_wait_then_one_of_them_runs(backend: Backend) -> None:
    guard = IdempotencyInterceptor(backend.store, wait_seconds=60)
    tries = iter([ValueError("once"), "done"])
    lock = threading.Lock()

    def flaky(ctx: Any) -> Any:
        with lock:
            turn = next(tries)
        if isinstance(turn, ValueError):
            raise turn
        return turn

    def call(_: int) -> Any:
        try:
            return guard.run(Ctx(), flaky).value
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    assert sorted(answers) == ["done"] * 19 + ["once"]


def test_given_work_in_progress_and_no_patience_then_the_conflict_is_raised_and_told(
    store: MemoryIdempotencyStore, guard: IdempotencyInterceptor
) -> None:
    ctx = Ctx()
    claim(store, ctx.input)
    with pytest.raises(IdempotencyConflict, match=r"order-1.*in progress by other"):
        guard.run(ctx, Body())
    assert [event for event, _ in ctx.events] == ["work.idempotency_conflict"]


def test_given_work_in_progress_then_a_duplicate_looks_again_ever_more_rarely_and_gives_up_in_time(
    store: MemoryIdempotencyStore,
) -> None:
    clock, pauses = Clock(0.0), list[float]()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock.advance(seconds)

    claim(store, Ctx().input)
    with pytest.raises(IdempotencyConflict, match="waited 2 s"):
        IdempotencyInterceptor(store, wait_seconds=2, clock=clock, pause=pause).run(Ctx(), Body())
    assert pauses[:3] == [0.01, 0.02, 0.04]
    assert max(pauses) == 0.5
    assert sum(pauses) == pytest.approx(2)


def test_given_a_body_longer_than_its_lease_then_the_lease_is_renewed_while_it_runs(backend: Backend) -> None:
    guard = IdempotencyInterceptor(backend.store, lease_seconds=1.5)

    def long(ctx: Any) -> str:
        for _ in range(8):
            backend.advance(0.25) if backend.url else None
            threading.Event().wait(0.0 if backend.url else 0.2)
            assert isinstance(claim(backend.store, ctx.input), InProgress)
        return "done"

    assert guard.run(Ctx(), long) == StageOutput.ok("done")


# --- what can go wrong
# ----------------------------------------------------------------------------------------------------


class Flaky(MemoryIdempotencyStore):
    """A store that is away for as long as ``away`` says so."""

    away = False
    renewals = 0

    def renew(self, *given: Any, **named: Any) -> None:
        self.renewals += 1
        if self.away:
            raise StoreUnavailable("away")
        super().renew(*given, **named)

    def release(self, *given: Any, **named: Any) -> None:
        if self.away:
            raise StoreUnavailable("away")
        super().release(*given, **named)


def test_given_a_store_that_is_away_when_a_body_has_failed_then_the_error_of_the_body_is_seen_with_a_note() -> None:
    flaky = Flaky()

    def fail(ctx: Any) -> None:
        flaky.away = True
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        IdempotencyInterceptor(flaky).run(Ctx(), fail)
    assert "order-1" in caught.value.__notes__[0]
    assert "away" in caught.value.__notes__[0]


def test_given_a_store_that_is_away_for_a_moment_then_renewing_goes_on_after_it() -> None:
    flaky = Flaky()

    def body(ctx: Any) -> None:
        flaky.away = True
        eventually(lambda: flaky.renewals >= 2, what="it was tried twice while away")
        flaky.away = False
        seen = flaky.renewals
        eventually(lambda: flaky.renewals > seen, what="and once more when it was back")

    assert IdempotencyInterceptor(flaky, lease_seconds=0.15).run(Ctx(), body) == StageOutput.ok()


def test_given_a_key_that_was_taken_over_meanwhile_then_the_late_body_is_told_and_changes_nothing(
    store: MemoryIdempotencyStore, clock: Clock, guard: IdempotencyInterceptor
) -> None:
    def stalled(ctx: Any) -> str:
        clock.advance(1000)
        assert isinstance(claim(store, ctx.input), Claimed)
        return "late"

    with pytest.raises(FenceLost):
        guard.run(Ctx(), stalled)
    assert isinstance(claim(store, Ctx().input), InProgress)


def test_given_a_lost_fence_then_renewing_it_does_not_stop_the_renewal_of_others(clock: Clock) -> None:
    flaky = Flaky(clock)
    guard = IdempotencyInterceptor(flaky, lease_seconds=0.15)
    first, second = Ctx(), Ctx(idempotency_key="order-2")
    guard.around(first, Body())
    clock.advance(1)
    claim(flaky, first.input)
    guard.around(second, Body())
    seen = flaky.renewals
    eventually(lambda: flaky.renewals >= seen + 4)
    second.ends(StageOutput.ok())
    with pytest.raises(FenceLost):
        first.ends(StageOutput.ok())


def test_given_no_body_that_runs_then_no_thread_is_kept(store: MemoryIdempotencyStore) -> None:
    guard = IdempotencyInterceptor(store, lease_seconds=0.05)
    for _ in range(2):
        guard.run(Ctx(idempotency_key=str(_)), Body())
        eventually(
            lambda: (
                not any(
                    thread.name == "stageflow-idempotency" and thread.is_alive()
                    for thread in threading.enumerate()
                    if thread is guard._running._thread
                )
            )
        )
        eventually(lambda: guard._running._thread is None)


def test_given_a_key_held_by_undone_work_then_the_conflict_is_raised_and_told() -> None:
    class Undone(MemoryIdempotencyStore):
        def claim(self, *given: Any, **named: Any) -> Any:
            raise IdempotencyConflict("order-1", "its work was undone by run r-1; use a new key", run_id="r-1")

    ctx = Ctx()
    with pytest.raises(IdempotencyConflict, match="undone"):
        IdempotencyInterceptor(Undone()).run(ctx, Body())
    assert ctx.events[0][0] == "work.idempotency_conflict"


# --- async and stage classes
# ----------------------------------------------------------------------------------------------


async def _slow(ctx: Any) -> str:
    await asyncio.sleep(0.05)
    ctx.events.append(("ran", {}))
    return "done"


def test_given_async_duplicates_at_once_then_the_body_runs_once_and_the_loop_goes_on() -> None:
    guard, contexts = IdempotencyInterceptor(MemoryIdempotencyStore()), [Ctx() for _ in range(50)]

    async def all_at_once() -> list[StageOutput]:
        return await asyncio.gather(*(guard.arun(ctx, _slow) for ctx in contexts))

    assert asyncio.run(all_at_once()) == [StageOutput.ok("done")] * 50
    assert sum(("ran", {}) in ctx.events for ctx in contexts) == 1


def test_given_an_async_body_that_raises_then_the_next_one_runs_at_once(guard: IdempotencyInterceptor) -> None:
    async def fail(ctx: Any) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(guard.arun(Ctx(), fail))
    assert asyncio.run(guard.arun(Ctx(), _slow)) == StageOutput.ok("done")


def test_given_an_async_caller_that_is_cancelled_while_it_claims_then_nothing_stays_claimed() -> None:
    class Slow(MemoryIdempotencyStore):
        def claim(self, *given: Any, **named: Any) -> Any:
            claiming.set()
            threading.Event().wait(0.1)
            return super().claim(*given, **named)

    async def cancelled() -> None:
        task = asyncio.create_task(guard.arun(Ctx(), _slow))
        await asyncio.to_thread(claiming.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    claiming, store = threading.Event(), Slow()
    guard = IdempotencyInterceptor(store, wait_seconds=0)
    asyncio.run(cancelled())
    assert guard.run(Ctx(), Body(1)) == StageOutput.ok(1)


class Charge(IdempotentStageMixin):
    name = "charge"
    kind = "work"
    charged: ClassVar[list[str]] = []

    def __init__(self, guard: IdempotencyInterceptor) -> None:
        self.idempotency = guard
        self.charged.clear()

    def execute(self, ctx: Any) -> StageOutput:
        """Charge."""
        self.charged.append(type(self).__name__)
        return StageOutput.ok(payment_id="p-1")


class ChargeTwice(Charge):
    def execute(self, ctx: Any) -> StageOutput:
        return StageOutput.ok([super().execute(ctx).value, super().execute(ctx).value])


class Plain:
    calls = 0

    def execute(self, ctx: Any) -> int:
        self.calls += 1
        return self.calls


class Guarded(IdempotentStageMixin, Plain):
    pass


class AsyncCharge(IdempotentStageMixin):
    calls = 0

    async def execute(self, ctx: Any) -> int:
        self.calls += 1
        return self.calls


class AsyncChargeTwice(AsyncCharge):
    async def execute(self, ctx: Any) -> Any:
        outputs: list[Any] = [await super().execute(ctx), await super().execute(ctx)]
        return [output.value for output in outputs]


class Abstract(IdempotentStageMixin):
    pass


def test_given_a_stage_class_with_the_mixin_then_it_runs_once_a_key(guard: IdempotencyInterceptor) -> None:
    stage = Charge(guard)
    assert stage.execute(Ctx()) == stage.execute(Ctx()) == StageOutput.ok(payment_id="p-1")
    assert stage.charged == ["Charge"]
    assert Charge.execute.__doc__ == "Charge."


def test_given_a_stage_that_calls_the_guarded_one_it_extends_then_it_does_not_wait_for_itself(
    guard: IdempotencyInterceptor,
) -> None:
    stage = ChargeTwice(guard)
    assert stage.execute(Ctx()).value == stage.execute(Ctx()).value == [{"payment_id": "p-1"}] * 2
    assert stage.charged == ["ChargeTwice", "ChargeTwice"]


def test_given_a_plain_stage_class_beside_the_mixin_then_it_is_guarded_without_a_line_of_code(
    guard: IdempotencyInterceptor,
) -> None:
    stage = Guarded()
    stage.idempotency = guard
    execute: Callable[[Any], Any] = stage.execute
    assert execute(Ctx()) == execute(Ctx()) == StageOutput.ok(1)


@pytest.mark.parametrize(("kind", "value"), [(AsyncCharge, 1), (AsyncChargeTwice, [1, 2])])
def test_given_an_async_stage_class_then_it_runs_once_a_key(
    guard: IdempotencyInterceptor, kind: Any, value: Any
) -> None:
    stage = kind()
    stage.idempotency = guard
    assert [asyncio.run(stage.execute(Ctx())).value for _ in range(2)] == [value, value]
    assert asyncio.iscoroutinefunction(kind.execute)


def test_given_a_stage_class_without_an_interceptor_then_the_way_out_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"Guarded\.idempotency is not set"):
        Guarded().execute(Ctx())
    assert not hasattr(Abstract, "execute")


def test_a_remembered_output_is_read_by_the_store_as_well(
    store: MemoryIdempotencyStore, guard: IdempotencyInterceptor
) -> None:
    guard.run(Ctx(), Body("x"))
    assert claim(store, Ctx().input) == Done(encode("x"))


# --- zero code --------------------------------------------------------------------------------------------------------


class Payment(BaseModel):
    order: dict[str, Any]
    amount: int = 1


@pytest.mark.parametrize("input", [Payment(order={"id": 7}), {"order": {"id": "7"}, "amount": 1}])
def test_the_key_is_what_the_input_has_in_a_field(input: Any) -> None:
    guard, body = IdempotencyInterceptor(MemoryIdempotencyStore(), "order.id", validate_params=False), Body("paid")
    for key in ("run-1", "run-2"):
        assert guard.run(Ctx(input, key), body).value == "paid"
    guard.run(Ctx({"order": {"id": 8}}, "run-1"), body)
    assert body.runs == 2


@pytest.mark.parametrize("input", [{}, {"order": None}, {"order": {"id": None}}, {"order": {"id": 1.5}}, None])
def test_an_input_without_that_field_is_refused_by_its_name(input: Any) -> None:
    guard, body = IdempotencyInterceptor(MemoryIdempotencyStore(), "order.id"), Body("paid")
    with pytest.raises(InvalidKey, match=r"input\.order\.id"):
        guard.run(Ctx(input), body)
    assert body.runs == 0


@dataclass(eq=False)
class DataCtx(Ctx):
    """A context of pipelines that keep what they know in ``data``."""

    data: dict[str, Any] = field(default_factory=dict)


def test_the_key_and_the_parameters_are_what_the_data_says() -> None:
    guard, body = IdempotencyInterceptor(MemoryIdempotencyStore()), Body("paid")
    said = {"idempotency_key": "order-1", "idempotency_params": {"cents": 1}}
    for number in range(2):
        guard.run(DataCtx({"n": number}, f"run-{number}", data=said), body)
    assert body.runs == 1
    with pytest.raises(IdempotencyParamMismatch, match="cents"):
        guard.run(DataCtx(data={**said, "idempotency_params": {"cents": 2}}), body)


def test_a_stage_class_takes_its_key_from_a_field() -> None:
    class Charge(IdempotentStageMixin):
        idempotency = IdempotencyInterceptor(MemoryIdempotencyStore(), "order_id")
        runs = 0

        def execute(self, ctx: Any) -> Any:
            self.runs += 1
            return "paid"

    stage = Charge()
    for key in ("run-1", "run-2"):
        assert stage.execute(Ctx({"order_id": "A-1"}, key)).value == "paid"
    assert stage.runs == 1
