"""What ``stageflow doctor`` thinks of what it found: facts in, verdicts out, each with the line that fixes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from stageflow_durable.cli.words import age, counted
from stageflow_durable.model.run import RunSummary, WorkerView
from stageflow_durable.model.sinks import SinkView
from stageflow_durable.model.status import AT_REST, RunStatus

if TYPE_CHECKING:
    from stageflow_durable.delivery.probes import BrokerFacts, CeleryFacts, RedisFacts, TaskFacts
    from stageflow_durable.state.server import ServerFacts

GOING = frozenset(RunStatus) - AT_REST
"""Statuses of runs that somebody has to work on."""

MARGIN_SECONDS = 60
"""How much longer than the longest message's work the visibility timeout has to be."""


class Level(StrEnum):
    """How bad it is: ``fail`` loses or doubles work, ``warn`` may under some crash, ``skip`` could not be looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict. ``fix``: the line that fixes it, where something is wrong."""

    name: str
    level: Level
    message: str
    fix: str | None = None


def ok(name: str, message: str) -> Check:
    """Nothing to do."""
    return Check(name, Level.OK, message)


def skipped(name: str, why: str) -> Check:
    """Could not be looked at."""
    return Check(name, Level.SKIP, why)


def judged(name: str, fine: bool, good: str, bad: str, fix: str, *, level: Level = Level.FAIL) -> Check:
    """``good`` when ``fine``, else ``bad`` with its ``level`` and the line that fixes it."""
    return ok(name, good) if fine else Check(name, level, bad, fix)


# --- database and runs ------------------------------------------------------------------------------------------------


def schema(current: str | None, head: str, *, ahead: bool = False) -> Check:
    """The schema is the one that this release needs. ``ahead``: a newer one made it."""
    if ahead:  # as in the middle of a roll-out, when old and new run side by side
        bad = f"at {current}, made by a newer release; this one knows {head} at the most"
        return Check("schema", Level.WARN, bad, "deploy the newer release here too")
    return judged(
        "schema", current == head, f"at {head}", f"at {current or 'nothing'}, needed is {head}", "stageflow db upgrade"
    )


LATE = timedelta(minutes=1)
"""A sink that is further behind is not told, or does not keep up."""


def sinks(found: Sequence[SinkView], now: datetime) -> Iterator[Check]:
    """Each sink keeps up with what happens."""
    for view in found:
        since = view.behind_since
        late = since is not None and now - since > LATE
        behind = f"{counted(view.behind, 'event')} behind, for {age(since, now)}" if since is not None and late else ""
        refused = f"refused {view.tries} times: {view.error}" if view.tries else ""
        nobody = "no process tells it" if late and view.told_by is None and not refused else ""
        bad = "; ".join(part for part in (behind, refused, nobody) if part)
        fix = (
            "start a worker whose engine has it, or: stageflow sinks --forget " + view.name
            if nobody
            else "stageflow sinks"
        )
        yield judged(f"sink {view.name}", not bad, "told of everything", bad, fix, level=Level.WARN)


def live_workers(workers: Sequence[WorkerView], active: int) -> Check:
    """Somebody is there to do the work; without work nobody has to be."""
    alive = sum(worker.alive for worker in workers)
    to_do = f", and {counted(active, 'run')} to do" if active else ""
    return judged(
        "workers",
        bool(alive),
        f"{alive} alive",
        f"none alive{to_do}",
        "stageflow worker",
        level=Level.FAIL if active else Level.WARN,
    )


def overdue(attention: Iterable[RunSummary], now: datetime) -> Check:
    """No run stands still that should go on by itself."""
    going = (run for run in attention if run.status not in AT_REST)
    stuck = [run for run in going if run.missing is None and run.approval is None]
    since = min((run.updated_at for run in stuck), default=now)
    return judged(
        "overdue runs",
        not stuck,
        "none",
        f"{counted(len(stuck), 'run')} should have gone on, since {age(since, now)}",
        "stageflow sweep",
    )


# --- broker -----------------------------------------------------------------------------------------------------------


def broker(facts: BrokerFacts) -> Iterator[Check]:
    """The broker answers, and loses nothing that it was given."""
    if facts.error:
        yield Check(
            "broker",
            Level.FAIL,
            f"{facts.transport} does not answer: {facts.error}",
            'STAGEFLOW_SENTINEL_MASTER=NAME, or celery_app.conf.broker_transport_options = {"master_name": "NAME"}'
            if "master_name" in facts.error
            else "start it, or set STAGEFLOW_BROKER_URL to one that answers",
        )
        return
    yield ok("broker", f"{facts.transport} answers")
    if facts.redis:
        yield from redis(facts.redis)


