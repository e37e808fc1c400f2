"""What people do to runs from a page: one verb to one run (``POST /api/stageflow/runs/RUN/VERB``), or to all that a
filter finds (``POST /api/stageflow/bulk/VERB``).

Whoever signed in acts, as an authenticated actor: ``Engine(authorize=)`` is asked for each run. A run that has changed
since it was looked at (``op_version``) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from stageflow_durable.clock import as_moment
from stageflow_durable.codec import json_mistake, strict_json
from stageflow_durable.engine.actors import Actor
from stageflow_durable.engine.operator_verbs import UNSAID
from stageflow_durable.errors import (
    IdempotencyParamMismatch,
    InvalidInput,
    InvalidKey,
    NotAllowed,
    OperatorConflict,
    UnsavableValue,
)
from stageflow_durable.legible import jsonable
from stageflow_durable.model.run import Revealed, RunSummary
from stageflow_durable.model.verbs import APPLICABLE, VerbName
from stageflow_durable.web.bulk import Bulk, Job, Jobs, Looking
from stageflow_durable.web.http import Refused, Request, Response, json_response, problem
from stageflow_durable.web.run_documents import MOST_IN_FULL, value_of
from stageflow_durable.web.run_queries import Query, query_from

_ONE = re.compile(r"/api/stageflow/runs/(?P<run>[0-9A-Z]{26})/(?P<verb>[a-z]+)", re.ASCII)
_MANY = re.compile(r"/api/stageflow/bulk/(?P<verb>[a-z]+)", re.ASCII)
_STOP = re.compile(r"/api/stageflow/bulk/(?P<job>[0-9a-f]{16})/stop", re.ASCII)
_DEAD = re.compile(r"/api/stageflow/workers/(?P<owner>[0-9A-Za-z_.-]{1,64})/confirm-dead", re.ASCII)

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "reason": str,
    "op_version": int,
    "stage": str,
    "digest": str,
    "past_pivot": bool,
    "not_done": bool,
    "skip": list,
    "key": str,
    "rate": (int, float),
    "limit": int,
    "dry_run": bool,
    "filter": dict,
    "sure": bool,
}
_TAKES: Mapping[str, frozenset[str]] = {
    "cancel": frozenset({"op_version", "past_pivot"}),
    "resume": frozenset({"op_version"}),
    "compensate": frozenset({"op_version", "past_pivot", "skip"}),
    "settle": frozenset({"op_version", "stage", "done", "not_done"}),
    "approve": frozenset({"op_version", "stage", "digest"}),
    "deny": frozenset({"op_version", "stage", "digest"}),
    "signal": frozenset({"stage", "payload", "key"}),
    "fork": frozenset({"stage", "key"}),
    "reveal": frozenset(),
}
_NEEDS = {"settle": "stage", "approve": "stage", "deny": "stage", "signal": "stage", "fork": "stage"}
_BULK = frozenset({"filter", "rate", "limit", "dry_run", "past_pivot", "sure"})


class Forked(Protocol):
    """What is needed of a handle on a new run."""

    run_id: str


class Acting(Looking, Protocol):
    """What is needed of an engine: its verbs, as ``engine/operator_verbs`` declares them."""

    @property
    def settle(self) -> Callable[..., RunSummary]:
        """Record what somebody found out."""

    @property
    def approve(self) -> Callable[..., RunSummary]:
        """Approve what a stage asks for."""

    @property
    def deny(self) -> Callable[..., RunSummary]:
        """Deny it."""

    @property
    def signal(self) -> Callable[..., object]:
        """Send a signal."""

    @property
    def fork(self) -> Callable[..., Forked]:
        """A new run from the checkpoints of another."""

    @property
    def reveal(self) -> Callable[..., Revealed]:
        """A run's values without masks."""

    @property
    def confirm_dead(self) -> Callable[..., list[str]]:
        """Say that a lost process has ended."""


