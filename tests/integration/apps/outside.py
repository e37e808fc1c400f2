"""An application whose stage starts something outside and waits for its callback, and another asks for an approval;
and the servers of its URLs.

The input of a run, all of it optional::

    {"kill": "before" | "after",   # SIGKILL the process before or after it has handed its URL out; once a run
     "timeout": 60,                # of the wait, in seconds
     "hold": "gate"}               # after the URL was handed out, wait at a gate of the ledger
"""

from __future__ import annotations

import os
import signal
import sys
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

from stageflow_durable import CompensationContext, Engine, Pipeline, RetryPolicy, StageContext, StageOutput
from stageflow_durable.web import callbacks
from tests.integration.apps.ledger import Entry, Ledger
from tests.integration.apps.script import hold

SETTINGS = {"public_url": "http://callbacks.test/stageflow", "audit_key": "the audit key of these tests"}


def start(ctx: StageContext[dict[str, Any]]) -> StageOutput:
    """Hand the URL out, and wait."""
    ledger, given = Ledger.here(), ctx.input
    _die(ledger, ctx, "before")
    ledger.write(Entry("do", ctx.run_id, ctx.stage, ctx.attempt, ctx.idempotency_key, ctx.callback_url(), os.getpid()))
    hold(ledger, given.get("hold"))
    _die(ledger, ctx, "after")
    return StageOutput.wait(timeout=given.get("timeout", 60))


def stop(ctx: CompensationContext[dict[str, Any]]) -> None:
    """Undo, visibly: the token says how the action stood."""
    entry = Entry("undo", ctx.run_id, ctx.stage, ctx.attempt, ctx.idempotency_key, ctx.outcome, os.getpid())
    Ledger.here().write(entry)


def use(ctx: StageContext[dict[str, Any]]) -> Any:
    """Give on what the outside has sent."""
    return ctx.outputs["render"]


def _die(ledger: Ledger, ctx: StageContext[dict[str, Any]], when: str) -> None:
    if ctx.input.get("kill") == when and ledger.first(f"kill-{ctx.run_id}"):
        os.kill(os.getpid(), signal.SIGKILL)


render = (
    Pipeline("render", result_type=dict)
    .stage("render", start, compensate=stop, retry=RetryPolicy(max_attempts=1))
    .stage("use", use)
)
asked: Pipeline[Any, Any] = Pipeline("asked").approve("release", lambda _ctx: {"amount": 42}, approvers="ann")
engine = Engine("lanes", [render, asked])
celery_app = engine.celery_app
asgi = callbacks.asgi_app(engine)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), callbacks.wsgi_app(engine), server_class=_Server).serve_forever()