def redis(facts: RedisFacts) -> Iterator[Check]:
    """A Redis or Valkey server keeps what it was given."""
    shown = ".".join(map(str, facts.version))
    new_enough = facts.server == "valkey" or facts.version >= (6, 2)
    yield judged(
        "redis version",
        new_enough,
        f"{facts.server} {shown}",
        f"{facts.server} {shown} is older than 6.2",
        "upgrade the server to Redis 6.2 or Valkey",
    )
    yield _eviction(facts)
    if facts.append_only is None:
        yield skipped("redis append-only file", "the server does not tell")
    else:
        yield judged(
            "redis append-only file",
            facts.append_only,
            "on",
            "off: a restart forgets queued messages; runs survive it, by the sweep, later",
            "redis-cli CONFIG SET appendonly yes && redis-cli CONFIG REWRITE",
            level=Level.WARN,
        )


def _eviction(facts: RedisFacts) -> Check:
    name = "redis eviction"
    if facts.policy is None:
        return skipped(name, "the server does not tell its maxmemory-policy")
    unlimited = " (maxmemory is not set now)" if facts.maxmemory == 0 else ""
    return judged(
        name,
        facts.policy == "noeviction",
        "noeviction",
        f"maxmemory-policy {facts.policy} throws messages away when memory is short{unlimited}",
        "redis-cli CONFIG SET maxmemory-policy noeviction && redis-cli CONFIG REWRITE",
        level=Level.WARN if facts.maxmemory == 0 else Level.FAIL,
    )


def claims(url: str | None, trouble: str | None) -> Check:
    """Claims of messages are kept where they are said to be; else each duplicate costs a look at its row."""
    if url is None:
        return skipped("claims", "none are kept: the database alone drops duplicates")
    return judged(
        "claims",
        trouble is None,
        "kept in Redis",
        f"not kept: {trouble}; the database alone drops duplicates",
        "set STAGEFLOW_REDIS_URL to what redis-py takes, or off",
        level=Level.WARN,
    )


SKEW_SECONDS = 2.0
"""By how much two clocks may differ before a person would notice."""

USUAL_CONNECTIONS = 5
"""Connections that one process of ours usually takes."""

FULL = 0.8
"""Above this share of its connections a server is nearly full."""


def server(facts: ServerFacts, alive: int) -> Iterator[Check]:
    """The database's server: encoding, clock, connections. ``alive``: processes that carry runs."""
    yield judged(
        "database encoding",
        facts.encoding == "UTF8",
        facts.encoding,
        f"{facts.encoding}: text that it cannot hold (names, errors, inputs in another script) is refused, and a stage "
        "that returns it fails",
        "createdb --encoding=UTF8 --template=template0 NAME, and move the data there",
    )
    ahead = facts.ahead
    yield judged(
        "clock",
        abs(ahead) <= SKEW_SECONDS,
        "the database's and this machine's agree",
        f"the database's is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: leases go by "
        "the database's alone, but deadlines, signatures and links that are made here are off by that much",
        "let both machines follow NTP: systemctl enable --now systemd-timesyncd (look on each machine of workers too)",
        level=Level.WARN,
    )
    yield _connections(facts, alive)


def _connections(facts: ServerFacts, alive: int) -> Check:
    wanted = alive * USUAL_CONNECTIONS + facts.used - facts.ours
    counts = f"{facts.used} of {facts.most} in use, {facts.ours} by stageflow"
    at_most = max(facts.used, 0 if facts.pooled else wanted)
    more = f"; {alive} processes of ours and the others may come to {wanted}" if wanted > facts.used else ""
    return judged(
        "connections",
        at_most <= FULL * facts.most,
        counts,
        f"{counts}{'' if facts.pooled else more}: with none left, enqueue fails and stages are late",
        f"ALTER SYSTEM SET max_connections = {max(100, int(at_most / FULL / 50 + 1) * 50)} (and restart), fewer "
        "processes, or a pooler in transaction mode before it",
        level=Level.FAIL if facts.used >= facts.most - 1 else Level.WARN,
    )


def audit_key(known: bool) -> Check:
    """Histories are sealed with a key that whoever can write to the database does not know."""
    return judged(
        "audit key",
        known,
        "histories are sealed with it",
        "none is set: whoever can write to the database can change what happened, and nobody finds out",
        "STAGEFLOW_AUDIT_KEY=$(openssl rand -hex 32), the same for every process",
        level=Level.WARN,
    )


def pooler(pooled: bool) -> Check:
    """How the database is reached."""
    if not pooled:
        return ok("pooler", "none is met")
    return ok("pooler", "one is met: nothing is prepared, and each transaction says its settings (a few trips more)")


# --- the Celery application -------------------------------------------------------------------------------------------


