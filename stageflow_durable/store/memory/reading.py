"""What people ask, from rows. Lists have the newest run first unless they say otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

from stageflow_durable.clock import as_moment
from stageflow_durable.errors import InvalidInput, UnknownRun
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Missing
from stageflow_durable.model.run import AwaitedWorker, Erasure, Event, Run, RunSummary, WorkerView
from stageflow_durable.model.status import AT_REST, Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.verbs import standing
from stageflow_durable.model.waits import About
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.store.erasure import ERASE
from stageflow_durable.store.memory import definitions, slots
from stageflow_durable.store.memory.rows import ApprovalRecord, Tables
from stageflow_durable.store.memory.scans import lost_for_ever
from stageflow_durable.store.memory.transaction import MemoryTransaction, calls_of
from stageflow_durable.store.pools import pools_of
from stageflow_durable.store.values import (
    MOST_FOUND,
    MOST_PIPELINES,
    ONE_CLOCK_SECONDS,
    TAKES_SIGNALS,
    Filter,
    Found,
    Known,
    Measured,
    Pooled,
    Queued,
    Seen,
    Tally,
    Wanted,
)
from stageflow_durable.store.views import (
    MOVING,
    Beside,
    RunRows,
    about_of,
    approval_view,
    erasure_of,
    event_of,
    full_id_of,
    listed,
    may_be_id,
    missing_of,
    need_of,
    run_of,
    summary_of,
    worker_of,
)
from stageflow_durable.transitions.compatibility import UNFINISHED, misfit
from stageflow_durable.transitions.facts import Part
from stageflow_durable.transitions.hand_back import is_handed_back
from stageflow_durable.transitions.rows import CallRow, LinkRow
from stageflow_durable.transitions.take import waits_for_an_end

MOST_LISTED, MOST_WORKERS = 100, 200


# --- one run ----------------------------------------------------------------------------------------------------------


def full_id(tables: Tables, _now: float, prefix: str) -> str:
    """The run that a prefix names. Raises UnknownRun, InvalidInput for what is no text."""
    if not isinstance(prefix, str):
        raise InvalidInput("run", [f"run_id: {type(prefix).__name__} given; a run's id is text"])
    if not may_be_id(prefix):
        return full_id_of(prefix, (), None)
    found = sorted(run.id for run in tables.runs if run.id.startswith(prefix))[:3]
    return full_id_of(prefix, found, None if found else tables.tombstones.get(prefix))


def facts(tables: Tables, _now: float, run_id: str) -> RunFacts | None:
    """A run's row."""
    return tables.runs.get(run_id)


def phase(tables: Tables, _now: float, run_id: str) -> Phase | None:
    """Which way the run goes now."""
    found = tables.runs.get(run_id)
    return None if found is None else found.phase


def outputs(tables: Tables, _now: float, run_id: str) -> dict[str, Saved]:
    """Encoded outputs by stage, in the order of their commits."""
    rows = sorted(tables.checkpoints.of(run_id), key=lambda row: row.at)
    return {row.stage: Saved(row.delta, row.saved_schema) for row in rows}


def link(tables: Tables, _now: float, run_id: str, token: str) -> LinkRow | None:
    """A link to an approval of the run, by the hash of its token."""
    row = tables.links.get((run_id, token))
    return None if row is None else LinkRow._make(row[1:])


def outcome_of(tables: Tables, _now: float, run_id: str, stage: str, item: int = 0) -> str:
    """How the action stood when its undo began."""
    step = tables.saga_steps.get((run_id, stage, item))
    return str(None if step is None else step.outcome)


def history(tables: Tables, _now: float, run_id: str, after: int = 0) -> list[Event]:
    """A run's events with a higher number than ``after``, oldest first."""
    return [event_of(row, row.item) for row in tables.events.of(run_id) if row.seq > after]