class Acts:
    """What is done to the runs of one engine. ``jobs``: verbs for many runs, as long as this process lives."""

    def __init__(self, engine: Acting, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now
        self.jobs = Jobs()

    def respond(self, name: str, request: Request) -> Response:
        """Do what is asked, as ``name``, who signed in. Raises InvalidInput, UnknownRun, StoreUnavailable."""
        actor = Actor(name, authenticated=True)
        try:
            return json_response(HTTPStatus.OK, self._done(actor, request))
        except OperatorConflict as error:
            return problem(HTTPStatus.CONFLICT, f"nothing was done: {error}", kind="changed")
        except (NotAllowed, IdempotencyParamMismatch) as error:
            return problem(HTTPStatus.CONFLICT, str(error), kind="refused")
        except (InvalidKey, UnsavableValue) as error:
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def _done(self, actor: Actor, request: Request) -> dict[str, Any]:
        if found := _ONE.fullmatch(request.path):
            return self._one(actor, found["run"], found["verb"], body_of(request))
        if found := _STOP.fullmatch(request.path):
            return self._stopped(found["job"])
        if found := _MANY.fullmatch(request.path):
            return self._many(actor, found["verb"], body_of(request))
        if found := _DEAD.fullmatch(request.path):
            given = _checked("confirm-dead", body_of(request), frozenset())
            return {"runs": self._engine.confirm_dead(found["owner"], reason=given["reason"], actor=actor)}
        raise Refused(problem(HTTPStatus.NOT_FOUND, "there is no such verb"))

    # --- one run --------------------------------------------------------------------------------------------------

    def _one(self, actor: Actor, run_id: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        if verb not in _TAKES:
            raise Refused(problem(HTTPStatus.NOT_FOUND, "there is no such verb"))
        given = _checked(verb, body, _TAKES[verb])
        if verb in _NEEDS and not given.get("stage"):
            raise InvalidInput(verb, ["stage: which one"])
        account = {"reason": given.pop("reason"), "actor": actor}
        if verb == "fork":
            handle = self._engine.fork(run_id, given["stage"], idempotency_key=given.get("key"), **account)
            return {"run_id": handle.run_id}
        if verb == "reveal":
            return self._revealed(self._engine.reveal(run_id, **account))
        if verb == "signal":
            key = {"idempotency_key": given.get("key")}
            took = self._engine.signal(run_id, given["stage"], given.get("payload"), **key, **account)
            return {"receipt": jsonable(took)}
        after = self._called(verb, run_id, given, account)
        return {"run_id": after.run_id, "status": after.status, "op_version": after.op_version}

    def _called(self, verb: str, run_id: str, given: dict[str, Any], account: dict[str, Any]) -> RunSummary:
        """A verb that changes the run, with what was given of what it takes."""
        if verb == "settle":
            stage = given.pop("stage")
            return self._engine.settle(run_id, stage, **{"done": UNSAID, **given}, **account)
        if verb in ("approve", "deny"):
            stage = given.pop("stage")
            decide = self._engine.approve if verb == "approve" else self._engine.deny
            return decide(run_id, stage, **given, **account)
        return Bulk(self._engine, VerbName(verb)).call(run_id, **given, **account)

    @staticmethod
    def _revealed(found: Revealed) -> dict[str, Any]:
        told = {"input": found.input, "metadata": found.metadata, **dict(found.outputs)}
        return {"values": {name: value_of(value, shows=True, most=MOST_IN_FULL) for name, value in told.items()}}

    # --- many runs ------------------------------------------------------------------------------------------------

    def _many(self, actor: Actor, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        if verb not in APPLICABLE or verb == VerbName.ERASE:  # what nothing brings back is not a button of a page
            raise Refused(problem(HTTPStatus.NOT_FOUND, "there is no such verb"))
        dry = body.get("dry_run") is True
        given = _checked(verb, {"reason": "-", **body} if dry else body, _BULK)
        query = _filter_of(given.get("filter") or {}, self._now())
        if not query.narrows and not given.get("sure"):
            raise InvalidInput(verb, ["filter: it leaves nothing out; say what is meant, a status or a pipeline"])
        if query.key is not None:
            raise InvalidInput(verb, ["filter: a key names one run: open it"])
        bulk = Bulk(self._engine, VerbName(verb), past_pivot=bool(given.get("past_pivot")))
        found = bulk.found(query.wanted, given.get("limit"))
        if dry:
            return bulk.tried(found)
        job = Job(bulk, found, given["reason"], actor, given.get("rate"))
        return {"job": self.jobs.start(job), **job.told()}

    def _stopped(self, job: str) -> dict[str, Any]:
        found = self.jobs.get(job)
        if found is None:
            raise Refused(problem(HTTPStatus.NOT_FOUND, "there is no such job"))
        found.stop()
        return found.told()


def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent. Raises Refused, InvalidInput."""
    if request.content_type != "application/json":
        raise Refused(problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is needed: Content-Type: application/json"))
    try:
        body = strict_json(request.body.decode())
    except ValueError as error:
        what = json_mistake(error) if not isinstance(error, UnicodeDecodeError) else "it is not UTF-8"
        raise InvalidInput("request", [f"body: {what}"]) from None
    if not isinstance(body, dict):
        raise InvalidInput("request", ["body: a JSON object"])
    return body


def _checked(verb: str, body: dict[str, Any], takes: frozenset[str]) -> dict[str, Any]:
    """What was given, each of its type. Raises InvalidInput naming each part that is not."""
    wrong = [f"{name}: {verb} does not take it" for name in body if name not in takes | {"reason"}]
    for name, value in body.items():
        if name in _TYPES and (not isinstance(value, _TYPES[name]) or _is_odd(name, value)):
            wrong.append(f"{name}: {type(value).__name__} given")
    if not str(body.get("reason", "")).strip():
        wrong.append("reason: say it; it goes into the history")
    if wrong:
        raise InvalidInput(verb, wrong)
    return dict(body)


def _is_odd(name: str, value: Any) -> bool:
    """What passes for a number, and is none; a list of other things than text."""
    if isinstance(value, bool):
        return _TYPES[name] is not bool
    return isinstance(value, list) and not all(isinstance(one, str) for one in value)


def _filter_of(given: dict[str, Any], now: float) -> Query:
    pairs = [(name, one) for name, value in given.items() for one in (value if isinstance(value, list) else [value])]
    if not all(isinstance(value, str) for _name, value in pairs):
        raise InvalidInput("filter", ["each of it is text, or a list of texts"])
    return query_from(pairs, as_moment(now))
