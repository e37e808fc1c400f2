"""What an Engine is given is looked at when it is made."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import (
    ConfigurationError,
    Engine,
    Interceptor,
    Pipeline,
    ResultTimeout,
    RetryPolicy,
    RunStatus,
    TransientError,
    get_default_interceptors,
)
from stageflow_durable.clock import World
from stageflow_durable.idempotency import MemoryIdempotencyStore
from stageflow_durable.retry import RetryInterceptor
from stageflow_durable.saga import SagaOrchestrator
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.testing import FakeClock, Messages, engine_for_tests
from stageflow_durable.testing.plugin import MakeEngine, stageflow_engine  # noqa: F401  # a fixture

CHECKOUT = Pipeline("checkout").stage("charge", lambda ctx: 1)


class Opened:
    """What was given to an engine, and whether the engine closed it."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.closed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def close(self) -> None:
        self.closed += 1
        self._part.close()


def test_it_works_with_the_store_the_publisher_and_the_world_that_it_is_given(migrated_sqlite_url: str) -> None:
    clock = FakeClock()
    store: Any = Opened(SqlStore(Database(migrated_sqlite_url, clock=clock.time)))
    messages = Messages(clock)  # empty, and so false
    engine = Engine(
        "shop",
        CHECKOUT,
        database_url="postgresql://nobody@nowhere.invalid/none",
        broker_url="redis://nowhere.invalid",
        store=store,
        publisher=messages,
        world=World(clock, lambda low, _high: low),
    )
    handle = engine.enqueue(CHECKOUT, {})
    assert (len(messages), handle.status()) == (1, RunStatus.PENDING)
    before = clock.time()
    with pytest.raises(ResultTimeout):
        handle.result(timeout=60)
    assert clock.time() >= before + 60, "it waited by the clock that it was given"
    assert store.closed == 0
    engine.close()
    assert store.closed == 1


def test_an_engine_that_opened_nothing_has_nothing_to_close() -> None:
    Engine("shop", CHECKOUT).close()  # without settings nothing can be opened


