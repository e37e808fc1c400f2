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
)
from stageflow_durable.clock import World
from stageflow_durable.retry import RetryInterceptor
from stageflow_durable.saga import SagaOrchestrator
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import Store
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
    store: Any = Opened(Store(Database(migrated_sqlite_url, clock=clock.time)))
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

    def before(self, ctx: Any) -> None: ...

    def after(self, ctx: Any, output: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([Interceptor], "interceptors[0] is the class Interceptor; give an instance of it"),
        (
            [Interceptor(), Odd()],
            "interceptors[1] of type Odd is no interceptor: it lacks on_error(), a number as prio",
        ),
        ([print], "is no interceptor: it lacks before(), after(), on_error()"),
        ([None], "interceptors[0] of type NoneType is no interceptor"),
        (Interceptor(), "interceptors= is a list of interceptors, not Interceptor"),
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
