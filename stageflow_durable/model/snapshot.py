"""The immutable state of a run between stages: the fold of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stageflow_durable.codec import freeze, plain
from stageflow_durable.errors import UnsavableValue

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ContextSnapshot:
    """Input and outputs of the stages so far; immutable to the depths, equal by value.

    ``outputs`` maps stage name to what it saved; a skipped stage is listed in ``skipped`` and has no output.
    """

    run_id: str
    pipeline: str
    input: Any
    outputs: Mapping[str, Any] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()

    def with_output(self, stage: str, value: Any) -> ContextSnapshot:
        """This snapshot after ``stage`` saved ``value``."""
        return ContextSnapshot(
            self.run_id, self.pipeline, self.input, freeze({**self.outputs, stage: value}), self.skipped
        )

    def with_skip(self, stage: str) -> ContextSnapshot:
        """This snapshot after ``stage`` was skipped."""
        return ContextSnapshot(self.run_id, self.pipeline, self.input, self.outputs, self.skipped | {stage})

    def only(self, stages: Iterable[str]) -> ContextSnapshot:
        """What a stage sees whose ancestors are ``stages``."""
        kept = frozenset(stages)
        if kept.issuperset(self.outputs) and kept.issuperset(self.skipped):
            return self
        outputs = freeze({name: value for name, value in self.outputs.items() if name in kept})
        return ContextSnapshot(self.run_id, self.pipeline, self.input, outputs, self.skipped & kept)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict with a ``schema`` number; what :meth:`from_dict` reads."""
        return {
            "schema": SCHEMA_VERSION,
            "run_id": self.run_id,
            "pipeline": self.pipeline,
            "input": plain(self.input),
            "outputs": plain(dict(self.outputs)),
            "skipped": sorted(self.skipped),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ContextSnapshot:
        """The snapshot that ``to_dict`` gave. Raises UnsavableValue for a schema this version cannot read."""
        if data.get("schema") != SCHEMA_VERSION:
            raise UnsavableValue(
                "schema", f"snapshot schema {data.get('schema')!r}", f"this version reads {SCHEMA_VERSION}"
            )
        return cls(
            data["run_id"], data["pipeline"], freeze(data["input"]), freeze(data["outputs"]), frozenset(data["skipped"])
        )
