"""What ``stageflow doctor`` thinks of how workers are kept small, stopped and connected. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stageflow_durable.cli.checks import Check, Level, judged, ok, skipped
from stageflow_durable.cli.habits import CELERYS_OWN_SECONDS, REDIS
from stageflow_durable.cli.words import counted

if TYPE_CHECKING:
    from stageflow_durable.delivery.far import FarMessages
    from stageflow_durable.delivery.worker_facts import WorkerFacts


FAR = "messages for later"


def workers(facts: WorkerFacts, transport: str, *, alone: bool) -> Iterator[Check]:
    """How they live and end. ``alone``: this is one machine with a broker of its own, for development."""
    yield _time_limits(facts)
    yield _etas(facts)
    yield _recycled(facts, alone=alone)
    yield _shutdown(facts)
    yield _sockets(facts, transport)


def _time_limits(facts: WorkerFacts) -> Check:
    bounds = "" if facts.time_limit is None else f" ({facts.time_limit:g} s, of your own tasks)"
    return judged(
        "time limits",
        facts.exempt,
        f"none cuts a stage{bounds}; a stage has its timeout=",
        "another Strategy is set for the engine's task: a limit of tasks ends a message, and the stage in it",
        "leave the Strategy of stageflow.advance as it is, and give stages a timeout=",
    )


def _etas(facts: WorkerFacts) -> Check:
    name = "tasks with an ETA"
    if not facts.adopted:
        return ok(name, "longer delays are rows: the engine sends none for later than a few seconds")
    return judged(
        name,
        bool(facts.eta_limit),
        f"a worker holds {facts.eta_limit} of them at the most",
        "worker_eta_task_limit is not set: a worker takes all tasks of your own that are due later into its memory, "
        "and none of them is acknowledged",
        "celery_app.conf.worker_eta_task_limit = 1000",
        level=Level.WARN,
    )


def _recycled(facts: WorkerFacts, *, alone: bool) -> Check:
    name = "memory of children"
    if alone:
        return skipped(name, "one machine, for development")
    return judged(
        name,
        facts.recycled,
        "a child is replaced before it grows for ever",
        "neither worker_max_tasks_per_child nor worker_max_memory_per_child is set: what leaks is kept until the "
        "worker ends (nothing is wrong if its command line sets one)",
        "celery_app.conf.worker_max_memory_per_child = 400_000",
        level=Level.WARN,
    )


def _shutdown(facts: WorkerFacts) -> Check:
    waits = facts.soft_shutdown > 0
    waited = facts.contained and not facts.remapped
    return judged(
        "shutdown",
        waits and not waited,
        f"soft: stages have {facts.soft_shutdown:g} s, then their messages are handed back",
        "SIGTERM waits for the stages that run, without limit, until the container is killed and they are lost"
        if waits
        else "worker_soft_shutdown_timeout is 0: a cold shutdown ends what runs, and nobody knows what it did",
        "REMAP_SIGTERM=SIGQUIT in the environment of the workers"
        if waits
        else "celery_app.conf.worker_soft_shutdown_timeout = 10.0",
        level=Level.WARN,
    )


def _sockets(facts: WorkerFacts, transport: str) -> Check:
    name = "broker sockets"
    if transport not in REDIS:
        return skipped(name, f"{transport} has heartbeats of its own")
    return judged(
        name,
        bool(facts.socket_timeout),
        f"given up after {facts.socket_timeout or 0:g} s without an answer",
        "no socket_timeout: a worker waits for ever on a connection whose other end is gone, and looks alive",
        'celery_app.conf.broker_transport_options["socket_timeout"] = 10.0',
        level=Level.WARN,
    )


def far(found: Mapping[str, FarMessages], visibility_timeout: float | None) -> Iterator[Check]:
    """No message waits for longer than the time after which it is delivered again."""
    seconds = CELERYS_OWN_SECONDS if visibility_timeout is None else visibility_timeout
    late = {queue: seen for queue, seen in found.items() if seen.far}
    if not late:
        looked = sum(seen.looked for seen in found.values())
        yield ok(FAR, f"none is due later than the visibility timeout (of {counted(looked, 'message')} looked at)")
    for queue, seen in sorted(late.items()):
        yield Check(
            FAR,
            Level.WARN,
            f"{queue}: {seen.far} of {counted(seen.looked, 'message')} looked at are due in up to "
            f"{seen.furthest / 3600:.1f} h, and are delivered again every {seconds:g} s, to run as many times",
            "shorten countdown= and eta= of these tasks, or raise "
            f'celery_app.conf.broker_transport_options["visibility_timeout"] above {seen.furthest:.0f}',
        )