def application(facts: CeleryFacts) -> Iterator[Check]:
    """The Celery application's settings keep what a crash would lose."""
    if facts.task is None:
        yield Check(
            "task",
            Level.FAIL,
            "the engine's task is not registered with its Celery application",
            "Engine(…, celery_app=app) has to be built before the worker starts",
        )
    else:
        yield _task(facts.task)
    yield _consumer(facts)
    yield judged(
        "prefetch",
        facts.prefetch_multiplier == 1,
        "1",
        f"{facts.prefetch_multiplier}: messages wait behind a busy process while others are idle",
        _set("worker_prefetch_multiplier", 1),
        level=Level.WARN,
    )
    yield judged(
        "broker loss",
        not facts.cancels,
        "stages that run go on",
        "stages that run are ended when the broker goes away: nobody knows what they did",
        _set("worker_cancel_long_running_tasks_on_connection_loss", False),
    )
    yield _content(facts)
    yield _results(facts)
    yield _remote_control(facts)


def _set(name: str, value: object) -> str:
    """One setting, and no other: what else an adopted application has set is its own."""
    return f"celery_app.conf.{name} = {value!r}".replace("'", '"')


def _task(task: TaskFacts) -> Check:
    wrong = [
        text
        for text, is_wrong in (
            ("acks_late is off", not task.acks_late),
            ("reject_on_worker_lost is off", not task.reject_on_worker_lost),
        )
        if is_wrong
    ]
    return judged(
        "task",
        not wrong,
        "acknowledged late, given back when its process dies",
        f"{', '.join(wrong)}: a killed process loses its message",
        "remove task_annotations and task_routes that override it",
    )


def _consumer(facts: CeleryFacts) -> Check:
    shown = ".".join(map(str, facts.version))
    needed = facts.version >= (5, 7)
    ours = "stageflow_durable" in facts.worker_consumer
    return judged(
        "celery",
        ours or not needed,
        f"{shown}{', with our consumer' if ours else ''}",
        f"{shown} crashes when Redis goes away while a message is unacknowledged",
        _set("worker_consumer", "stageflow_durable.delivery.consumer:SturdyConsumer"),
    )


def _content(facts: CeleryFacts) -> Check:
    unsafe = [kind for kind in facts.accept_content if "json" not in kind]
    return judged(
        "accepted content",
        not unsafe,
        "JSON only",
        f"accepts {', '.join(unsafe)}: whoever can write to the broker can run code in the workers",
        _set("accept_content", ["json"]),
        level=Level.FAIL if any("pickle" in kind for kind in unsafe) else Level.WARN,
    )


def _results(facts: CeleryFacts) -> Check:
    keeping = facts.task is not None and not facts.task.ignore_result
    stored = bool(facts.result_backend) and facts.result_backend != "disabled://"
    return judged(
        "result backend",
        not (stored and keeping),
        "not used by the engine; results are in its database",
        "the engine's task writes results to it: when it is down, children block",
        "remove task_annotations that override its ignore_result",
        level=Level.WARN,
    )


_OBEYED = {"off": "no remote command is answered", "look": "only remote commands that change nothing are obeyed"}


def _remote_control(facts: CeleryFacts) -> Check:
    return judged(
        "remote control",
        facts.obeys in _OBEYED,
        _OBEYED.get(facts.obeys, ""),
        "obeyed: whoever reaches the broker can stop workers, kill what they run, shrink pools and cancel queues",
        _set("worker_enable_remote_control", False) if facts.adopted else "STAGEFLOW_REMOTE_CONTROL=look",
        level=Level.WARN,
    )


def visibility(
    timeout: float | None,
    transport: str,
    in_place: float,
    longest: float | None,
    *,
    adopted: bool = False,
    quick_acks: bool = False,
) -> Check:
    """No message is delivered again while it is worked on. ``adopted``: the application's own setting decides;
    ``quick_acks``: workers keep in themselves what is unacknowledged of ours.
    """
    name = "visibility timeout"
    if transport not in ("redis", "rediss", "sentinel"):
        return skipped(name, f"{transport} has none")
    if quick_acks:
        return skipped(name, "the engine's messages do not depend on it (quick_acks)")
    needed = in_place + (longest or 0) + MARGIN_SECONDS
    seconds = 3600.0 if timeout is None else timeout
    unbounded = "" if longest is not None else "; no stage has a timeout=, a longer one is delivered twice and fenced"
    return judged(
        name,
        seconds >= needed,
        f"{seconds:g} s{unbounded}",
        f"{seconds:g} s, the longest message's work takes {needed:g} s: it is delivered again meanwhile",
        f'celery_app.conf.broker_transport_options["visibility_timeout"] = {needed:.0f}'
        if adopted
        else f"STAGEFLOW_VISIBILITY_TIMEOUT={needed:.0f}",
    )