def run(tables: Tables, now: float, run_id: str, max_attempts: Mapping[str, int] | None = None) -> Run:
    """A run in full. ``max_attempts`` by stage, where the caller knows the retry policies. Raises UnknownRun."""
    found = tables.runs.get(run_id)
    if found is None:
        raise UnknownRun(f"no run {run_id}")
    on_strands = [_with_owner(tables, row) for row in tables.strands.of(run_id)]
    tried = [_with_owner(tables, row) for row in sorted(tables.attempts.of(run_id), key=lambda row: row.n)]
    saved, owed = tables.checkpoints.of(run_id), tables.saga_steps.of(run_id)
    rows = RunRows.of(on_strands, tried, saved, owed, _asked(tables, run_id), calls_of(tables, run_id))
    plan = definitions.plan_of(tables, found.definition)
    missing = None if found.phase is Phase.SETTLED else _missing(tables, now, found, rows.idle_queues)
    described = tuple(sorted((row.name, row.value) for row in tables.attributes.of(run_id)))
    awaited = _awaits(tables, run_id)
    about = _about(tables, now, found, max_attempts or {}) if found.phase in MOVING else None
    return run_of(found, plan, rows, max_attempts, Beside(described, missing, awaited, about, _erased(tables, found)))


def _erased(tables: Tables, run: RunFacts) -> Erasure | None:
    if run.erased_at is None:
        return None
    return next((erasure_of(event) for event in tables.events.of(run.id) if event.type == ERASE), None)


def _asked(tables: Tables, run_id: str) -> list[ApprovalRecord]:
    return sorted(tables.approvals.of(run_id), key=lambda row: row.n)


def _about(tables: Tables, now: float, run: RunFacts, most: Mapping[str, int]) -> About:
    """What has to be known of a run besides its rows, to say what it waits for."""
    newest, roster = definitions.newest(tables, run.pipeline), definitions.roster(tables, now)

    def missing(queue: str) -> Missing | None:
        return roster.missing(need_of(run.pipeline, run.version, run.definition, queue, newest))

    plan, behind = definitions.plan_of(tables, run.definition), partial(slots.behind, tables, now, run.id)
    return about_of(plan, as_moment(now), missing, most, behind)


def calls(tables: Tables, _now: float, run_id: str, stage: str, item: int = 0) -> tuple[CallRow, ...]:
    """The steps that attempts of a stage have written, in their order."""
    return tuple(row for row in calls_of(tables, run_id, item) if row.stage == stage)


def plan(tables: Tables, _now: float, run_id: str) -> Plan:
    """The definition by which the run goes now. Raises UnknownRun."""
    found = tables.runs.get(run_id)
    if found is None:
        raise UnknownRun(f"no run {run_id}")
    return definitions.plan_of(tables, found.definition)


def waiting_for_signal(tables: Tables, _now: float, wanted: Wanted) -> list[str]:
    """Runs that wait, or will wait, for a signal, or that it came to before under its key; some of them."""
    fits = [run for run in sorted(tables.runs, key=lambda run: run.id) if _is_meant(run, wanted)]
    told = {run.id: [row for row in tables.signals.of(run.id) if row.stage == wanted.name] for run in fits}
    before = [run.id for run in fits if wanted.key is not None and any(row.key == wanted.key for row in told[run.id])]
    if before:
        return before[:MOST_FOUND]
    takes = [run for run in fits if run.status in TAKES_SIGNALS and not told[run.id]]
    return [run.id for run in takes if _waits_still(tables, run, wanted.name)][:MOST_FOUND]


def _is_meant(run: RunFacts, wanted: Wanted) -> bool:
    asked = ((wanted.client_id, run.client_id), (wanted.pipeline, run.pipeline), (wanted.correlation, run.key))
    return all(value in (None, has) for value, has in asked)


def _waits_still(tables: Tables, run: RunFacts, name: str) -> bool:
    known = definitions.plan_of(tables, run.definition).by_name.get(name)
    over = any(row.stage == name for row in tables.checkpoints.of(run.id))
    return known is not None and known.is_wait and not over


