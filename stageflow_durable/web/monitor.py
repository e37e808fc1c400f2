"""The JSON of the pages about runs, below ``/api/stageflow``: what needs a person, lists, a run, its history and
values, pipelines, workers; and by POST what people do to runs (:mod:`stageflow_durable.web.run_acts`).

It is for whoever signed in to the server that serves it. Where that asks nobody who they are, no value is shown, and
nothing is done.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qs

from stageflow_durable.clock import as_moment
from stageflow_durable.errors import InvalidInput, SchemaBehind, StoreUnavailable, UnknownRun
from stageflow_durable.legible import jsonable
from stageflow_durable.masking import masking
from stageflow_durable.model.attention import grouped
from stageflow_durable.model.overview import Overview
from stageflow_durable.model.run import Event, Run, RunSummary, WorkerView
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import ATTENTION, Checked
from stageflow_durable.web.http import AWAY_SECONDS, Refused, Request, Response, json_response, problem
from stageflow_durable.web.run_acts import Acting, Acts
from stageflow_durable.web.run_documents import (
    MOST_IN_FULL,
    event_document,
    group_of,
    line_of,
    pool_document,
    run_document,
    tally_of,
    value_of,
    verdict_of,
    worker_document,
)
from stageflow_durable.web.run_queries import Query, place, query_of
from stageflow_durable.web.signed_in import Visitor
from stageflow_durable.web.watching import Kind, Watch

log = masking(logging.getLogger("stageflow.web"))

API = "api/stageflow"
"""Where all of it is."""

TOKEN_OF = "/api/stageflow"  # noqa: S105  # a path
"""What the token of a page is for: a request that changes something sends it back as ``X-Stageflow-Token``."""

MOST_NEEDING = 1000
"""Runs that are grouped by what they need."""

MOST_COUNTED = 10_000
"""Runs that are counted of one status, and strands that are ready."""

MOST_OF_A_PIPELINE = 1000
"""Runs of a pipeline that its chart shows."""

MOST_POOLS = 200
"""Keys of limits that are told together."""

MOST_EVENTS = 5_000
"""Events that are shown together; the others follow."""

RECENT_CLIENTS = 1000
"""A key is looked for with the clients of so many runs, where no client is named."""

SHARED_SECONDS = 4.0
"""How long what all see is believed: what needs a person, and pipelines."""

GOING_SECONDS = 2.0
"""How often a run that goes is looked at in full, although nothing happened."""

BODY_BYTES = 16_384
"""What a request may have besides a value."""

_RUN = r"(?P<run>[0-9A-Za-z]{6,26})"
_LIVE_RUN = re.compile(rf"/{API}/runs/{_RUN}/live", re.ASCII)


class Watched(Acting, Protocol):
    """What is needed of an engine."""

    @property
    def store(self) -> Store:
        """Where the runs are kept."""

    def run(self, run_id: str) -> Run:
        """A run in full."""

    @property
    def runs(self) -> Callable[..., list[RunSummary]]:
        """Runs, or those that need a person."""

    def history(self, run_id: str) -> list[Event]:
        """A run's events."""

    def workers(self) -> list[WorkerView]:
        """Processes that own, or owned, work."""

    def overview(self) -> Overview:
        """What happens right now."""

    @property
    def audit(self) -> Callable[..., Iterator[Checked]]:
        """Check the chains of these runs."""

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key that the database does not know."""


class Monitor:
    """What is served of one engine. ``payload_bytes``: how long a value may be that is sent; ``now``: the time, in
    seconds since the epoch.
    """

    def __init__(self, engine: Watched, payload_bytes: Callable[[], int], now: Callable[[], float]) -> None:
        self._engine, self._payload_bytes, self._now = engine, payload_bytes, now
        self.acts = Acts(engine, now)
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._addresses: Sequence[tuple[re.Pattern[str], Callable[..., Any]]] = [
            (re.compile(rf"/{API}/{path}", re.ASCII), page)
            for path, page in (
                ("runs", self.listed),
                ("attention", self.attention),
                ("pipelines", self.pipelines),
                ("workers", self.workers),
                ("limits", self.limits),
                (f"runs/{_RUN}", self.run),
                (f"runs/{_RUN}/history", self.history),
                (f"runs/{_RUN}/values", self.values),
                (r"bulk/(?P<job>[0-9a-f]{16})", self.job),
            )
        ]

    # --- requests -------------------------------------------------------------------------------------------------

    def look(self, request: Request) -> int:
        """Refuse what is no request for any of it before its body is read; returns how many bytes that may have."""
        if request.method in ("GET", "HEAD"):
            return 0
        if request.method == "POST":
            return BODY_BYTES + self._payload_bytes()
        allowed = "GET, HEAD, POST"
        raise Refused(problem(HTTPStatus.METHOD_NOT_ALLOWED, "it is read, or a verb is sent to it", Allow=allowed))

    def respond(self, visitor: Visitor, request: Request) -> Response:
        """What is asked for, or what became of what is to be done."""
        try:
            if request.method == "POST":
                return self._done(visitor, request)
            return json_response(HTTPStatus.OK, self._read(visitor, request))
        except _TOLD as error:
            return _problem_of(error)

    def _read(self, visitor: Visitor, request: Request) -> Any:
        for path, page in self._addresses:
            if found := path.fullmatch(request.path):
                return page(visitor, request, **found.groupdict())
        raise Refused(problem(HTTPStatus.NOT_FOUND, "there is no such address"))

    def _done(self, visitor: Visitor, request: Request) -> Response:
        if visitor.name is None or visitor.read_only:
            raise Refused(problem(HTTPStatus.FORBIDDEN, str(cannot(visitor))))
        if not visitor.is_secret(TOKEN_OF, request.secret):
            why = "nothing was changed: this was not sent by a page of this server, or the page is too old: reload it"
            raise Refused(problem(HTTPStatus.FORBIDDEN, why))
        return self.acts.respond(visitor.name, request)

    # --- lists ----------------------------------------------------------------------------------------------------

    def listed(self, visitor: Visitor, request: Request) -> dict[str, Any]:
        """A page of runs, the newest first. ``next``: where the page behind it begins, or None."""
        now = self._now()
        query = query_of(request.query, as_moment(now))
        shows = visitor.name is not None
        if not shows and (query.wanted.attributes or query.wanted.error is not None):
            raise InvalidInput("runs", ["attribute, error: who looks for values signs in"])
        if query.key is not None:
            return self._keyed(query, query.key, shows=shows)
        most = query.wanted.limit
        found = self._engine.store.summaries(replace(query.wanted, limit=most + 1))
        lines = [line_of(run, shows=shows) for run in found[:most]]
        behind = self._place(found[most - 1]) if len(found) > most else None
        return {"runs": lines, "next": behind, "now": jsonable(as_moment(now))}

    def _place(self, last: RunSummary) -> str | None:
        facts = self._engine.store.facts(last.run_id)  # its time to the last digit, which a moment does not have
        return None if facts is None else place(facts.created_at, facts.id)

    def _keyed(self, query: Query, key: str, *, shows: bool) -> dict[str, Any]:
        store, named = self._engine.store, query.wanted.client_id
        clients = [named] if named is not None else store.clients(RECENT_CLIENTS)[:50]
        found = [run for run in store.keyed(key, clients) if query.wanted.fits(run)]
        if query.wanted.attributes:
            has = store.described([run.run_id for run in found], query.wanted.attributes)
            found = [run for run in found if run.run_id in has]
        lines = [line_of(run, shows=shows) for run in found]
        said = {"runs": lines, "next": None, "now": jsonable(as_moment(self._now()))}
        among = ", ".join(clients) or "none"
        return said if named else {**said, "note": f"looked among the clients of the newest runs: {among}"}

    def attention(self, visitor: Visitor, _request: Request) -> dict[str, Any]:
        """What needs a person, by reason, the most urgent first. ``more``: there are more runs than were grouped."""
        shows = visitor.name is not None
        return self._shared(f"attention {shows}", lambda: self._attention(shows=shows))

    def _attention(self, *, shows: bool) -> dict[str, Any]:
        found = self._engine.runs(attention=True, limit=MOST_NEEDING)
        groups = [group_of(group, shows=shows) for group in grouped(found, self._engine.run)]
        return {"groups": groups, "more": sum(run.status in ATTENTION for run in found) >= MOST_NEEDING}

    def pipelines(self, _visitor: Visitor, _request: Request) -> dict[str, Any]:
        """What the newest runs of each pipeline came to, and how many runs are not at rest, or need a person."""
        return self._shared("pipelines", self._pipelines)

    def _pipelines(self) -> dict[str, Any]:
        store = self._engine.store
        statuses = [status for status in RunStatus if status not in AT_REST or status in ATTENTION]
        counts = store.counted(statuses, MOST_COUNTED)
        tallies = [tally_of(one, self._now()) for one in store.tallies(MOST_OF_A_PIPELINE)]
        return {"pipelines": tallies, "counts": dict(counts), "counted_to": MOST_COUNTED}

    # --- one run --------------------------------------------------------------------------------------------------

    def run(self, visitor: Visitor, _request: Request, run: str) -> dict[str, Any]:
        """A run in full. ``seq``: of its last event when it was looked at, or of one before."""
        full = self._engine.store.full_id(run.upper())
        facts = self._engine.store.facts(full)
        if facts is None:
            raise UnknownRun(f"no run {full}")
        told = run_document(self._engine.run(full), shows=visitor.name is not None, seq=facts.seq)
        return {**told, "now": jsonable(as_moment(self._now()))}

    def history(self, visitor: Visitor, request: Request, run: str) -> dict[str, Any]:
        """A run's events behind ``?after=``, and, unless ``?audit=0`` is said, what the audit says of all of them."""
        full = self._engine.store.full_id(run.upper())
        after = _number(request.query, "after")
        found = self._engine.store.history(full, after)
        shows = visitor.name is not None
        events = [event_document(event, shows=shows) for event in found[:MOST_EVENTS]]
        checked = () if "audit=0" in request.query.split("&") else self._engine.audit([full])
        verdict = verdict_of(checked, sealed=self._engine.has_audit_key)
        return {"events": events, "more": len(found) > MOST_EVENTS, "verdict": verdict}

    def values(self, visitor: Visitor, request: Request, run: str) -> dict[str, Any]:
        """One value as long as it is: ``?of=input``, ``?of=metadata``, or ``?stage=NAME`` for an output."""
        asked = {name: values[0] for name, values in parse_qs(request.query, max_num_fields=5).items()}
        found = self._engine.run(self._engine.store.full_id(run.upper()))
        if "stage" in asked:
            stage = next((one for one in found.stages if one.name == asked["stage"]), None)
            if stage is None:
                raise Refused(problem(HTTPStatus.NOT_FOUND, "the run has no such stage"))
            value = stage.output if stage.approval is None else stage.approval.content
        else:
            value = found.metadata if asked.get("of") == "metadata" else found.input
        return {"value": value_of(value, shows=visitor.name is not None, most=MOST_IN_FULL)}

    # --- workers --------------------------------------------------------------------------------------------------

    def workers(self, _visitor: Visitor, _request: Request) -> dict[str, Any]:
        """Processes with what they run, the living first; the queues; and what runs wait for."""
        return {**self._shared("workers", self._workers), "now": jsonable(as_moment(self._now()))}

    def _workers(self) -> dict[str, Any]:
        seen = self._engine.overview()
        return {
            "workers": [worker_document(worker) for worker in self._engine.workers()],
            "queues": jsonable(seen.queues),
            "waits": jsonable(seen.waits),
            "looked_at": seen.looked_at,
            "more_wait": "waits" in seen.partial,
            "next_wait": self._engine.store.next_wait(0.0),
        }

    def limits(self, visitor: Visitor, _request: Request) -> dict[str, Any]:
        """Limits, each with who holds its slots and how many wait. ``more``: there are more than was counted."""
        shows = visitor.name is not None
        pools = self._shared(f"limits {shows}", lambda: self._limits(shows=shows))
        return {**pools, "now": jsonable(as_moment(self._now()))}

    def _limits(self, *, shows: bool) -> dict[str, Any]:
        pools = self._engine.store.pooled(MOST_COUNTED)
        more = sum(pool.held + pool.waiting for pool in pools) >= MOST_COUNTED
        return {
            "limits": [pool_document(pool, shows=shows) for pool in pools[:MOST_POOLS]],
            "more": more,
            "most": MOST_COUNTED,
        }

    # --- as it goes -----------------------------------------------------------------------------------------------

    def live(self, visitor: Visitor, request: Request) -> Watch | Response:
        """What a page is told of changes, by its address; or why it is not."""
        try:
            return self._watch(visitor, request)
        except _TOLD as error:
            return _problem_of(error)

    def _watch(self, visitor: Visitor, request: Request) -> Watch:
        if found := _LIVE_RUN.fullmatch(request.path):
            full = self._engine.store.full_id(found["run"].upper())
            known = _number(request.query, "seq") if "seq=" in request.query else -1
            following = _Following(self._engine.store, full, lambda: self.run(visitor, request, full), self._now, known)
            return Watch([Kind("run", 0.0, following.look)], self._now)
        for name, look in (("workers", self.workers), ("limits", self.limits)):
            if request.path == f"/{API}/{name}/live":
                return Watch([Kind(name, 2.0, partial(look, visitor, request))], self._now)
        query_of(request.query, as_moment(self._now()))
        return Watch(
            [
                Kind("runs", 1.5, lambda: self.listed(visitor, request)),
                Kind("attention", SHARED_SECONDS, lambda: self.attention(visitor, request)),
                Kind("pipelines", SHARED_SECONDS, lambda: self.pipelines(visitor, request)),
            ],
            self._now,
        )

    def _shared(self, name: str, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is looked at once in a while, however many people ask."""
        at, found = self._kept.get(name, (float("-inf"), {}))
        if self._now() - at >= SHARED_SECONDS:
            found = look()
            self._kept[name] = self._now(), found
        return found

    # --- what is done in the background ---------------------------------------------------------------------------

    def job(self, _visitor: Visitor, _request: Request, job: str) -> dict[str, Any]:
        """How far a verb for many runs has come."""
        found = self.acts.jobs.get(job)
        if found is None:
            raise Refused(problem(HTTPStatus.NOT_FOUND, "there is no such job; it may be from before a restart"))
        return found.told()


_TOLD = (InvalidInput, UnknownRun, StoreUnavailable, SchemaBehind)
"""Errors that who asks is told of."""


def _problem_of(error: InvalidInput | UnknownRun | StoreUnavailable | SchemaBehind) -> Response:
    if isinstance(error, InvalidInput):
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the request is not valid", errors=error.fields)
    if isinstance(error, UnknownRun):
        return problem(HTTPStatus.NOT_FOUND, str(error))
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, away(error), Retry_After=AWAY_SECONDS)


def away(error: StoreUnavailable | SchemaBehind) -> str:
    """Why nothing can be told, without what the error says of where the database is."""
    if isinstance(error, SchemaBehind):
        return "the database's schema is older than this program: stageflow db upgrade"
    return "the database does not answer; it is asked again"


def cannot(visitor: Visitor) -> str | None:
    """Why somebody changes nothing here; None: they may, if ``Engine(authorize=)`` says so."""
    if visitor.name is None:
        return (
            "This Flower asks nobody who they are: values are not shown, and nothing can be changed. "
            "Start it with a sign-in (--basic-auth or --auth)."
        )
    return "This Flower is for looking only (--read-only)." if visitor.read_only else None


def _number(query: str, name: str) -> int:
    text = parse_qs(query, max_num_fields=5).get(name, ["0"])[0]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInput("history", [f"{name}: a whole number"])
    return int(text)


# --- as it goes -------------------------------------------------------------------------------------------------------


class _Following:
    """A run as a page follows it: looked at in full once something happened, and now and then while it goes, for what
    happens without an event: progress, and how long something still waits.
    """

    def __init__(
        self, store: Store, run_id: str, look: Callable[[], dict[str, Any]], now: Callable[[], float], known: int = -1
    ) -> None:
        self._store, self._run_id, self._look, self._now = store, run_id, look, now
        self._seq, self._looked = known, float("-inf")  # ``known``: what the page shows already

    def look(self) -> dict[str, Any] | None:
        """The run, or None: nothing new is known. Raises UnknownRun."""
        facts = self._store.facts(self._run_id)
        if facts is None:
            raise UnknownRun(f"no run {self._run_id}")
        late = facts.status not in AT_REST and self._now() - self._looked > GOING_SECONDS
        if facts.seq == self._seq and not late:
            return None
        self._seq, self._looked = facts.seq, self._now()
        return self._look()
