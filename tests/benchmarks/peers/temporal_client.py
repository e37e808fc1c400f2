"""Hands workflows to Temporal's server."""

from __future__ import annotations

import asyncio
import os
import uuid

from temporalio.client import Client

from tests.benchmarks.peers.talk import Waiting, serve
from tests.benchmarks.peers.temporal_app import QUEUE


async def main() -> None:
    """Start workflows and await their results."""
    client = await Client.connect(os.environ["BENCH_TEMPORAL"])
    waiting = Waiting()

    async def start(length: int) -> None:
        waiting.follow((await client.start_workflow("line", length, id=uuid.uuid4().hex, task_queue=QUEUE)).result())

    async def finished() -> int:
        return waiting.finished

    async def answer(length: int) -> object:
        return await client.execute_workflow("line", length, id=uuid.uuid4().hex, task_queue=QUEUE)

    await serve(start, finished, answer)


if __name__ == "__main__":
    asyncio.run(main())