def _with_owner(tables: Tables, row: Any) -> Any:
    """A row with the host and the process of its owner."""
    owner = tables.owners.get(row.owner or "")
    where = (None, None) if owner is None else (owner.host, owner.pid)
    return SimpleNamespace(**row._asdict(), host=where[0], pid=where[1])


def _missing(tables: Tables, now: float, run: RunFacts, queues: Sequence[str]) -> Missing | None:
    if not queues:
        return None
    return missing_of(run, queues, definitions.newest(tables, run.pipeline), definitions.roster(tables, now))


def _awaits(tables: Tables, run_id: str) -> tuple[AwaitedWorker, ...]:
    """The processes for whose confirmed end an undo of the run waits."""
    if not any(waits_for_an_end(row) for row in tables.strands.every(run_id)):
        return ()
    found = []
    for row in lost_for_ever(tables, run_id):
        owner = tables.owners.get(row.owner)
        if owner is not None and not owner.confirmed:
            found.append(AwaitedWorker(owner.id, owner.host, owner.pid, row.stage))
    return tuple(sorted(found, key=lambda one: (one.stage, one.owner)))


# --- lists ------------------------------------------------------------------------------------------------------------


def summaries(tables: Tables, now: float, wanted: Filter) -> list[RunSummary]:
    """Runs as lines."""
    return [_with_waits(tables, now, run, summary_of(run)) for run in _fitting(tables, wanted)]


def pages(tables: Tables, now: float, wanted: Filter) -> Iterator[list[RunSummary]]:
    """Runs as lines, in one page."""
    return iter([summaries(tables, now, wanted)])


def found(tables: Tables, _now: float, wanted: Filter) -> Iterator[Found]:
    """Runs by no more than their names."""
    return iter([Found(run.id, run.status) for run in _fitting(tables, wanted)])


def _fitting(tables: Tables, wanted: Filter) -> list[RunFacts]:
    rows = sorted(tables.runs, key=lambda run: (run.created_at, run.id), reverse=True)
    fits = (run for run in rows if _fits(run, wanted) and _has_all(tables, run.id, wanted.attributes))
    return list(islice(fits, max(wanted.limit, 0)))


def pipelines(tables: Tables, _now: float) -> list[str]:
    """Names of pipelines that were ever registered, in their order."""
    return sorted({row.pipeline for row in tables.definitions})[:MOST_PIPELINES]


def tallies(tables: Tables, now: float, most: int) -> list[Tally]:
    """What the newest ``most`` runs of each pipeline came to."""
    return [_tally(tables, name, most) for name in pipelines(tables, now)]


def _tally(tables: Tables, pipeline: str, most: int) -> Tally:
    newest = [(run.created_at, run.status) for run in _fitting(tables, Filter(pipeline=pipeline, limit=most + 1))]
    return Tally(pipeline, tuple(newest[:most]), len(newest) > most)


def counted(tables: Tables, _now: float, statuses: Sequence[RunStatus], most: int) -> dict[RunStatus, int]:
    """How many runs have each of these statuses, counted up to ``most``."""
    return {status: len(_fitting(tables, Filter((status,), limit=most))) for status in statuses}


def keyed(tables: Tables, now: float, key: str, client_ids: Sequence[str]) -> list[RunSummary]:
    """Runs that these clients enqueued under a key, the newest first."""
    named = [run for run in _fitting(tables, Filter(limit=sum(1 for _run in tables.runs))) if run.key == key]
    mine = [run for run in named if run.client_id in client_ids][:MOST_PIPELINES]
    return [_with_waits(tables, now, run, summary_of(run)) for run in mine]


def clients(tables: Tables, _now: float, newest: int) -> list[str]:
    """Clients of the newest so many runs, in their order."""
    return sorted({run.client_id for run in _fitting(tables, Filter(limit=newest))})


def pooled(tables: Tables, _now: float, most: int) -> list[Pooled]:
    """The slots of limits, of ``most`` that are held or waited for; those that most wait for first."""
    amounts = {row.name: row.amount if row.set_amount is None else row.set_amount for row in tables.limits}
    return pools_of(amounts, list(tables.slots)[:most])


