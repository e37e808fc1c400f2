"""Hands invocations to Restate's ingress."""

from __future__ import annotations

import asyncio
import os

import httpx

from tests.benchmarks.peers.talk import Waiting, serve

INGRESS, ADMIN, SERVICE = (os.environ[name] for name in ("BENCH_INGRESS", "BENCH_ADMIN", "BENCH_SERVICE"))


async def main() -> None:
    """Register the service, then send and await."""
    waiting = Waiting()
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as http:
        (await http.post(f"{ADMIN}/deployments", json={"uri": SERVICE})).raise_for_status()

        async def start(length: int) -> None:
            sent = (await http.post(f"{INGRESS}/bench/line/send", json=length)).raise_for_status()
            waiting.follow(_result(http, sent.json()["invocationId"]))

        async def finished() -> int:
            return waiting.finished

        async def answer(length: int) -> object:
            return (await http.post(f"{INGRESS}/bench/line", json=length)).raise_for_status()

        await serve(start, finished, answer)


async def _result(http: httpx.AsyncClient, invocation: str) -> None:
    (await http.get(f"{INGRESS}/restate/invocation/{invocation}/attach")).raise_for_status()


if __name__ == "__main__":
    asyncio.run(main())
