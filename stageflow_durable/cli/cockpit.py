"""What ``stageflow up`` tells beside its children's logs: that it is ready, what to type, and each run that ends."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stageflow_durable.cli.words import clipped, counted, duration, shown_length
from stageflow_durable.errors import StageflowError
from stageflow_durable.legible import legible
from stageflow_durable.model.status import AT_REST, RunStatus

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Operations
    from stageflow_durable.model.run import RunSummary

EVERY_SECONDS = 1.0
MOST = 1000
"""The most runs that one look sees."""

SHOWN = 5
"""When more end between two looks, their number is told."""

Say = Callable[[str], None]
_ACTIVE = tuple(status for status in RunStatus if status not in AT_REST)


class Cockpit:
    """Looks at the database, and tells what is new since the last look. ``began``: workers older than that are not of
    this ``up``; ``hello``: what is said once one of its workers works.
    """

    def __init__(self, operations: Operations, out: Say, began: datetime, hello: Sequence[str]) -> None:
        self._operations = operations
        self._out = out
        self._hello = list(hello)
        self._began = began
        self._since = began
        self._active: set[str] = set()

    def look(self) -> None:
        """One look. Raises StageflowError while the database is away."""
        if self._hello and any(one.alive and one.started_at >= self._began for one in self._operations.workers()):
            for line in self._hello:
                self._out(line)
            self._hello.clear()
        self._tell(self._ended())

    def _ended(self) -> list[RunSummary]:
        # First what is active: what ends between the two questions is then seen by the second, or by the next look.
        active = {run.run_id for run in self._operations.runs(status=_ACTIVE, limit=MOST)}
        recent = self._operations.runs(since=self._since, limit=MOST)
        ended = [run for run in recent if run.status in AT_REST and run.run_id not in active]
        new = [run for run in ended if run.created_at > self._since or run.run_id in self._active]
        gone = self._active - active - {run.run_id for run in recent}
        new += [self._operations.run(run_id) for run_id in sorted(gone)[:SHOWN]]
        self._active = active
        self._since = max([self._since, *(run.created_at for run in recent)])
        return new

    def _tell(self, ended: Sequence[RunSummary]) -> None:
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
    why = f": {clipped(legible(run.error), 120)}" if run.error else ""
    return f"run {run.run_id[:length]} {run.pipeline} {run.status.replace('_', ' ')}{at} after {took}{why}"


@contextmanager
def watching(cockpit: Cockpit, *, every: float = EVERY_SECONDS) -> Iterator[None]:
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
        yield
    finally:
        over.set()
        thread.join(2 * every)


# --- what to type ---------------------------------------------------------------------------------------------------


def hello(reference: str, pipelines: Mapping[str, Any]) -> list[str]:
    """That it is ready, with which pipelines, and a command to paste into another terminal."""
    if not pipelines:
        return [f"ready; {reference} has no pipelines yet: Engine(…, pipelines=[…])"]
    name, pipeline = next(iter(pipelines.items()))
    listed = ", ".join(f"{one.name} v{one.version}" for one in pipelines.values())
    sample = json.dumps(sample_input(pipeline.input_type), ensure_ascii=False).replace("'", "'\\''")
    return [
        f"ready: {listed}",
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