def queued(tables: Tables, _now: float, most: int) -> list[Queued]:
    """What is ready in each queue and no worker has taken, counted up to ``most`` altogether."""
    ready = [row for row in tables.strands if row.state == StrandState.READY][:most]
    by_queue: dict[str, list[float | None]] = {}
    for row in ready:
        by_queue.setdefault(row.queue, []).append(row.published_at)
    return [
        Queued(queue, len(sent), min((one for one in sent if one is not None), default=None))
        for queue, sent in sorted(by_queue.items())
    ]


def described(tables: Tables, _now: float, run_ids: Sequence[str], wanted: Attributes) -> frozenset[str]:
    """Those of the runs that have all of these attributes."""
    return frozenset(run for run in run_ids if run in tables.runs and _has_all(tables, run, wanted))


def _has_all(tables: Tables, run: str, wanted: Attributes) -> bool:
    return {(row.name, row.value) for row in tables.attributes.of(run)}.issuperset(wanted)


def _fits(run: RunFacts, wanted: Filter) -> bool:
    equal = (
        (run.pipeline, wanted.pipeline),
        (run.client_id, wanted.client_id),
        (run.park_reason, wanted.park_reason),
    )
    return (
        all(value is None or own == value for own, value in equal)
        and (wanted.status is None or run.status in wanted.status)
        and wanted.spans(run.created_at)
        and wanted.tells(run.error)
        and (wanted.before is None or (run.created_at, run.id) < wanted.before)
    )


def _with_waits(tables: Tables, now: float, run: RunFacts, summary: RunSummary) -> RunSummary:
    """The same with what it waits for."""
    moving = run.phase in MOVING
    rows = tuple(tables.strands.of(run.id)) if moving else ()
    return listed(run, summary, rows, partial(_about, tables, now, run, {}) if moving else None)


def _quiet(run: RunFacts, now: float, older_than: float) -> bool:
    """Nothing of the run has moved since then. A change ahead of the clock was made by one that has gone back since."""
    return run.updated_at < older_than or run.updated_at > now + ONE_CLOCK_SECONDS


def stuck(tables: Tables, now: float, older_than: float) -> list[RunSummary]:
    """Runs that should move and do not: nothing runs, nothing is due later. The oldest first."""
    busy = (StrandState.RUNNING, StrandState.WAITING)
    rows = [run for run in tables.runs if run.status not in AT_REST and _quiet(run, now, older_than)]
    still = [run for run in rows if not any(row.state in busy for row in tables.strands.every(run.id))]
    still.sort(key=lambda run: run.updated_at)
    return [_with_waits(tables, now, run, summary_of(run)) for run in still[:MOST_LISTED]]


def unserved(tables: Tables, now: float, older_than: float) -> list[RunSummary]:
    """Runs that no live worker can carry, with the reason; the oldest first."""
    known = definitions.roster(tables, now)
    told: dict[str, RunSummary] = {}
    if known.silent:  # a worker of an older release does not say what it knows
        return []
    nobodys = [row for row in tables.strands if row.state == StrandState.READY and row.queue not in known.queues]
    for row in [*(row for row in tables.strands if is_handed_back(row)), *nobodys]:
        run = tables.runs.get(row.run)
        if run is not None and _quiet(run, now, older_than):
            missing = _missing(tables, now, run, (row.queue,))
            if missing is not None:
                told[run.id] = _with_waits(tables, now, run, replace(summary_of(run), missing=missing))
    return sorted(told.values(), key=lambda run: run.created_at)


