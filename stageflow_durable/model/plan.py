"""The graph of a pipeline as stored with each run: which stage follows which, and which line (strand) it runs on.

A plan knows names and options, never functions: sweeps, cancels and ``stageflow show`` work from the stored plan alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stageflow_durable.model.limits import PlannedLimit

SLEEP = "sleep"
"""The kind of a stage that only sleeps."""

WAIT = "wait"
"""The kind of a stage that waits for a signal."""

APPROVAL = "approval"
"""The kind of a stage that waits until somebody approves what comes next."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of a plan; ``after`` are the stages it waits for, ``undo`` the name of its undo or None.

    Of a sleep: ``sleeps`` says for how many seconds, or ``until`` which moment (seconds since the epoch), or
    ``asks_until`` that a worker has to be asked.

    Of a wait for a signal: ``timeout`` in seconds, or None; ``on_timeout``: ``"fail"``, ``"skip"`` or ``"default"``,
    which ends it with ``default`` (encoded). ``schema``: the JSON schema, as text, of what a signal or a callback
    brings, or None.

    Of an approval: ``timeout`` and ``on_timeout`` likewise, of which the latter is as ``on_denied``: ``"reject"``,
    ``"park"`` or ``"skip"``; ``approvers``: who may approve, nobody in particular if empty; ``separation``: whoever
    asked for the run may not.

    ``limits``: whose slots it needs to begin.
    ``undoes_calls``: it has tools whose calls can be undone, which its undo does first.
    """

    name: str
    kind: str = "work"
    after: tuple[str, ...] = ()
    undo: str | None = None
    pivot: bool = False
    on_unknown: str = "retry"
    queue: str | None = None
    sleeps: float | None = None
    until: float | None = None
    asks_until: bool = False
    timeout: float | None = None
    on_timeout: str = "fail"
    default: str | None = None
    schema: str | None = None
    on_denied: str = "reject"
    approvers: tuple[str, ...] = ()
    separation: bool = False
    limits: tuple[PlannedLimit, ...] = ()
    undoes_calls: bool = False

    @property
    def is_sleep(self) -> bool:
        """Whether it only sleeps, and has no body."""
        return self.kind == SLEEP

    @property
    def is_wait(self) -> bool:
        """Whether it waits for a signal, and has no body."""
        return self.kind == WAIT

    @property
    def takes_answers(self) -> bool:
        """Whether it waits for a person or a program, and has no body."""
        return self.kind in (WAIT, APPROVAL)

    @property
    def is_approval(self) -> bool:
        """Whether it waits until somebody approves, and has no body."""
        return self.kind == APPROVAL


@dataclass(frozen=True)
class Plan:
    """A pipeline's graph, in an order in which every stage comes after what it waits for."""

    pipeline: str
    version: str
    stages: tuple[PlannedStage, ...]
    on_failure: str = "compensate"
    on_compensation_failure: str = "continue"
    schema: int = 1
    reads: int = 1
    """The oldest schema whose outputs can be read."""

    @cached_property
    def by_name(self) -> dict[str, PlannedStage]:
        """Stages by name."""
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """For each stage those that wait for it directly."""
        return {s.name: tuple(t.name for t in self.stages if s.name in t.after) for s in self.stages}

    @cached_property
    def ancestors(self) -> dict[str, frozenset[str]]:
        """For each stage all that come before it on some path."""
        found: dict[str, frozenset[str]] = {}
        for stage in self.stages:
            found[stage.name] = frozenset(stage.after).union(*(found[name] for name in stage.after))
        return found

    @cached_property
    def descendants(self) -> dict[str, frozenset[str]]:
        """For each stage all that come after it on some path."""
        found: dict[str, set[str]] = {stage.name: set() for stage in self.stages}
        for name, before in self.ancestors.items():
            for ancestor in before:
                found[ancestor].add(name)
        return {name: frozenset(after) for name, after in found.items()}

    @cached_property
    def next_on_strand(self) -> dict[str, str]:
        """The stage that continues a stage's strand: its only successor, when that waits for nothing else."""
        return {
            name: after[0]
            for name, after in self.successors.items()
            if len(after) == 1 and len(self.by_name[after[0]].after) == 1
        }

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Stages that wait for nothing; each heads a strand from the start."""
        return tuple(stage.name for stage in self.stages if not stage.after)

    @cached_property
    def is_line(self) -> bool:
        """Whether all stages are on one strand: with the last of them the run is done."""
        return len(self.roots) == 1 and self.remaining_on_strand(self.roots[0]) == len(self.stages)

    @cached_property
    def has_limits(self) -> bool:
        """Whether some stage needs slots of a limit."""
        return any(stage.limits for stage in self.stages)

    def branches_after(self, stage: str) -> bool:
        """Whether a stage off its strand waits for ``stage``."""
        return len(self.successors[stage]) > (stage in self.next_on_strand)

    @cached_property
    def result_stage(self) -> str:
        """The stage whose output is the run's result: the last one that does not only sleep."""
        return next((stage.name for stage in reversed(self.stages) if not stage.is_sleep), self.stages[-1].name)

    def heads_after(self, stage: str, finished: frozenset[str]) -> tuple[str, ...]:
        """Strands that start now that ``stage`` is finished: successors off its strand whose every dependency is in
        ``finished``.
        """
        onward = self.next_on_strand.get(stage)
        return tuple(
            name for name in self.successors[stage] if name != onward and finished.issuperset(self.by_name[name].after)
        )

    def remaining_on_strand(self, stage: str) -> int:
        """How many stages are left on the strand, ``stage`` included: the length of the chain compiled from here."""
        return self._remaining.get(stage, 1)

    @cached_property
    def _remaining(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for stage in reversed(self.stages):
            found[stage.name] = 1 + found.get(self.next_on_strand.get(stage.name, ""), 0)
        return found

    @cached_property
    def encoded(self) -> str:
        """The stored form: canonical JSON."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Identity of the definition: the first 24 hexadecimal digits of the SHA-256 of its stored form."""
        return hashlib.sha256(self.encoded.encode()).hexdigest()[:24]

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, the inverse of :meth:`from_dict`; options at their default are left out."""
        return {
            "pipeline": self.pipeline,
            "version": self.version,
            "on_failure": self.on_failure,
            "on_compensation_failure": self.on_compensation_failure,
            "schema": self.schema,
            "reads": self.reads,
            "stages": [_stage_to_dict(stage) for stage in self.stages],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` gave."""
        stages = tuple(
            PlannedStage(
                **{
                    **stage,
                    **{name: tuple(stage.get(name, ())) for name in ("after", "approvers")},
                    "limits": tuple(PlannedLimit(*one) for one in stage.get("limits", ())),
                }
            )
            for stage in data["stages"]
        )
        return cls(
            data["pipeline"],
            data["version"],
            stages,
            data["on_failure"],
            data.get("on_compensation_failure", "continue"),
            data.get("schema", 1),
            data.get("reads", 1),
        )

    @classmethod
    def decode(cls, text: str) -> Plan:
        """The plan stored as ``text``."""
        return cls.from_dict(json.loads(text))


_DEFAULTS = PlannedStage("")


def _stage_to_dict(stage: PlannedStage) -> dict[str, Any]:
    fields = {name: getattr(stage, name) for name in PlannedStage.__slots__}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in fields.items()
        if value != getattr(_DEFAULTS, name)
    }