@pytest.mark.parametrize("given", [CHECKOUT, [CHECKOUT], (CHECKOUT,), {CHECKOUT}, iter([CHECKOUT])], ids=range(5))
def test_pipelines_may_be_one_or_several(given: Any) -> None:
    assert list(Engine("shop", pipelines=given).pipelines) == ["checkout"]
    assert list(Engine("shop", CHECKOUT).pipelines) == ["checkout"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("checkout", "pipelines= is a Pipeline or a list of them, not str"),
        (["checkout"], "pipelines[0] is of type str, not a Pipeline"),
        ([CHECKOUT, None], "pipelines[1] is of type NoneType, not a Pipeline"),
        ({"checkout": CHECKOUT}, "pipelines= is a Pipeline or a list of them, not dict"),
        (7, "pipelines= is a Pipeline or a list of them, not int"),
        (SagaOrchestrator("trip").step("a", lambda ctx: 1), "not a Pipeline; did you mean its .pipeline?"),
        ([CHECKOUT, CHECKOUT], "two pipelines are named 'checkout'"),
    ],
)
def test_what_is_no_pipeline_is_refused_by_name(given: Any, says: str) -> None:
    pipelines: Any = [given] if isinstance(given, SagaOrchestrator) else given
    with pytest.raises(ConfigurationError) as why:
        Engine("shop", pipelines=pipelines)
    assert says in str(why.value)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"databse_url": "sqlite:///x"}, "keyword databse_url is not a setting; did you mean database_url?"),
        ({"celery": object()}, "did you mean celery_app?"),
        ({"interceptor": []}, "did you mean interceptors?"),
        ({"pipeline": CHECKOUT}, "did you mean pipelines?"),
        ({"publsher": None}, "did you mean publisher?"),
        ({"lease": 3}, "did you mean lease_seconds?"),
        ({"lease_seconds": "soon"}, "lease_seconds='soon': is not a number of seconds"),
        ({"broker_url": "localhost"}, "broker_url: not a URL"),
        ({"queue": "a b", "nonsense": 1}, "nonsense is not a setting"),
    ],
)
def test_a_mistyped_keyword_or_value_is_told_when_the_engine_is_made(keywords: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as why:
        Engine("shop", **keywords)
    assert says in str(why.value)


def test_a_keyword_that_is_none_counts_as_not_given() -> None:
    Engine("shop", database_url=None, lease_seconds=None)


class Odd:
    name, priority = "odd", "first"

    def around(self, ctx: Any) -> None: ...


class Plain:
    """An interceptor that derives from nothing."""

    name, priority = "plain", 1.5

    def around(self, ctx: Any, call_next: Any) -> Any:
        return call_next(ctx)


class Hooks:
    """What the library's interceptors once were."""

    name, priority = "hooks", 1

    def before(self, ctx: Any) -> None: ...

    def after(self, ctx: Any, output: Any) -> None: ...

    def on_error(self, ctx: Any, error: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([Interceptor], "interceptors[0] is the class Interceptor; give an instance of it"),
        (
            [Plain(), Odd()],
            "interceptors[1] of type Odd is no interceptor: it lacks around(ctx, call_next), a number as prio",
        ),
        ([Hooks()], "of type Hooks is no interceptor: it lacks around(ctx, call_next)"),
        ([print], "is no interceptor: it lacks around(ctx, call_next), a number as priority, a text as name"),
        ([None], "interceptors[0] of type NoneType is no interceptor"),
        (Plain(), "interceptors= is a list of interceptors, not Plain"),
        ("retry", "interceptors= is a list of interceptors, not str"),
        ([RetryInterceptor(), RetryInterceptor()], "of which an engine has one"),
    ],
)
def test_what_is_no_interceptor_is_refused_by_name(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as why:
        Engine("shop", interceptors=given)
    assert says in str(why.value)
    with pytest.raises(ConfigurationError):
        Engine("shop", interceptors=[RetryInterceptor()], retry=RetryPolicy())


def test_hooks_without_an_around_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Old", (Interceptor,), {"before": lambda _self, _ctx: None})()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (print, "observers= is a list of functions, not builtin_function_or_method"),
        ([7], "observers[0]: 7 is not a function of one end"),
        ([lambda: None], "observers[0]: <lambda> takes (); it is called with one argument, the end"),
        ([Plain], "observers[0]: Plain is a class; give an instance of it, or a function"),
    ],
)
def test_what_cannot_observe_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as why:
        Engine("shop", observers=given)
    assert says in str(why.value)


def test_by_default_nothing_wraps_a_stage() -> None:
    assert get_default_interceptors() == get_default_interceptors(include_idempotency=False) == []
    store = MemoryIdempotencyStore()
    assert [one.name for one in get_default_interceptors(idempotency_store=store)] == ["idempotency"]
    with pytest.raises(ConfigurationError, match="leaves idempotency_store unused"):
        get_default_interceptors(include_idempotency=False, idempotency_store=store)


def test_a_retry_interceptor_is_the_engines_policy() -> None:
    def flaky(ctx: Any) -> int:
        if ctx.attempt < 4:
            raise TransientError("busy")
        return int(ctx.attempt)

    pipeline = Pipeline("p").stage("s", flaky)
    with engine_for_tests(pipeline, interceptors=[RetryInterceptor(max_attempts=5, base_delay_ms=1)]) as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        assert handle.result() == {"s": 4}


def test_engines_for_tests_take_pipelines_or_a_list_of_them(stageflow_engine: MakeEngine) -> None:  # noqa: F811  # the fixture
    other = Pipeline("other").stage("s", lambda ctx: 1)
    for given in ((CHECKOUT, other), ([CHECKOUT, other],), (CHECKOUT, [other])):
        assert list(stageflow_engine(*given).pipelines) == ["checkout", "other"]
        with engine_for_tests(*given) as engine:
            assert list(engine.pipelines) == ["checkout", "other"]
    with pytest.raises(ConfigurationError, match="is of type str, not a Pipeline"):
        stageflow_engine("checkout")
