"""Where attempts raised: stored with the attempt, the application's frames first, masked, bounded, for a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy, StageOutput
from stageflow_durable.engine.tracing import MOST_BYTES

MakeEngine = Callable[..., Any]
SECRET = "s3cr3t-Value"
QUICK = RetryPolicy(max_attempts=2, base_delay=0.001, jitter="none")


def parse(text: str) -> Any:
    hidden = SECRET  # a local, which is shown nowhere
    assert hidden
    return json.loads(text)


def test_an_attempt_that_raised_says_where_the_application_did(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", lambda _ctx: parse("{"), retry=QUICK))
    handle = engine.enqueue("p", {})
    engine.drain()
    for attempt in handle.describe().stage("a").attempts:
        first, *lines = attempt.traceback
        assert first.startswith("JSONDecodeError: Expecting property name")
        assert lines[0].endswith("in parse: return json.loads(text)")
        libraries = lines.index("  in libraries:")
        assert any("json" in line for line in lines[libraries + 1 :])
        assert not any("stageflow_durable/engine" in line or SECRET in line for line in lines)
        assert attempt.raised_at.startswith("test_tracebacks.py:")
    assert [one.problems for one in engine.audit()] == [()]


def test_what_it_was_raised_from_is_said_and_secrets_are_masked(make_engine: MakeEngine) -> None:
    def body(_ctx: Any) -> None:
        try:
            raise ConnectionError(f"https://ann:{SECRET}@bank/pay refused, password={SECRET}")
        except ConnectionError as error:
            raise ValueError("cannot pay \u2603") from error

    engine = make_engine(Pipeline("p").stage("a", body, retry=QUICK))
    handle = engine.enqueue("p", {})
    engine.drain()
    trace = "\n".join(handle.describe().stage("a").attempts[-1].traceback)
    assert "caused by ConnectionError: https://***@bank/pay refused" in trace
    assert SECRET not in trace
    assert trace.isascii()


def test_a_deep_recursion_is_bounded(make_engine: MakeEngine) -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1) + 1

    engine = make_engine(Pipeline("p").stage("a", lambda _ctx: deeper(0), retry=RetryPolicy(max_attempts=1)))
    handle = engine.enqueue("p", {})
    engine.drain()
    trace = "\n".join(handle.describe().stage("a").attempts[-1].traceback)
    assert "more" in trace
    assert len(trace) <= MOST_BYTES


def test_what_fails_without_raising_has_none(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", lambda _ctx: StageOutput.fail("no")).stage("b", lambda _ctx: None))
    handle = engine.enqueue("p", {})
    engine.drain()
    assert [attempt.traceback for attempt in handle.describe().stage("a").attempts] == [()]


def test_an_undo_that_raised_says_where(make_engine: MakeEngine) -> None:
    def undo(_ctx: Any) -> None:
        parse("[")

    done: Pipeline[Any, Any] = Pipeline("p").stage("a", lambda _ctx: {"n": 1}, compensate=undo)
    engine = make_engine(done.stage("b", lambda _ctx: StageOutput.fail("no")))
    handle = engine.enqueue("p", {})
    engine.drain()
    view = handle.describe().stage("a").undo
    assert view.state == "compensation_failed"
    assert "in parse: return json.loads(text)" in view.attempts[-1].traceback[1]


def test_they_go_by_an_age_of_their_own_also_where_a_run_is_parked(make_engine: MakeEngine) -> None:
    parks: Pipeline[Any, Any] = Pipeline("p", on_failure="park").stage("a", lambda _ctx: parse("{"), retry=QUICK)
    engine = make_engine(parks)
    handle = engine.enqueue("p", {})
    engine.drain()
    assert engine.store.forget_traces(60.0) == 0
    engine.advance(61)
    assert engine.store.forget_traces(60.0) == 1
    attempts = handle.describe().stage("a").attempts
    assert [attempt.traceback for attempt in attempts] == [()]
    assert all(attempt.error for attempt in attempts)
    assert [one.problems for one in engine.audit()] == [()]


def test_a_sweep_forgets_those_that_are_old(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", lambda _ctx: parse("{"), retry=QUICK))
    handle = engine.enqueue("p", {})
    engine.drain()
    engine.advance(31 * 86_400)
    engine.sweep()
    assert [attempt.traceback for attempt in handle.describe().stage("a").attempts] == [()]


@pytest.mark.parametrize("text", [(), ("ValueError: no",), ("ValueError: no", "  in libraries:")])
def test_a_trace_that_names_no_frame_has_no_place(text: tuple[str, ...]) -> None:
    from stageflow_durable.model.run import AttemptView

    assert AttemptView(1, None, None, None, None, None, None, None, None, None, text).raised_at == ""  # type: ignore[arg-type]  # the others are not looked at
