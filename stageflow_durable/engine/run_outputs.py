"""The outputs of a run that an executor keeps between stages, so that it need not read the checkpoints again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stageflow_durable.codec import FrozenDict, decode, freeze, holds_objects
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.snapshot import ContextSnapshot
from stageflow_durable.model.work import Work
from stageflow_durable.store.protocol import Store


class RunOutputs:
    """Outputs of one run, as reading them back would give them: a stage that continues in place sees what it would see
    after a crash.
    """

    def __init__(self, store: Store, pipeline: Pipeline[Any, Any]) -> None:
        self._store = store
        self._pipeline = pipeline
        self._run: str | None = None
        self._outputs: dict[str, Any] = {}
        self._saved: dict[str, str] = {}
        self._skipped: set[str] = set()
        self._input: Any = None
        self._text: str | None = None  # of the input, if it has the newest schema
        self._metadata: Mapping[str, Any] = {}
        # The stage for which the kept outputs were exactly those of its ancestors; None once another output was added.
        self._exact: str | None = None

    def snapshot(self, work: Work) -> ContextSnapshot:
        """What the stage's ancestors saved; reads the database if this process did not save all of it."""
        if self._run != work.run.id:
            self._open(work)
        self._exact = work.stage if self._holds_exactly(work) else None
        if self._exact is None:
            return self._part(work)
        outputs, skipped = FrozenDict(self._outputs), frozenset(self._skipped)
        return ContextSnapshot(work.run.id, work.run.pipeline, self._input, outputs, skipped)

    def _holds_exactly(self, work: Work) -> bool:
        """Whether the kept outputs are exactly those of the stage's ancestors. Along a line no names are compared: a
        run of a thousand stages would compare half a million.
        """
        before = self._exact
        if work.plan.by_name[work.stage].after == (before,) and (before in self._outputs or before in self._skipped):
            return True
        ancestors = work.plan.ancestors[work.stage]
        if not ancestors <= self._outputs.keys() | self._skipped:
            self._read(work)
        return len(ancestors) == len(self._outputs) + len(self._skipped)

    def _part(self, work: Work) -> ContextSnapshot:
        ancestors = work.plan.ancestors[work.stage]
        known = {name: self._outputs[name] for name in _in_order(work.plan, ancestors) if name in self._outputs}
        return ContextSnapshot(
            work.run.id, work.run.pipeline, self._input, FrozenDict(known), frozenset(self._skipped & ancestors)
        )

    def given(self) -> Any:
        """The input as its declared type, a new object each time, so that no stage sees what another one changes in it.
        Raises InvalidInput if it does not match the declared type any more.
        """
        if self._pipeline.input_type is None:
            return self._input
        declared, what = typed(self._pipeline.input_type), f"input of {self._pipeline.name}"
        return declared.migrated(self._input, what) if self._text is None else declared.read(self._text, what)

    def saved(self) -> Mapping[str, str]:
        """Encoded outputs that hold objects and were saved under the newest schema."""
        return self._saved

    def result_type(self, work: Work) -> Any:
        """The declared type of the run's result, if this stage's output is the result; else None."""
        return self._pipeline.result_type if work.plan.result_stage == work.stage else None

    def metadata(self) -> Mapping[str, Any]:
        """The run's metadata."""
        return self._metadata

    def output_of(self, work: Work) -> Any:
        """The output of a stage, or of the item in hand, or None; for its undo."""
        if not work.item:
            return self._outputs.get(work.stage)
        saved = None if work.given is None else work.given.output
        if saved is None or saved.delta is None:
            return None
        return freeze(migrated_output(self._pipeline, work.stage, decode(saved.delta), saved.schema))

    def add(self, work: Work, delta: str | None) -> None:
        """Remember what was just committed. What an item saved is no output of its stage."""
        if work.item:
            return
        if work.stage != self._exact:
            self._exact = None
        if delta is None:
            self._skipped.add(work.stage)
            return
        try:
            self._outputs[work.stage] = freeze(decode(delta))
            if holds_objects(delta):
                self._saved[work.stage] = delta
        except Exception:  # noqa: BLE001  # it is saved; the stage that reads it back meets the error
            self._run = None

    def load(self, work: Work) -> None:
        """Read everything that the run saved: an undo also needs its own stage's output."""
        if self._run != work.run.id:
            self._open(work)
        self._read(work)

    def _open(self, work: Work) -> None:
        self._run, self._outputs, self._saved, self._skipped = work.run.id, {}, {}, set()
        self._exact = None
        self._text = work.run.input if work.run.input_schema == self._pipeline.schema else None
        given = migrated_input(self._pipeline, decode(work.run.input), work.run.input_schema)
        self._input, self._metadata = freeze(given), freeze(decode(work.run.metadata))

    def _read(self, work: Work) -> None:
        self._exact = None
        found = self._store.outputs(work.run.id) if work.saved is None else work.saved
        for stage, saved in found.items():
            if saved.delta is None:
                self._skipped.add(stage)
            elif stage not in self._outputs:
                self._outputs[stage] = freeze(migrated_output(self._pipeline, stage, decode(saved.delta), saved.schema))
                if saved.schema == self._pipeline.schema and holds_objects(saved.delta):
                    self._saved[stage] = saved.delta


def _in_order(plan: Plan, names: frozenset[str]) -> list[str]:
    return [stage.name for stage in plan.stages if stage.name in names]


# --- values that were saved under an older schema of their pipeline, as the newest one has them -----------------------


Step = Callable[[Any], Any]


def migrated_input(pipeline: Pipeline[Any, Any], value: Any, schema: int) -> Any:
    """The input, saved under ``schema``. Raises DefinitionError where it cannot be read any more, or not yet."""
    steps = [(n, step.input) for n, step in sorted(pipeline.migrations.items()) if n >= schema]
    return value if schema == pipeline.schema else _through(pipeline, "its input", value, schema, steps)


def migrated_output(pipeline: Pipeline[Any, Any], stage: str, value: Any, schema: int) -> Any:
    """The same for what ``stage`` saved."""
    if schema == pipeline.schema:
        return value
    steps = [(n, step.outputs.get(stage)) for n, step in sorted(pipeline.migrations.items()) if n >= schema]
    return _through(pipeline, f"the output of {stage}", value, schema, steps)


def _through(
    pipeline: Pipeline[Any, Any], what: str, value: Any, schema: int, steps: list[tuple[int, Step | None]]
) -> Any:
    if not pipeline.plan.reads <= schema <= pipeline.schema:
        reads = f"this definition reads {pipeline.plan.reads} to {pipeline.schema}"
        raise DefinitionError(pipeline.name, [f"{what} was saved under schema {schema}; {reads}"])
    for number, step in steps:
        try:
            value = value if step is None else step(value)
        except Exception as error:
            why = f"the migration of {what} from schema {number} failed: {type(error).__name__}: {error}"
            raise DefinitionError(pipeline.name, [why]) from error
    return value
