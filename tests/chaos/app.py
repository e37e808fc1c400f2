"""The worker application of the chaos tests: sagas against a world outside, which die where their input says.

The input of a run, all of it optional; a moment is ``do:STAGE`` or ``undo:STAGE``::

    {"die": {"do:s3": ["child", "after"]},   # SIGKILL to the process ("child"; "children": at every attempt) or to the
                                              # whole worker ("group"), memory without end ("hog"; "hogs": at every
                                              # attempt) or deafness until its timeout ends it ("deaf"; "deaf ones");
                                              # once, "before" or "after" the effect
     "hold": {"undo:s3": "gate"},            # wait at a gate of the ledger, after the effect
     "fail": {"do:s3": ["error", 2, "after"]}, # the first 2 attempts (-1: all; "gate": until it opens); see FAILURES
     "nap": 0.05,                            # seconds that each body takes
     "amount": 3}                            # of each effect
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stageflow_durable import Engine, PermanentError, Pipeline, RetryPolicy, StageOutput, TransientError, Undo
from tests.chaos.world import World
from tests.integration.apps.lanes import PIPELINES as LANES
from tests.integration.apps.ledger import Entry, Ledger

SOON = RetryPolicy(max_attempts=3, base_delay=0.1, max_delay=0.2, jitter="none")
STUBBORN = RetryPolicy(max_attempts=8, base_delay=0.1, max_delay=0.5)
HOLD_SECONDS = 60.0
HOGS = ("hog", "hogs")
DEAF = ("deaf", "deaf ones")
ALWAYS = ("children", "hogs", "deaf ones")
PIECE = 16 << 20
MOST = 1 << 30
"""Where a hog gives up when nothing stops it."""


def act(ctx: Any) -> Any:
    """Act on the world by the stage's key."""
    return _moment(ctx, "do", lambda: World.here().act(ctx.idempotency_key, ctx.run_id, ctx.stage, _amount(ctx)))


def undo(ctx: Any) -> None:
    """Undo what the stage did, by a key of its own."""
    _moment(ctx, "undo", lambda: World.here().undo(ctx.idempotency_key, ctx.action_key, f"undo {ctx.stage}"))


def _moment(ctx: Any, kind: str, effect: Callable[[], None]) -> Any:
    ledger, at, told = Ledger.here(), f"{kind}:{ctx.stage}", ctx.input
    ledger.write(Entry(kind, ctx.run_id, ctx.stage, ctx.attempt, ctx.idempotency_key, "", os.getpid()))
    whom, when = told.get("die", {}).get(at, ("", ""))
    how, times, where = told.get("fail", {}).get(at, ("", 0, ""))
    fails = not ledger.is_open(times) if isinstance(times, str) else times < 0 or ctx.attempt <= times
    if when == "before":
        _die(ledger, f"{ctx.run_id}-{at}", whom)
    if fails and where == "before":
        return FAILURES[how]()
    effect()
    if when == "after":
        _die(ledger, f"{ctx.run_id}-{at}", whom)
    _hold(ledger, told.get("hold", {}).get(at))
    time.sleep(told.get("nap", 0.0))
    return FAILURES[how]() if fails else {"stage": ctx.stage}


def _amount(ctx: Any) -> int:
    return int(ctx.input.get("amount", 1))


def _die(ledger: Ledger, name: str, whom: str) -> None:
    if whom not in ALWAYS and not ledger.first(f"die-{name}"):
        return
    if whom in HOGS:
        _hog()
    if whom in DEAF:
        _ignore_all()
    if whom == "group":
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _hog() -> None:
    """Take memory until somebody puts an end to it; whom the kernel kills, the hog or its parent, is not left to it."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    held = [b"x" * PIECE for _ in range(MOST // PIECE)]
    raise AssertionError(f"nobody minds {len(held) * PIECE} bytes")


def _ignore_all() -> None:
    """Go on, whatever is raised in here."""
    until = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < until:
        with suppress(BaseException):
            time.sleep(1.0)


def _hold(ledger: Ledger, gate: str | None) -> None:
    until = time.monotonic() + HOLD_SECONDS
    while gate is not None and not ledger.is_open(gate) and time.monotonic() < until:
        time.sleep(0.02)


def _raise(error: Exception) -> Any:
    raise error


def _ring() -> Any:
    ring: dict[str, Any] = {}
    ring["again"] = ring
    return ring


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


FAILURES: dict[str, Callable[[], Any]] = {
    "error": lambda: _raise(TransientError("the remote side is busy")),
    "permanent": lambda: _raise(PermanentError("the card is stolen")),
    "reject": lambda: StageOutput.reject("out of stock"),
    "later": lambda: StageOutput.retry("not yet", after=15.0),
    "slow": lambda: time.sleep(HOLD_SECONDS),
    "bug": lambda: _raise(TypeError("a slip")),
    "object": lambda: {"deep": [object()]},
    "nan": lambda: {"ratio": [float("nan")]},
    "ring": _ring,
    "nest": lambda: {"nest": _nested(5000)},
    "50 MB": lambda: {"blob": "x" * 50_000_000},
}


def saga(name: str, *stages: str, **options: Any) -> Pipeline[Any, Any]:
    """Stages in a row, each with an undo; ``options``: of each, where a timeout bounds its undo as well."""
    pipeline: Pipeline[Any, Any] = Pipeline(name, retry=SOON)
    for stage in stages:
        pipeline = pipeline.stage(stage, act, compensate=Undo(undo, retry=STUBBORN), **options)
    return pipeline


FIVE = saga("five", "s1", "s2", "s3", "s4", "s5")
ORDER = saga("order", "reserve", "charge", "ship")
BOUND = saga("bound", "s1", "s2", "s3", timeout=1.0)
DOUBTFUL = saga("doubtful", "s1", "s2", on_unknown="compensate")
SAGAS = {
    "five": ("s1", "s2", "s3", "s4", "s5"),
    "order": ("reserve", "charge", "ship"),
    "bound": ("s1", "s2", "s3"),
    "doubtful": ("s1", "s2"),
}
PIPELINES = (FIVE, ORDER, BOUND, DOUBTFUL, *LANES)

engine = Engine("chaos", PIPELINES)
celery_app = engine.celery_app
