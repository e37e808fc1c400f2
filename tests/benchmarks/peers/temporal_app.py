"""Temporal: a workflow whose steps are activities, each scheduled and completed through the server."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "bench"

with workflow.unsafe.imports_passed_through():
    from tests.benchmarks.peers.line import output


@activity.defn
async def step() -> dict[str, str]:
    """A no-op."""
    return output()


@workflow.defn(name="line")
class Line:
    """A line of steps."""

    @workflow.run
    async def run(self, length: int) -> None:
        """``length`` steps, one after the other."""
        for _ in range(length):
            await workflow.execute_activity(step, start_to_close_timeout=timedelta(minutes=5))


async def main() -> None:
    """Work until the end of the process."""
    client = await Client.connect(os.environ["BENCH_TEMPORAL"])
    await Worker(client, task_queue=QUEUE, workflows=[Line], activities=[step]).run()


if __name__ == "__main__":
    asyncio.run(main())
