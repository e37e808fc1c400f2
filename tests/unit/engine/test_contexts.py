"""Each attempt's code has a context of its own: what one run sets no other sees, nor the thread that carries it."""

from __future__ import annotations

import asyncio
import decimal
from contextvars import ContextVar
from typing import Any

import pytest

from stageflow_durable import Interceptor, Pipeline, StageOutput
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.testing.plugin import MakeEngine, stageflow_engine

__all__ = ["stageflow_engine"]

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def sets_async(ctx: Any) -> str:
    return sets(ctx)


def sets(ctx: Any) -> str:
    seen = tenant.get()
    tenant.set(f"run {ctx.input['n']}")
    return seen


def runs(engine: InProcessEngine, count: int = 3) -> list[Any]:
    handles = [engine.enqueue("p", {"n": number}) for number in range(count)]
    engine.drain()
    return [handle.outputs() for handle in handles]


@pytest.mark.parametrize("body", [sets, sets_async], ids=["def", "async def"])
def test_what_one_run_sets_no_other_sees(stageflow_engine: MakeEngine, body: Any) -> None:
    pipeline = Pipeline[Any, Any]("p").stage("a", body).stage("b", body)
    assert runs(stageflow_engine(pipeline)) == [{"a": "nobody", "b": "nobody"}] * 3
    assert tenant.get() == "nobody"


@pytest.mark.parametrize("body", [sets, sets_async], ids=["def", "async def"])
def test_what_is_set_where_the_worker_runs_is_seen(stageflow_engine: MakeEngine, body: Any) -> None:
    token = tenant.set("the worker's")
    try:
        assert runs(stageflow_engine(Pipeline[Any, Any]("p").stage("a", body))) == [{"a": "the worker's"}] * 3
    finally:
        tenant.reset(token)


@pytest.mark.parametrize("body", [sets, sets_async], ids=["def", "async def"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_an_interceptor_sets_is_seen_by_the_body_and_by_who_is_told_of_the_end(
    stageflow_engine: MakeEngine, body: Any, fails: bool
) -> None:
    seen: list[str] = []

    class Bind(Interceptor):
        def around(self, ctx: Any, call_next: Any) -> StageOutput:
            seen.append(f"before {tenant.get()}")
            tenant.set(f"bound {ctx.input['n']}")
            ctx.on_end(lambda _end: seen.append(f"end {tenant.get()}"))
            output: StageOutput = call_next(ctx)
            return output

    async def told_async(ctx: Any) -> str:
        return told(ctx)

    def told(_ctx: Any) -> str:
        if fails:
            raise ValueError("x")
        return tenant.get()

    chosen = told if body is sets else told_async
    outputs = runs(stageflow_engine(Pipeline[Any, Any]("p").stage("a", chosen), interceptors=[Bind()]))
    assert outputs == ([{}] * 3 if fails else [{"a": f"bound {number}"} for number in range(3)])
    assert seen == [line for number in range(3) for line in ("before nobody", f"end bound {number}")]


def test_an_undo_has_a_context_of_its_own(stageflow_engine: MakeEngine) -> None:
    seen: list[str] = []

    def undo(ctx: Any) -> None:
        seen.append(tenant.get())
        tenant.set("undone")

    async def undo_async(ctx: Any) -> None:
        undo(ctx)

    pipeline = (
        Pipeline[Any, Any]("p")
        .stage("a", sets, compensate=undo)
        .stage("b", sets, compensate=undo_async)
        .stage("c", lambda _ctx: StageOutput.reject("no"))
    )
    runs(stageflow_engine(pipeline), 2)
    assert seen == ["nobody"] * 4


def test_key_cleanup_and_policy_are_inside_as_well(stageflow_engine: MakeEngine) -> None:
    seen: list[str] = []

    def key(ctx: Any) -> str:
        seen.append(f"key {tenant.get()}")
        tenant.set("by the key")
        return str(ctx.run_id)

    def body(ctx: Any) -> None:
        seen.append(f"body {tenant.get()}")
        ctx.on_cleanup(lambda: seen.append(f"cleanup {tenant.get()}"))

    runs(stageflow_engine(Pipeline[Any, Any]("p").stage("a", body, key=key)), 2)
    assert seen == ["key nobody", "body by the key", "cleanup by the key"] * 2


@pytest.mark.parametrize("is_async", [False, True])
def test_the_precision_that_a_stage_counts_with_is_its_own(stageflow_engine: MakeEngine, is_async: bool) -> None:
    def body(_ctx: Any) -> int:
        found = decimal.getcontext().prec
        decimal.getcontext().prec = 3  # changed in place, not set
        return found

    async def body_async(ctx: Any) -> int:
        return body(ctx)

    usual = decimal.getcontext().prec
    pipeline = Pipeline[Any, Any]("p").stage("a", body_async if is_async else body)
    assert runs(stageflow_engine(pipeline)) == [{"a": usual}] * 3
    assert decimal.getcontext().prec == usual


class TestInsideARunningLoop:
    """What a test does that is ``async def`` itself."""

    def test_drain_runs_async_and_sync_stages(self, stageflow_engine: MakeEngine) -> None:
        async def test() -> list[Any]:
            return runs(stageflow_engine(Pipeline[Any, Any]("p").stage("a", sets).stage("b", sets_async)))

        assert asyncio.run(test()) == [{"a": "nobody", "b": "nobody"}] * 3

    def test_adrain_leaves_the_tests_own_loop_free(self, stageflow_engine: MakeEngine) -> None:
        async def test() -> Any:
            loop = asyncio.get_running_loop()
            asked: list[str] = []

            async def answer(question: str) -> str:
                asked.append(question)
                return "answer"

            async def body(_ctx: Any) -> str:
                future = asyncio.run_coroutine_threadsafe(answer("from a stage"), loop)
                return await asyncio.wrap_future(future)

            engine = stageflow_engine(Pipeline[Any, Any]("p").stage("a", body))
            handle = await engine.aenqueue("p", {})
            await engine.adrain()
            return await handle.aresult(), asked

        assert asyncio.run(test()) == ({"a": "answer"}, ["from a stage"])


def test_waiting_for_a_result_is_refused_in_async_stages_and_their_threads(stageflow_engine: MakeEngine) -> None:
    said: list[str] = []

    async def body(ctx: Any) -> None:
        for wait in ("aresult", "to_thread"):
            try:
                if wait == "aresult":
                    await engine.handle(ctx.run_id).aresult(1)
                else:
                    await asyncio.to_thread(_result, ctx.run_id)
            except Exception as error:  # noqa: BLE001  # what it is, is looked at below
                said.append(type(error).__name__)

    def _result(run_id: str) -> Any:
        return engine.handle(run_id).result(1)

    engine = stageflow_engine(Pipeline[Any, Any]("p").stage("a", body))
    engine.enqueue("p", {"n": 1})
    engine.drain()
    assert said == ["NotAllowedInStage"] * 2
