"""The log lines of an attempt: what its code logs while it runs, stored with it, masked, bounded, for a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy, StageOutput
from stageflow_durable.engine.kept_lines import Keeper, Kept

MakeEngine = Callable[..., Any]
SECRET = "s3cr3t-Value"
QUICK = RetryPolicy(max_attempts=2, base_delay=0.001, jitter="none")
shop = logging.getLogger("shop.pay")


@pytest.fixture(autouse=True)
def informed() -> Iterator[None]:
    shop.setLevel(logging.INFO)
    yield
    shop.setLevel(logging.NOTSET)


def said(attempt: Any) -> list[str]:
    """What the lines say, without their times."""
    return [line if line.startswith(" ") else line.partition("Z ")[2] for line in attempt.log]


def test_what_a_body_logs_is_kept_with_its_attempt_whether_it_fails_or_not(make_engine: MakeEngine) -> None:
    def charge(ctx: Any) -> dict[str, int]:
        shop.info("charge %s", ctx.attempt)
        shop.debug("not let through by its logger")
        if ctx.attempt == 1:
            raise ConnectionError("no")
        return {"n": 1}

    engine = make_engine(Pipeline("p").stage("a", charge, retry=QUICK).stage("b", lambda _ctx: None))
    handles = [engine.enqueue("p", {}) for _ in range(2)]
    engine.drain()
    for handle in handles:
        first, second = handle.describe().stage("a").attempts
        assert said(first) == ["INFO shop.pay: charge 1"]
        assert said(second) == ["INFO shop.pay: charge 2"]
        assert (first.traceback != (), second.traceback) == (True, ())
        assert [attempt.log for attempt in handle.describe().stage("b").attempts] == [()]
    assert [one.problems for one in engine.audit()] == [(), ()]
    assert not any(isinstance(handler, Keeper) for handler in logging.root.handlers)


def test_lines_of_neighbours_in_the_loop_and_of_threads_stay_apart(make_engine: MakeEngine) -> None:
    async def body(ctx: Any) -> None:
        async def one(name: str) -> None:
            await asyncio.sleep(0)
            shop.info("%s %s of %s", name, ctx.stage, ctx.run_id)

        def apart() -> None:
            shop.info("thread %s of %s", ctx.stage, ctx.run_id)

        await asyncio.gather(one("x"), one("y"), asyncio.to_thread(apart))
        stranger = threading.Thread(target=lambda: shop.info("of nobody"))
        ours = threading.Thread(target=copy_context().run, args=(apart,))
        for thread in (stranger, ours):
            thread.start()
            thread.join()

    engine = make_engine(Pipeline("p").stage("a", body).stage("b", body))
    handles = [engine.enqueue("p", {}) for _ in range(3)]
    engine.drain()
    for handle in handles:
        for stage in ("a", "b"):
            (attempt,) = handle.describe().stage(stage).attempts
            of = f"{stage} of {handle.run_id}"
            assert sorted(said(attempt)) == [f"INFO shop.pay: {who} {of}" for who in ("thread", "thread", "x", "y")]


def test_hostile_lines_are_harmless_masked_and_fail_no_body(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [logging.NullHandler()])  # pytest's raises where a line is wrong

    class Awkward:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def body(_ctx: Any) -> dict[str, int]:
        shop.warning("https://ann:%s@bank/pay password=%s", SECRET, SECRET)
        shop.warning("red \x1b[31m \u202e turned \ud800 \x00 caf\xe9\n2026-11-30T00:00:00.000Z INFO forged: x")
        shop.warning("%s and %s", "one")
        shop.warning("%s", Awkward())
        shop.warning("x" * 1_000_000)
        try:
            raise ValueError(f"password={SECRET}")
        except ValueError:
            shop.exception("caught")
        logging.getLogger("stageflow.run").warning("the engine's own")
        return {"n": 1}

    engine = make_engine(Pipeline("p").stage("a", body))
    handle = engine.enqueue("p", {})
    engine.drain()
    (attempt,) = handle.describe().stage("a").attempts
    lines, text = said(attempt), "\n".join(attempt.log)
    assert attempt.state == "ok"
    assert lines[:2] == [
        "WARNING shop.pay: https://***@bank/pay password=***",
        r"WARNING shop.pay: red \x1b[31m \u202e turned \ud800 \x00 caf" + "\xe9",
    ]
    assert lines[2] == "  2026-11-30T00:00:00.000Z INFO forged: x"
    assert lines[3] == "WARNING shop.pay: %s and %s (its arguments do not fit: TypeError)"
    assert lines[4] == "WARNING shop.pay: %s (its arguments do not fit: RuntimeError)"
    assert lines[5].endswith("... cut")
    assert lines[6] == "ERROR shop.pay: caught"
    assert lines[7] == "  ValueError: password=***"
    assert lines[8].startswith("    at ")
    assert SECRET not in text
    assert "the engine's own" not in text


def test_of_many_lines_the_first_and_the_last_are_kept(make_engine: MakeEngine) -> None:
    def body(_ctx: Any) -> None:
        for n in range(1000):
            shop.info("line %s", n)

    engine = make_engine(Pipeline("p").stage("a", body), log_bytes=1000)
    handle = engine.enqueue("p", {})
    engine.drain()
    (attempt,) = handle.describe().stage("a").attempts
    gap = next(line for line in attempt.log if line.endswith("left out ..."))
    left_out = int(gap.split()[1].replace(",", ""))
    assert len(attempt.log) - 1 + left_out == 1000
    assert (said(attempt)[0], said(attempt)[-1]) == ("INFO shop.pay: line 0", "INFO shop.pay: line 999")
    assert 6 < len(attempt.log) < 30


@pytest.mark.parametrize("most", [1, 10, 256, 8192])
def test_no_line_takes_more_than_its_share(most: int) -> None:
    kept = Kept(most)
    for n in range(50):
        kept.add(["\U0001f600" * (n * 37), "", "\\" * n])
    assert len(kept.text()) <= most + 60


def test_by_a_setting_nothing_is_kept(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", lambda _ctx: shop.info("said")), log_bytes=0)
    handle = engine.enqueue("p", {})
    engine.drain()
    assert [attempt.log for attempt in handle.describe().stage("a").attempts] == [()]


def test_the_first_and_the_last_five_attempts_keep_them(make_engine: MakeEngine) -> None:
    def body(ctx: Any) -> None:
        shop.info("try %s", ctx.attempt)
        raise ConnectionError("no")

    often = RetryPolicy(max_attempts=13, base_delay=0.001, jitter="none")
    engine = make_engine(Pipeline("p").stage("a", body, retry=often))
    handle = engine.enqueue("p", {})
    engine.drain()
    attempts = handle.describe().stage("a").attempts
    kept = [1, 2, 3, 4, 5, 9, 10, 11, 12, 13]
    assert [attempt.n for attempt in attempts if attempt.log] == kept
    assert [attempt.n for attempt in attempts if attempt.traceback] == kept
    assert all(attempt.error for attempt in attempts)
    assert [one.problems for one in engine.audit()] == [()]


def test_an_undo_keeps_its_lines_and_so_does_a_stage_that_waits_for_its_callback(make_engine: MakeEngine) -> None:
    def wait(ctx: Any) -> StageOutput:
        shop.info("asked")
        assert ctx.callback_url()
        return StageOutput.wait(timeout=5)

    done: Pipeline[Any, Any] = Pipeline("p").stage(
        "a", lambda _ctx: {"n": 1}, compensate=lambda _ctx: shop.info("undone")
    )
    engine = make_engine(done.stage("b", lambda _ctx: StageOutput.fail("no")), Pipeline("w").stage("c", wait))
    failed, waits = engine.enqueue("p", {}), engine.enqueue("w", {})
    engine.drain()
    assert said(failed.describe().stage("a").undo.attempts[-1]) == ["INFO shop.pay: undone"]
    assert said(waits.describe().stage("c").attempts[-1]) == ["INFO shop.pay: asked"]


def test_they_go_by_the_age_of_tracebacks_and_when_a_run_is_erased(make_engine: MakeEngine) -> None:
    def body(_ctx: Any) -> dict[str, int]:
        shop.info("said")
        return {"n": 1}

    engine = make_engine(Pipeline("p").stage("a", body))
    old, erased = engine.enqueue("p", {}), engine.enqueue("p", {})
    engine.drain()
    engine.erase(erased.run_id, reason="asked for", actor="ann")
    assert [attempt.log for attempt in erased.describe().stage("a").attempts] == [()]
    assert engine.store.forget_traces(60.0) == 0
    engine.advance(61)
    assert engine.store.forget_traces(60.0) == 1
    assert [attempt.log for attempt in old.describe().stage("a").attempts] == [()]
    assert [one.problems for one in engine.audit()] == [(), ()]


def test_a_line_of_celerys_task_logger_is_kept_once(make_engine: MakeEngine) -> None:
    task = logging.getLogger("celery.task")

    def body(_ctx: Any) -> None:
        task.warning("from a task")

    engine = make_engine(Pipeline("p").stage("a", body))
    before = task.propagate
    try:
        for task.propagate in (True, False):
            handle = engine.enqueue("p", {})
            engine.drain()
            assert said(handle.describe().stage("a").attempts[0]) == ["WARNING celery.task: from a task"]
    finally:
        task.propagate = before


def test_where_nobody_set_up_logging_warnings_are_still_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    last = logging.Handler(logging.WARNING)
    last.emit = lambda record: printed.append(record.getMessage())  # type: ignore[method-assign]  # one of its own
    monkeypatch.setattr(logging, "lastResort", last)
    root = logging.root
    monkeypatch.setattr(root, "handlers", [])
    root.addHandler(Keeper(root))
    logging.getLogger("elsewhere").warning("seen")
    shop.info("not a warning")
    assert printed == ["seen"]