def unapproved(tables: Tables, _now: float) -> list[RunSummary]:
    """Runs that ask somebody to approve, each with what; the oldest first."""
    open_ = [row for row in tables.approvals if row.decided_at is None and row.consumed_at is None]
    told = []
    for asked in sorted(open_, key=lambda row: row.asked_at):
        run, rows = tables.runs.get(asked.run), tables.strands.of(asked.run)
        waits = any(row.stage == asked.stage and row.waiting_for == WaitingFor.APPROVAL for row in rows)
        if run is not None and waits:
            view = approval_view(definitions.plan_of(tables, run.definition).by_name[asked.stage], asked)
            told.append(replace(summary_of(run), approval=view, waits_for=(WaitingFor.APPROVAL,)))
    return told[:MOST_LISTED]


def unconfirmed(tables: Tables, now: float) -> list[RunSummary]:
    """Runs of which an undo waits until the end of an owner is confirmed; the oldest first."""
    waiting = {row.run for row in tables.strands if waits_for_an_end(row)}
    rows = [run for run in tables.runs if run.status is RunStatus.COMPENSATING and run.id in waiting]
    rows.sort(key=lambda run: run.updated_at)
    return [
        _with_waits(tables, now, run, replace(summary_of(run), awaits=_awaits(tables, run.id)))
        for run in rows[:MOST_LISTED]
    ]


def standings(tables: Tables, now: float, ids: Sequence[str], known: Known) -> dict[str, Seen]:
    """How runs stand, by id; nothing is gained here by what is ``known``."""
    del known
    rows = filter(None, map(tables.runs.get, ids))
    return {row.id: Seen(row.id, row.status, row.op_version, standing(run(tables, now, row.id))) for row in rows}


def misfits(t: MemoryTransaction, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
    """Unfinished runs that could not go on under these definitions, and why; the oldest first."""
    by_name = {plan.pipeline: plan for plan in plans}
    digests = [plan.digest for plan in plans]
    rows = [run for run in t.tables.runs if run.status in UNFINISHED and run.pipeline in by_name]
    told = []
    for run in sorted(rows, key=lambda run: run.created_at):
        if run.definition not in digests:
            facts = t.lock(run.id, (Part.STRANDS, Part.SAVED, Part.SCHEMAS, Part.STEPS), "")
            why = None if facts is None else misfit(facts, by_name[run.pipeline])
            if why is not None:
                told.append((summary_of(run), why))
    return told


def workers(tables: Tables, now: float) -> list[WorkerView]:
    """Owners with what they run, the living first, and the newest."""
    held: dict[str, list[str]] = {}
    for row in tables.strands:
        if row.state == StrandState.RUNNING and row.owner is not None:
            held.setdefault(row.owner, []).append(f"{row.run}/{row.stage}")
    alive = {row.id: row.dead_at is None and row.expires_at > now for row in tables.owners}
    rows = sorted(tables.owners, key=lambda row: (alive[row.id], row.started_at), reverse=True)
    return [
        worker_of(row, held.get(row.id, ()), alive=alive[row.id], profile=_profile(tables, row.profile))
        for row in rows[:MOST_WORKERS]
    ]


def _profile(tables: Tables, profile: str | None) -> Any:
    row = None if profile is None else tables.profiles.get(profile)
    return None if row is None else row.profile


def heads(tables: Tables, _now: float) -> Iterator[tuple[str, int, str]]:
    """Of each run its id, the number of its last event, and that one's code."""
    return iter(sorted((run.id, run.seq, run.head) for run in tables.runs))


def measured(tables: Tables, now: float, most: int) -> Measured:
    """Numbers for who watches."""
    at_rest = islice((run for run in tables.runs if run.park_reason is not None), most)
    parked = Counter((run.pipeline, str(run.park_reason)) for run in at_rest)
    waiting = [row.wake_at for row in tables.strands if row.state == StrandState.WAITING]
    lateness = max((now - at for at in waiting if at is not None and at <= now), default=0.0)
    swept = max((at for name, at in tables.ticks.items() if name.startswith("sweep")), default=None)
    alive = sum(row.dead_at is None and row.expires_at > now for row in tables.owners)
    found = tuple(sorted((*labels, count) for labels, count in parked.items()))
    return Measured(now, found, None if swept is None else max(0.0, now - swept), lateness, alive)
