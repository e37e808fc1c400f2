"""What ``stageflow up`` tells beside its children's logs: that it is ready, what to type, and how each run goes."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stageflow_durable.cli.words import SHORT_ID, clipped, counted, duration, shown_length
from stageflow_durable.embedded.up import Watching
from stageflow_durable.errors import StageflowError
from stageflow_durable.legible import legible
from stageflow_durable.model.run import WaitKind
from stageflow_durable.model.status import AT_REST, RunStatus

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Operations
    from stageflow_durable.model.run import RunSummary

EVERY_SECONDS = 1.0
MOST = 1000
"""The most runs that one look sees."""

SHOWN = 5
"""When more move on or end between two looks, their number is told."""

Say = Callable[[str], None]
_ACTIVE = tuple(status for status in RunStatus if status not in AT_REST)


class Cockpit(Watching):
    """Looks at the database, and tells what is new since the last look: that a worker works, what each run is at, and
    how it ended. ``hello``: what is said once a worker works that began after this; ``host``: where this ``up`` runs,
    whose stages alone it waits for when it stops.
    """

    def __init__(
        self,
        operations: Operations,
        out: Say,
        now: Callable[[], datetime],
        hello: Callable[[], Sequence[str]],
        host: str,
    ) -> None:
        self._host = host
        self._operations = operations
        self._out = out
        self._now = now
        self._hello: Callable[[], Sequence[str]] | None = hello
        self._first = self._began = now()
        self._since = self._began
        self._active: dict[str, str | None] = {}
        self._working: list[str] = []
        self._here: list[str] = []
        self._tells_going = False

    def look(self) -> None:
        """One look. Raises StageflowError while the database is away."""
        alive = [one for one in self._operations.workers() if one.alive]
        if self._hello is not None and any(one.started_at >= self._began for one in alive):
            for line in self._hello():
                self._out(line)
            self._hello = None
            self._tells_going = True
        self._working = sorted(place for one in alive for place in one.running)
        mine = [one for one in alive if one.host == self._host and one.started_at >= self._first]
        self._here = sorted(place for one in mine for place in one.running)
        ended, going = self._changed()
        if self._tells_going:
            self._tell_going(going)
        self._tell_ended(ended)

    def at_work(self) -> str:
        """Which stages ran when it looked last: ``charge of 01M83PZHS18B``."""
        places = [place.partition("/") for place in self._here]
        shown = [f"{legible(stage)} of {run_id[:SHORT_ID]}" for run_id, _slash, stage in places[:SHOWN]]
        return ", ".join([*shown, *([f"{len(places) - SHOWN} more"] if len(places) > SHOWN else [])])

    def stopping(self, *, again: bool) -> None:
        """That runs wait for a worker goes without saying now; it tells when one works again, and what it knows."""
        self._tells_going = False
        if again:
            self._began = self._now()
            self._hello = lambda: [f"ready again: {legible(self._operations.roster().known)}"]

    def _changed(self) -> tuple[list[RunSummary], list[RunSummary]]:
        """Runs that have ended since the last look, and those that have come to another place and go on."""
        # First what is active: what ends between the two questions is then seen by the second, or by the next look.
        found = self._operations.runs(status=_ACTIVE, limit=MOST)
        active = {run.run_id: self._place(run) for run in found}
        recent = self._operations.runs(since=self._since, limit=MOST)
        ended = [run for run in recent if run.status in AT_REST and run.run_id not in active]
        new = [run for run in ended if run.created_at > self._since or run.run_id in self._active]
        gone = self._active.keys() - active.keys() - {run.run_id for run in recent}
        new += [self._operations.run(run_id) for run_id in sorted(gone)[:SHOWN]]
        # One that is met for the first time, with nothing to tell of, may be at its end by the next look.
        going = [run for run in found if active[run.run_id] not in (None, self._active.get(run.run_id))]
        self._active = active
        self._since = max([self._since, *(run.created_at for run in recent)])
        return new, going

    def _place(self, run: RunSummary) -> str | None:
        """What it is at, in words that stay the same while it is; None: nothing that lasts is known."""
        stages = [place.partition("/")[2] for place in self._working if place.startswith(f"{run.run_id}/")]
        if stages:
            return f"runs {', '.join(stages)}"
        # That a message is under way is nothing to tell: it is most of the time that a run takes.
        told = [wait for wait in run.waits if wait.kind is not WaitKind.MESSAGE]
        return f"waits: {told[0].kind} {told[0].stage or ''}" if told else None

    def _tell_going(self, runs: Sequence[RunSummary]) -> None:
        if len(runs) > SHOWN:
            self._out(f"{counted(len(runs), 'run')} went on")
            return
        length = shown_length(run.run_id for run in runs)
        for run in sorted(runs, key=lambda run: run.created_at):
            place = self._active[run.run_id] or ""
            told = [wait.text for wait in run.waits if wait.kind is not WaitKind.MESSAGE]
            what = f"waits: {told[0]}" if place.startswith("waits") and told else place
            self._out(legible(f"run {run.run_id[:length]} {run.pipeline} {clipped(what, 160)}"))

    def _tell_ended(self, ended: Sequence[RunSummary]) -> None:
        if len(ended) > SHOWN:
            by_status = Counter(run.status.replace("_", " ") for run in ended)
            sums = ", ".join(f"{number} {status}" for status, number in by_status.most_common())
            self._out(f"{counted(len(ended), 'run')} ended: {sums}")
            return
        length = shown_length(run.run_id for run in ended)
        for run in sorted(ended, key=lambda run: run.updated_at):
            self._out(_line(run, length))


def _line(run: RunSummary, length: int) -> str:
    took = duration((run.updated_at - run.created_at).total_seconds())
    at = f" at {run.error_stage}" if run.error_stage else ""
    why = f": {clipped(run.error, 120)}" if run.error else ""
    return legible(f"run {run.run_id[:length]} {run.pipeline} {run.status.replace('_', ' ')}{at} after {took}{why}")


@contextmanager
def watching(cockpit: Cockpit, *, every: float = EVERY_SECONDS) -> Iterator[Cockpit]:
    """Let it look from time to time, in a thread of its own; a database that is away is told by the workers."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            try:
                cockpit.look()
            except StageflowError:
                continue

    thread = threading.Thread(target=look, name="stageflow-cockpit", daemon=True)
    thread.start()
    try:
        yield cockpit
    finally:
        over.set()
        thread.join(2 * every)


