"""Hands workflows to DBOS."""

from __future__ import annotations

import asyncio
import os

import psycopg
from dbos import DBOSClient

from tests.benchmarks.peers.dbos_app import NAME
from tests.benchmarks.peers.talk import serve

URL = os.environ["BENCH_DATABASE_URL"]


async def main() -> None:
    """Enqueue in DBOS's own tables, count there."""
    client = DBOSClient(system_database_url=URL)
    look = psycopg.connect(URL.replace("+psycopg", ""), autocommit=True)

    async def start(length: int) -> None:
        client.enqueue({"queue_name": NAME, "workflow_name": "line", "app_version": "1"}, length)

    async def finished() -> int:
        row = look.execute("SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'").fetchone()
        return int(row[0]) if row else 0

    async def answer(length: int) -> object:
        handle = client.enqueue({"queue_name": NAME, "workflow_name": "line", "app_version": "1"}, length)
        return await asyncio.to_thread(handle.get_result)

    await serve(start, finished, answer)


if __name__ == "__main__":
    asyncio.run(main())