def ordered(stages: Iterable[PlannedStage]) -> tuple[tuple[PlannedStage, ...], tuple[str, ...]]:
    """The stages in dependency order (declaration order where free), and the names left over because they form a
    cycle.
    """
    waiting = list(stages)
    placed: dict[str, PlannedStage] = {}
    while True:
        free = next((stage for stage in waiting if all(name in placed for name in stage.after)), None)
        if free is None:
            return tuple(placed.values()), tuple(stage.name for stage in waiting)
        waiting.remove(free)
        placed[free.name] = free


_KIND = {APPROVAL: "an approval", WAIT: "a wait for a signal", SLEEP: "a sleep"}


def _kind_changed(old: PlannedStage, new: PlannedStage) -> str | None:
    """An approval that becomes work would happen unasked; work that becomes an approval was never asked for."""
    if old.kind == new.kind or APPROVAL not in (old.kind, new.kind):
        return None
    return f"stage {new.name!r} was {_KIND.get(old.kind, 'work')}, and is {_KIND.get(new.kind, 'work')} now"


def mismatch(old: Plan, new: Plan, touched: frozenset[str], active: frozenset[str]) -> str | None:
    """Why a run begun under ``old`` cannot go on under ``new``, or None when it can.

    ``touched``: stages that finished or began; ``active``: stages at which a strand stands. What was touched must wait
    for the same stages as before, and nothing new may have slipped in behind it, where no strand would ever reach it.
    """
    for name in sorted(touched | active):
        if name not in new.by_name:
            return f"stage {name!r} is gone"
        if changed := _kind_changed(old.by_name[name], new.by_name[name]):
            return changed
    for name in sorted(active - touched):
        if not (touched - active).issuperset(new.by_name[name].after):
            return f"stage {name!r} is ready, and now waits for work that is not done"
    for name in sorted(touched):
        if set(new.by_name[name].after) != set(old.by_name[name].after):
            return f"stage {name!r} waits for other stages than when it began"
    finished = touched - active
    for stage in new.stages:
        if stage.name not in touched | active and finished.issuperset(stage.after):
            return f"stage {stage.name!r} was added behind work that is already done"
    return None