# --- what to type ---------------------------------------------------------------------------------------------------


def hello(reference: str, pipelines: Mapping[str, Any], page: str | None = None) -> list[str]:
    """That it is ready, with which pipelines, where its page is, and a command to paste into another terminal."""
    at = "" if page is None else f"; {page}"
    if not pipelines:
        return [f"ready; {reference} has no pipelines yet: Engine(…, pipelines=[…]){at}"]
    name, pipeline = next(iter(pipelines.items()))
    listed = legible(", ".join(f"{one.name} v{one.version}" for one in pipelines.values()))
    sample = json.dumps(sample_input(pipeline.input_type), ensure_ascii=False).replace("'", "'\\''")
    return [
        f"ready: {listed}{at}",
        f"in another terminal: stageflow --app {reference} enqueue {name} --input '{sample}' --wait",
    ]


def sample_input(input_type: Any) -> Any:
    """A value of the right shape for an input; what its validators make of it is theirs to say."""
    if input_type is None:
        return {}
    from pydantic import TypeAdapter

    try:
        schema = TypeAdapter(input_type).json_schema()
    except Exception:  # noqa: BLE001  # whatever a type of the application's does when it is asked for its schema
        return {}
    return _sample(schema, schema.get("$defs", {}), 5)


_PLAIN: dict[str, Any] = {"string": "x", "integer": 1, "number": 1, "boolean": True, "null": None, "array": []}


def _sample(schema: Mapping[str, Any], known: Mapping[str, Any], depth: int) -> Any:
    if "$ref" in schema:
        schema = known.get(str(schema["$ref"]).rpartition("/")[2], {})
    for given in ("default", "const"):
        if given in schema:
            return schema[given]
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    if schema.get("anyOf") and depth:
        return _sample(schema["anyOf"][0], known, depth - 1)
    if schema.get("type") in _PLAIN:
        return _PLAIN[schema["type"]]
    properties = schema.get("properties", {})
    return {name: _sample(properties[name], known, depth - 1) for name in schema.get("required", ()) if depth}
