"""For async callers: the same calls off the event loop, in a thread. Thin on purpose: there is one implementation of
each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stageflow_durable.model.run import Event, Run, RunSummary, SweepReport, WorkerView
    from stageflow_durable.model.status import RunStatus


class HandleTwins:
    """``a…`` twins of :class:`RunHandle`'s methods; each takes what its twin takes and raises what it raises."""

    status: Callable[..., RunStatus]
    describe: Callable[..., Run]
    history: Callable[..., list[Event]]
    outputs: Callable[..., dict[str, Any]]
    result: Callable[..., Any]

    async def astatus(self) -> RunStatus:
        """:meth:`status`."""
        return await asyncio.to_thread(self.status)

    async def adescribe(self) -> Run:
        """:meth:`describe`."""
        return await asyncio.to_thread(self.describe)

    async def ahistory(self) -> list[Event]:
        """:meth:`history`."""
        return await asyncio.to_thread(self.history)

    async def aoutputs(self) -> dict[str, Any]:
        """:meth:`outputs`."""
        return await asyncio.to_thread(self.outputs)

    async def aresult(self, timeout: float | timedelta | None = None) -> Any:
        """:meth:`result`."""
        return await asyncio.to_thread(self.result, timeout)


class EngineTwins:
    """``a…`` twins of :class:`Engine`'s methods; each takes what its twin takes and raises what it raises."""

    enqueue: Callable[..., Any]
    enqueue_many: Callable[..., list[Any]]
    handle: Callable[..., Any]
    run: Callable[..., Run]
    runs: Callable[..., list[RunSummary]]
    history: Callable[..., list[Event]]
    workers: Callable[..., list[WorkerView]]
    resume: Callable[..., RunSummary]
    cancel: Callable[..., RunSummary]
    compensate: Callable[..., RunSummary]
    fork: Callable[..., Any]
    settle: Callable[..., RunSummary]
    confirm_dead: Callable[..., list[str]]
    sweep: Callable[..., SweepReport]
    prune: Callable[..., int]

    async def aenqueue(self, *given: Any, **options: Any) -> Any:
        """:meth:`enqueue`."""
        return await asyncio.to_thread(self.enqueue, *given, **options)

    async def aenqueue_many(self, *given: Any, **options: Any) -> list[Any]:
        """:meth:`enqueue_many`."""
        return await asyncio.to_thread(self.enqueue_many, *given, **options)

    async def ahandle(self, run_id: str) -> Any:
        """:meth:`handle`."""
        return await asyncio.to_thread(self.handle, run_id)

    async def arun(self, run_id: str) -> Run:
        """:meth:`run`."""
        return await asyncio.to_thread(self.run, run_id)

    async def aruns(self, **filters: Any) -> list[RunSummary]:
        """:meth:`runs`."""
        return await asyncio.to_thread(self.runs, **filters)

    async def ahistory(self, run_id: str) -> list[Event]:
        """:meth:`history`."""
        return await asyncio.to_thread(self.history, run_id)

    async def aworkers(self) -> list[WorkerView]:
        """:meth:`workers`."""
        return await asyncio.to_thread(self.workers)

    async def aresume(self, run_id: str, **options: Any) -> RunSummary:
        """:meth:`resume`."""
        return await asyncio.to_thread(self.resume, run_id, **options)

    async def acancel(self, run_id: str, **options: Any) -> RunSummary:
        """:meth:`cancel`."""
        return await asyncio.to_thread(self.cancel, run_id, **options)

    async def acompensate(self, run_id: str, **options: Any) -> RunSummary:
        """:meth:`compensate`."""
        return await asyncio.to_thread(self.compensate, run_id, **options)

    async def afork(self, run_id: str, from_stage: str, **options: Any) -> Any:
        """:meth:`fork`."""
        return await asyncio.to_thread(self.fork, run_id, from_stage, **options)

    async def asettle(self, run_id: str, stage: str, **options: Any) -> RunSummary:
        """:meth:`settle`."""
        return await asyncio.to_thread(self.settle, run_id, stage, **options)

    async def aconfirm_dead(self, owner: str, **options: Any) -> list[str]:
        """:meth:`confirm_dead`."""
        return await asyncio.to_thread(self.confirm_dead, owner, **options)

    async def asweep(self) -> SweepReport:
        """:meth:`sweep`."""
        return await asyncio.to_thread(self.sweep)

    async def aprune(self, older_than: Any, **options: Any) -> int:
        """:meth:`prune`."""
        return await asyncio.to_thread(self.prune, older_than, **options)
