"""Declaring a pipeline: an immutable value; every ``.stage()`` returns a new one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.plan import Plan, PlannedStage, ordered
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import (
    OnCompensationFailure,
    OnFailure,
    OnUnknown,
    Runner,
    StageKind,
    StageSpec,
    Undo,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar as VariableWithDefault

    InputT = VariableWithDefault("InputT", default=Any)
    ResultT = VariableWithDefault("ResultT", default=Any)
else:  # defaults of type variables came with Python 3.13
    InputT = TypeVar("InputT")
    ResultT = TypeVar("ResultT")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_ORDERED_KINDS = frozenset({StageKind.WORK, StageKind.AGENT})


@dataclass(frozen=True)
class Pipeline(Generic[InputT, ResultT]):
    """A named line, or graph, of stages.

    ``input_type``: a Pydantic model (or any type Pydantic can validate) for the input; without it the input is any
    JSON object. ``result_type``: how ``handle.result()`` reads the last stage's output. ``on_failure``:
    ``"compensate"`` undoes completed work when a run cannot finish, ``"park"`` leaves it to a person.
    ``on_compensation_failure``: after an undo that failed for good ``"continue"`` still undoes what is older,
    ``"halt"`` leaves the rest as it is until a person has looked. ``retry``: policy of stages that have none of their
    own.

    Mistakes are found by :attr:`plan`, which an engine reads when the pipeline is registered: DefinitionError lists
    all.
    """

    name: str
    version: str = "1"
    input_type: type[InputT] | None = None
    result_type: type[ResultT] | None = None
    on_failure: OnFailure = "compensate"
    on_compensation_failure: OnCompensationFailure = "continue"
    retry: RetryPolicy | None = None
    stages: tuple[StageSpec, ...] = ()

    def stage(
        self,
        name: str,
        runner: Any = None,
        *,
        kind: StageKind | None = None,
        after: str | Iterable[str] | None = None,
        compensate: Runner | Undo | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
        pivot: bool = False,
        on_unknown: OnUnknown = "retry",
        key: Callable[[Any], str] | None = None,
        key_ttl: float | timedelta = 86400.0,
        queue: str | None = None,
    ) -> Pipeline[InputT, ResultT]:
        """This pipeline with one more stage.

        ``runner``: a function of one context, or an object with ``execute(ctx)``. ``after``: the stages it waits for;
        left out, the one before. ``compensate``: its undo. ``timeout``: seconds or timedelta for one attempt.
        ``pivot``: the point of no return. ``on_unknown``: what to do when a process died in it: ``"retry"``,
        ``"park"`` or ``"compensate"``. ``key``: a business key that dedups the stage across runs for ``key_ttl``
        seconds. ``queue``: a Celery queue of its own.
        """
        options: dict[str, Any] = {
            "retry": retry,
            "compensate": compensate,
            **_adapter_options(runner, retry, compensate),
        }
        spec = StageSpec(
            name=name,
            runner=_callable(runner),
            kind=_kind(kind, runner),
            after=_names(after),
            compensate=_undo(options["compensate"]),
            retry=options["retry"],
            timeout=_seconds(timeout),
            pivot=pivot,
            on_unknown=on_unknown,
            key=key,
            key_ttl=_seconds(key_ttl) or 0.0,
            queue=queue,
        )
        return replace(self, stages=(*self.stages, spec))

    @cached_property
    def plan(self) -> Plan:
        """The graph of this pipeline. Raises DefinitionError with every mistake."""
        resolved = _resolve_after(self.stages)
        placed, cyclic = (
            ordered(_planned(spec, after) for spec, after in zip(self.stages, resolved, strict=True))
            if not _unknown(self.stages, resolved)
            else ((), ())
        )
        problems = [*_mistakes(self, resolved), *([f"cycle through {', '.join(cyclic)}"] if cyclic else [])]
        plan = Plan(self.name, self.version, placed, self.on_failure, self.on_compensation_failure)
        if not problems:
            problems.extend(_unordered_pivots(plan))
        if problems:
            raise DefinitionError(self.name, problems)
        return plan

    @cached_property
    def by_name(self) -> dict[str, StageSpec]:
        """Stage definitions by name."""
        return {spec.name: spec for spec in self.stages}


def _callable(runner: Any) -> Runner:
    execute = getattr(runner, "execute", None)
    return execute if callable(execute) else runner  # type: ignore[no-any-return]  # _mistakes reports what is not callable


def _kind(given: StageKind | None, runner: Any) -> StageKind:
    kind: StageKind = given if given is not None else getattr(runner, "kind", StageKind.WORK)
    return kind


def _adapter_options(runner: Any, *given: Any) -> dict[str, Any]:
    """Options that an adapter (RetryStage, CompensatingActionStage) brings along; what was given beside it is kept."""
    brought: dict[str, Any] = dict(getattr(runner, "stage_options", {}))
    clash = [
        name
        for name, value in zip(("retry", "compensate"), given, strict=True)
        if value is not None and name in brought
    ]
    if clash:
        raise DefinitionError(
            getattr(runner, "name", "?"),
            [f"{name}= is given twice: by the stage object and beside it" for name in clash],
        )
    return brought


def _undo(compensate: Runner | Undo | None) -> Undo | None:
    return compensate if compensate is None or isinstance(compensate, Undo) else Undo(compensate)


def _names(after: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if after is None:
        return None
    return (after,) if isinstance(after, str) else tuple(after)


def _seconds(duration: float | timedelta | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _resolve_after(specs: tuple[StageSpec, ...]) -> list[tuple[str, ...]]:
    previous = ((), *((spec.name,) for spec in specs))
    return [before if spec.after is None else spec.after for spec, before in zip(specs, previous, strict=False)]


def _planned(spec: StageSpec, after: tuple[str, ...]) -> PlannedStage:
    undo = getattr(spec.compensate.action, "__name__", "undo") if spec.compensate else None
    return PlannedStage(spec.name, str(spec.kind), after, undo, spec.pivot, spec.on_unknown, spec.queue)


def _unknown(specs: tuple[StageSpec, ...], resolved: list[tuple[str, ...]]) -> list[str]:
    known = {spec.name for spec in specs}
    return [
        f"stage {spec.name!r} waits for unknown stage {name!r}"
        for spec, after in zip(specs, resolved, strict=True)
        for name in after
        if name not in known
    ]


def _mistakes(pipeline: Pipeline[Any, Any], resolved: list[tuple[str, ...]]) -> list[str]:
    specs = pipeline.stages
    names = [spec.name for spec in specs]
    problems = (
        [] if _NAME.fullmatch(pipeline.name) else [f"name {pipeline.name!r}: letters, digits, '_', '.', '-' (1 to 100)"]
    )
    problems += [] if specs else ["it has no stages"]
    problems += [f"duplicate stage name {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += _unknown(specs, resolved) + _implicit_after_branch(specs)
    if pipeline.on_failure not in ("compensate", "park"):
        problems.append(f"on_failure={pipeline.on_failure!r}: 'compensate' or 'park'")
    if pipeline.on_compensation_failure not in ("continue", "halt"):
        problems.append(f"on_compensation_failure={pipeline.on_compensation_failure!r}: 'continue' or 'halt'")
    return problems + [problem for spec in specs for problem in _bad_options(spec)]


def _implicit_after_branch(specs: tuple[StageSpec, ...]) -> list[str]:
    previous: tuple[str, ...] = ()
    branched, problems = False, []
    for spec in specs:
        if spec.after is None and branched:
            problems.append(f"stage {spec.name!r}: say after=… ; once there is a branch 'the one before' is ambiguous")
        branched = branched or (spec.after is not None and spec.after != previous)
        previous = (spec.name,)
    return problems


def _bad_options(spec: StageSpec) -> list[str]:
    where = f"stage {spec.name!r}"
    checks = (
        (not _NAME.fullmatch(spec.name), "name: letters, digits, '_', '.', '-' (1 to 100)"),
        (not callable(spec.runner), f"runner {spec.runner!r} is not a function and has no execute(ctx)"),
        (
            spec.compensate is not None and not callable(spec.compensate.action),
            "compensate is not a function of one context",
        ),
        (not isinstance(spec.kind, StageKind), f"kind {spec.kind!r} is not a StageKind"),
        (spec.timeout is not None and spec.timeout <= 0, f"timeout {spec.timeout!r} has to be positive"),
        (spec.key_ttl <= 0, f"key_ttl {spec.key_ttl!r} has to be positive"),
        (
            spec.on_unknown not in ("retry", "park", "compensate"),
            f"on_unknown={spec.on_unknown!r}: 'retry', 'park' or 'compensate'",
        ),
        (spec.key is not None and not callable(spec.key), "key is not a function of one context"),
    )
    return [f"{where}: {text}" for wrong, text in checks if wrong]


def _unordered_pivots(plan: Plan) -> list[str]:
    """A pivot beside unordered work could pass while that work still fails: nobody could say what to undo."""
    return [
        f"pivot {pivot.name!r} is unordered with {other.name!r}, which may have effects; order them with after="
        for pivot in plan.stages
        if pivot.pivot
        for other in plan.stages
        if other.kind in _ORDERED_KINDS
        and other.name != pivot.name
        and other.name not in plan.ancestors[pivot.name] | plan.descendants[pivot.name]
    ]
