"""How the benchmark talks to a peer's client, which lives in another environment: a line of JSON there, one back."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Answer = dict[str, Any]


class Waiting:
    """Lines of steps that were handed in; ``finished`` counts the results that arrived."""

    def __init__(self) -> None:
        self.finished = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def follow(self, result: Awaitable[Any]) -> None:
        """Count one line once its result is there; its failure ends the client, and so the measurement."""
        task = asyncio.ensure_future(result)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        task.result()
        self.finished += 1


async def serve(
    start: Callable[[int], Awaitable[None]],
    finished: Callable[[], Awaitable[int]],
    answer: Callable[[int], Awaitable[object]],
) -> None:
    """Answer until the input ends: ``{"start": LENGTH}`` once the line is durable, ``{"answer": LENGTH}`` with the
    milliseconds until its result was there, else with a count.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_end)
    _say({"ready": True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        if "answer" in asked:
            began = time.perf_counter()
            await answer(asked["answer"])
            _say({"ms": 1000 * (time.perf_counter() - began)})
            continue
        if "start" in asked:
            await start(asked["start"])
        _say({"finished": await finished()})


def _say(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)


def _end(loop: asyncio.AbstractEventLoop, context: Answer) -> None:
    loop.default_exception_handler(context)
    sys.stderr.flush()
    loop.stop()
