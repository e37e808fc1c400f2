"""Stage bodies that do what their run's input says, so that one worker serves every test.

The input of a run, all of it optional::

    {"kill": {"s3": "child"},      # "child": SIGKILL the process, "group": the worker with all its children; once a run
     "hold": {"s3": "gate"},       # wait at a gate of the ledger (at most HOLD_SECONDS)
     "nap": 0.1,                   # seconds that each body takes
     "fail": {"s3": [2, "error"]}} # how the first 2 attempts of s3 end; -1: all of them
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from stageflow_durable import PermanentError, StageOutput, TransientError
from tests.integration.apps.ledger import Entry, Ledger

HOLD_SECONDS = 60.0
log = logging.getLogger("shop")


def body(ctx: Any) -> Any:
    """Act once, visibly, then end as the script says. Returns its token and those of the stages before."""
    ledger, token = Ledger.here(), os.urandom(6).hex()
    ledger.write(Entry("do", ctx.run_id, ctx.stage, ctx.attempt, ctx.idempotency_key, token, os.getpid()))
    _die(ledger, ctx.run_id, ctx.input.get("kill", {}).get(ctx.stage), ctx.stage)
    hold(ledger, ctx.input.get("hold", {}).get(ctx.stage))
    time.sleep(ctx.input.get("nap", 0.0))
    times, how = ctx.input.get("fail", {}).get(ctx.stage, (0, ""))
    if times < 0 or ctx.attempt <= times:
        log.info("%s of %s fails", ctx.stage, ctx.run_id)
        return _FAILURES[how]()
    return {"token": token, "seen": {name: output["token"] for name, output in ctx.outputs.items()}}


def undo(ctx: Any) -> None:
    """Undo, visibly."""
    Ledger.here().write(Entry("undo", ctx.run_id, ctx.stage, ctx.attempt, ctx.idempotency_key, "", os.getpid()))


def _die(ledger: Ledger, run: str, whom: str | None, stage: str) -> None:
    if whom is None or not ledger.first(f"kill-{run}-{stage}"):
        return
    if whom == "group":
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def hold(ledger: Ledger, gate: str | None) -> None:
    until = time.monotonic() + HOLD_SECONDS
    while gate is not None and not ledger.is_open(gate) and time.monotonic() < until:
        time.sleep(0.02)


def _raise(error: Exception) -> Any:
    raise error


_FAILURES: dict[str, Callable[[], Any]] = {
    "error": lambda: _raise(TransientError("the remote side is busy")),
    "permanent": lambda: _raise(PermanentError("the card is stolen")),
    "retry": lambda: StageOutput.retry("not yet"),
    "later": lambda: StageOutput.retry("not yet", after=1.2),
}
