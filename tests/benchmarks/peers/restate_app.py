"""Restate: a handler whose steps are journalled by the server, which acknowledges each before the next."""

from __future__ import annotations

import restate

from tests.benchmarks.peers.line import output

service = restate.Service("bench")


@service.handler()
async def line(ctx: restate.Context, length: int) -> None:
    """``length`` steps, one after the other."""
    for number in range(length):
        await ctx.run(f"s{number}", output)


app = restate.app([service])
