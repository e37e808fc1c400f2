"""A stage that is called, says which process calls it, and never ends; called once more, it says so and ends."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import Any

from redis import Redis

from stageflow_durable import Engine, Pipeline, StageContext

BEGAN, AGAIN = "bench:began", "bench:again"


def held(ctx: StageContext[Any]) -> None:
    """The first call waits for its end."""
    if _client().set(f"bench:{ctx.run_id}", "1", nx=True, ex=600):
        _client().lpush(BEGAN, os.getpid())
        threading.Event().wait(300)
    else:
        _client().lpush(AGAIN, os.getpid())


@lru_cache(maxsize=1)
def _client() -> Any:
    return Redis.from_url(os.environ["BENCH_BROKER_URL"])


pipeline: Pipeline[Any, Any] = Pipeline("held").stage("held", held)
engine = Engine("held", [pipeline])
celery_app = engine.celery_app
