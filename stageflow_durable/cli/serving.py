"""What ``stageflow doctor`` thinks of who carries what: runs that no worker knows, queues without consumers, and
queues that two applications share. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stageflow_durable.cli.checks import Check, Level, judged, ok, skipped
from stageflow_durable.cli.words import age, counted
from stageflow_durable.model.overview import Overview
from stageflow_durable.model.roster import LEGACY_QUEUE, Known, Missing, Roster
from stageflow_durable.model.run import RunSummary

RECENT_SECONDS = 3600.0
"""How long a message of another database's run is worth a warning."""

_PIPELINES = "pipelines served"
_QUEUES = "queues served"


@dataclass(frozen=True, slots=True)
class Served:
    """What an application wants served: its engine's name, broker, queues and definitions by pipeline."""

    engine: str
    broker: str
    queues: Sequence[str]
    pipelines: Mapping[str, Known]


def carried(attention: Iterable[RunSummary]) -> Iterator[Check]:
    """Each unfinished run finds a live worker that knows it and serves its queue."""
    waiting: dict[Missing, int] = {}
    for run in attention:
        if run.missing is not None:
            waiting[run.missing] = waiting.get(run.missing, 0) + 1
    if not waiting:
        yield ok("runs carried", "each finds a live worker that knows it")
    for missing, count in waiting.items():
        wait = "waits" if count == 1 else "wait"
        yield Check("runs carried", Level.FAIL, f"{counted(count, 'run')} {wait}: {missing.message}", missing.way_out)


IDLE_SECONDS = 30.0
"""A message that waits for longer, while a process of its queue runs nothing, does not wait for its turn."""


def taken(seen: Overview) -> Iterator[Check]:
    """No queue grows while processes that serve it, and are alive, take nothing from it."""
    name = "idle workers"
    waiting = [one for one in seen.queues if one.oldest is not None and one.workers > one.busy]
    hung = [one for one in waiting if (seen.at - (one.oldest or seen.at)).total_seconds() > IDLE_SECONDS]
    if not hung:
        yield ok(name, "none, while messages wait")
    for queue in hung:
        idle = [one for one in seen.workers if one.alive and queue.name in one.queues and not one.running]
        named = ", ".join(f"{one.host} (pid {one.pid})" for one in idle[:3])
        yield Check(
            name,
            Level.WARN,
            f"{queue.name}: the oldest of {counted(queue.ready, 'stage')} has waited for "
            f"{age(queue.oldest or seen.at, seen.at)}, and processes that serve it and are alive run nothing: {named}",
            "restart the worker that these belong to, if it is not busy with tasks of your own",
        )


def shared(roster: Roster) -> Iterator[Check]:
    """No queue is served by workers of two engines, of which each would hand back the other's runs."""
    for queue in sorted(roster.queues - {LEGACY_QUEUE}):
        engines = roster.engines_on(queue)
        if len(engines) > 1:
            told = f"{queue} is served by workers of {' and '.join(engines)}: each takes messages of the others' runs"
            yield Check(
                "shared queue", Level.WARN, told, "give each engine a queue of its own: leave STAGEFLOW_QUEUE unset"
            )


def strangers(seen: Mapping[str, float]) -> Iterator[Check]:
    """No other application with a database of its own publishes to a queue that is served here."""
    for queue, ago in sorted(seen.items()):
        if ago < RECENT_SECONDS:
            told = f"{queue}: messages named runs that are not in this database, the last {ago / 60:.0f} min ago"
            fix = "another application shares broker and queue: give one another broker database or STAGEFLOW_QUEUE"
            yield Check("messages of others", Level.WARN, told, fix)


def served(wanted: Served, roster: Roster) -> Iterator[Check]:
    """The live workers serve what this application needs, also before a run waits for it."""
    if roster.silent or not roster.profiles:
        why = "a worker of an older release does not say what it serves" if roster.silent else "no worker is alive"
        yield skipped(_PIPELINES, why)
        return
    yield _known(wanted, roster)
    yield from _consumed(wanted, roster)
    listed = " and ".join(sorted(roster.brokers))
    yield judged(
        "broker of the workers",
        wanted.broker in roster.brokers,
        listed,
        f"this application publishes to {wanted.broker}, live workers listen at {listed}: each of its messages is late",
        "set the same STAGEFLOW_BROKER_URL for both (nothing is wrong if these are two names of one broker)",
        level=Level.WARN,
    )


def _known(wanted: Served, roster: Roster) -> Check:
    unknown = [name for name, known in wanted.pipelines.items() if known.digest not in roster.digests]
    told = ", ".join(f"{name} v{wanted.pipelines[name].version}" for name in unknown)
    return judged(
        _PIPELINES,
        not unknown,
        ", ".join(wanted.pipelines) or "none is defined",
        f"no live worker knows {told}, as this application has it; live workers know: {roster.known}",
        "restart the workers with this code: stageflow worker",
        level=Level.WARN,
    )


def _consumed(wanted: Served, roster: Roster) -> Iterator[Check]:
    lacking = [queue for queue in wanted.queues if queue not in roster.queues and queue != LEGACY_QUEUE]
    yield judged(
        _QUEUES,
        not lacking,
        ", ".join(queue for queue in wanted.queues if queue in roster.queues),
        f"no live worker serves {', '.join(lacking)}; live workers serve: {', '.join(sorted(roster.queues)) or 'none'}",
        f"stageflow worker -Q {','.join(lacking)}, or add them to -Q of your workers",
    )


def takes_json(accepted: Sequence[str]) -> Check:
    """The application's workers accept JSON, which the engine's messages are."""
    with_json = ", ".join(f'"{kind}"' for kind in (*accepted, "json"))
    return judged(
        "content of messages",
        not {"json", "application/json"}.isdisjoint(accepted),
        "JSON is accepted",
        f"the application accepts {', '.join(accepted) or 'nothing'} and no JSON: the engine's messages are refused",
        f"celery_app.conf.accept_content = [{with_json}]",
    )
