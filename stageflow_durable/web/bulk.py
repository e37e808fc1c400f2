"""A verb for all runs that a filter finds: what it would do, and a job that does it at a rate, run by run.

A job lives in the process that serves the page: when that ends, the runs that it had not come to stay as they are.
What it did is in the histories of the runs.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from stageflow_durable.engine.actors import Actor
from stageflow_durable.errors import InvalidInput, Retryable, StageflowError
from stageflow_durable.masking import masking
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.verbs import APPLICABLE, VerbName, refusal
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import Filter, Found, Seen

log = masking(logging.getLogger("stageflow.web"))

MOST = 10_000
"""Runs that one job acts on; the command takes more."""

RATE, LEAST_RATE, MOST_RATE = 20.0, 0.01, 500.0
"""Runs a second: unless it is said, at the least, and at the most."""

MOST_KEPT = 50
"""Jobs that are remembered."""

MOST_TOLD = 20
"""Refusals that are told, by reason, and runs that are named."""


class Looking(Protocol):
    """What is needed of an engine."""

    @property
    def store(self) -> Store:
        """Where the runs are kept."""

    def standings(self, run_ids: Sequence[str]) -> Iterator[Seen]:
        """How these runs stand."""

    @property
    def cancel(self) -> Callable[..., RunSummary]:
        """Stop a run and undo what it did."""

    @property
    def resume(self) -> Callable[..., RunSummary]:
        """Let a run go forward again."""

    @property
    def compensate(self) -> Callable[..., RunSummary]:
        """Undo what a run did."""


class Bulk:
    """A verb and the runs that it may be done to."""

    def __init__(self, engine: Looking, verb: VerbName, *, past_pivot: bool = False) -> None:
        self._engine, self.verb, self._past = engine, verb, past_pivot

    def call(self, run_id: str, **given: Any) -> RunSummary:
        """Do it to one run."""
        engine = self._engine
        verbs = {VerbName.CANCEL: engine.cancel, VerbName.RESUME: engine.resume, VerbName.COMPENSATE: engine.compensate}
        return verbs[self.verb](run_id, **given)

    def do(self, seen: Seen, reason: str, actor: Actor) -> RunSummary:
        """Do it to a run as it was seen."""
        past = {"past_pivot": True} if self._past and self.verb is not VerbName.RESUME else {}
        return self.call(seen.run_id, reason=reason, actor=actor, op_version=seen.op_version, **past)

    def found(self, wanted: Filter, limit: int | None) -> list[Found]:
        """The runs that the filter finds and that the verb may take. Raises InvalidInput where it can take none."""
        if limit is not None and limit < 1:
            raise InvalidInput(self.verb, ["limit: 1 or more runs"])
        takes = APPLICABLE[self.verb]
        statuses = sorted(takes if wanted.status is None else takes.intersection(wanted.status))
        if not statuses:
            raise InvalidInput(self.verb, [f"status: it takes runs that are {', '.join(sorted(takes))}"])
        most = min(MOST, limit or MOST)
        return list(self._engine.store.found(replace(wanted, status=tuple(statuses), limit=most, before=None)))

    def standings(self, found: Sequence[Found]) -> Iterator[Seen]:
        """How these runs stand, read while they are asked for."""
        return self._engine.standings([run.run_id for run in found])

    def refused(self, seen: Seen) -> str | None:
        """Why it is not allowed; None: it is."""
        return refusal(self.verb, seen.standing, past_pivot=self._past)

    def tried(self, found: Sequence[Found]) -> dict[str, Any]:
        """What it would do, and nothing is done: how many runs it would change, which undos would run how often, and
        why it would leave others.
        """
        undos: Counter[str] = Counter()
        left: Counter[str] = Counter()
        allowed: list[str] = []
        for seen in self.standings(found):
            why = self.refused(seen)
            if why is not None:
                left[why.replace(seen.run_id, "RUN")] += 1
                continue
            allowed.append(seen.run_id)
            undos.update(seen.standing.owed if self.verb is not VerbName.RESUME else ())
        return {
            "found": len(found),
            "more": len(found) >= MOST,
            "would": len(allowed),
            "runs": allowed[:MOST_TOLD],
            "undos": dict(undos.most_common(MOST_TOLD)),
            "refused": dict(left.most_common(MOST_TOLD)),
        }


class Job:
    """A verb as it is done to one run after another."""

    def __init__(self, bulk: Bulk, found: Sequence[Found], reason: str, actor: Actor, rate: float | None) -> None:
        if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
            raise InvalidInput(bulk.verb, [f"rate: {LEAST_RATE:g} to {MOST_RATE:g} runs a second"])
        self._bulk, self._found, self._reason, self._actor = bulk, found, reason, actor
        self._rate = rate or RATE
        self._stopped = threading.Event()
        self._done = self._seen = 0
        self._left: Counter[str] = Counter()
        self._problem: str | None = None
        self.ended = threading.Event()

    def told(self) -> dict[str, Any]:
        """How far it has come."""
        return {
            "verb": self._bulk.verb,
            "of": len(self._found),
            "seen": self._seen,
            "done": self._done,
            "refused": dict(self._left.most_common(MOST_TOLD)),
            "problem": self._problem,
            "over": self.ended.is_set(),
            "stopped": self._stopped.is_set(),
        }

    def stop(self) -> None:
        """Leave the runs that it has not come to."""
        self._stopped.set()

    def carry_out(self) -> None:
        """Do it to all of them, or until it is stopped, or the database is away."""
        try:
            self._each()
        except Retryable as error:  # each further run would fail alike
            self._problem = f"it ended here: {error}"
        except Exception:
            log.exception("a verb for many runs could not be carried on")
            self._problem = "it ended here with an error of the server, which has logged it"
        finally:
            self.ended.set()
            log.info("%s by %s: %d of %d runs", self._bulk.verb, self._actor, self._done, len(self._found))

    def _each(self) -> None:
        for seen in self._bulk.standings(self._found):
            if self._stopped.is_set() or (self._seen and self._stopped.wait(1 / self._rate)):
                return
            self._one(seen)
            self._seen += 1
        self._left["it is gone: deleted since it was listed"] += len(self._found) - self._seen
        self._left += Counter()  # without what counts none

    def _one(self, seen: Seen) -> None:
        try:
            why = self._bulk.refused(seen)
            if why is None:
                self._bulk.do(seen, self._reason, self._actor)
                self._done += 1
        except Retryable:
            raise
        except StageflowError as error:
            why = str(error)
        if why is not None:
            self._left[why.replace(seen.run_id, "RUN")] += 1


class Jobs:
    """Jobs of this process, each in a thread of its own."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def start(self, job: Job) -> str:
        """Begin a job; returns its name. Raises InvalidInput while as many are under way as there may be."""
        over = [name for name, one in self._jobs.items() if one.ended.is_set()]
        for name in over[: max(0, len(self._jobs) - MOST_KEPT)]:
            self._jobs.pop(name)
        if len(self._jobs) > MOST_KEPT:
            raise InvalidInput("bulk", [f"{MOST_KEPT} are under way: wait for one, or stop it"])
        name = secrets.token_hex(8)
        self._jobs[name] = job
        threading.Thread(target=job.carry_out, name=f"stageflow-bulk-{name}", daemon=True).start()
        return name

    def get(self, name: str) -> Job | None:
        """A job by its name."""
        return self._jobs.get(name)
