"""Declaring a pipeline: an immutable value; every ``.stage()`` returns a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from stageflow_durable.codec import encode
from stageflow_durable.errors import DefinitionError
from stageflow_durable.model import json_schema, mistakes
from stageflow_durable.model.context import StageContext
from stageflow_durable.model.limits import Limit, disagreements, mistakes_of, planned
from stageflow_durable.model.plan import APPROVAL, SLEEP, WAIT, Plan, PlannedStage, ordered
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import (
    Approval,
    Default,
    OnCompensationFailure,
    OnDenied,
    OnFailure,
    OnLeaseLost,
    OnTimeout,
    OnUnknown,
    Runner,
    SchemaMigration,
    Sleep,
    StageKind,
    StageRunner,
    StageSpec,
    Undo,
    UndoRunner,
    Wait,
)

if TYPE_CHECKING:
    from types import UnionType
    from typing import TypedDict

    from typing_extensions import TypeVar as VariableWithDefault
    from typing_extensions import Unpack

    InputT = VariableWithDefault("InputT", default=Any)
    ResultT = VariableWithDefault("ResultT", default=Any)

    class _Options(TypedDict, total=False):
        """The fields of a pipeline that do not say its types."""

        on_failure: OnFailure
        on_compensation_failure: OnCompensationFailure
        retry: RetryPolicy | None
        on_lease_lost: OnLeaseLost | None
        schema: int
        migrations: Mapping[int, SchemaMigration]
        stages: tuple[StageSpec, ...]
else:  # defaults of type variables came with Python 3.13
    InputT = TypeVar("InputT")
    ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Pipeline(Generic[InputT, ResultT]):
    """A named line, or graph, of stages.

    ``input_type``: a Pydantic model (or any type Pydantic can validate) for the input; without it the input is any
    JSON object. ``result_type``: how ``handle.result()`` reads the last stage's output. ``on_failure``:
    ``"compensate"`` undoes completed work when a run cannot finish, ``"park"`` leaves it to a person.
    ``on_compensation_failure``: after an undo that failed for good ``"continue"`` still undoes what is older,
    ``"halt"`` leaves the rest as it is until a person has looked. ``retry``: policy of stages that have none of their
    own; ``on_lease_lost`` likewise, see :meth:`stage`. ``schema``: the number of the shape that input and outputs have
    now; ``migrations``: by older number, the way to the next one, for runs in flight.

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
    on_lease_lost: OnLeaseLost | None = None
    schema: int = 1
    migrations: Mapping[int, SchemaMigration] = field(default_factory=dict, hash=False)
    stages: tuple[StageSpec, ...] = ()

    if TYPE_CHECKING:  # what is declared without a type is a JSON object: the input, and all outputs as the result

        @overload
        def __init__(
            self,
            name: str,
            version: str = ...,
            *,
            input_type: type[InputT],
            result_type: type[ResultT],
            **options: Unpack[_Options],
        ) -> None: ...

        @overload
        def __init__(
            self: Pipeline[InputT, dict[str, Any]],
            name: str,
            version: str = ...,
            *,
            input_type: type[InputT],
            result_type: None = ...,
            **options: Unpack[_Options],
        ) -> None: ...

        @overload
        def __init__(
            self: Pipeline[dict[str, Any], ResultT],
            name: str,
            version: str = ...,
            *,
            input_type: None = ...,
            result_type: type[ResultT],
            **options: Unpack[_Options],
        ) -> None: ...

        @overload
        def __init__(
            self: Pipeline[dict[str, Any], dict[str, Any]],
            name: str,
            version: str = ...,
            *,
            input_type: None = ...,
            result_type: None = ...,
            **options: Unpack[_Options],
        ) -> None: ...

        @overload  # mypy takes no union for a type[...]
        def __init__(
            self: Pipeline[Any, Any],
            name: str,
            version: str = ...,
            *,
            input_type: UnionType,
            result_type: UnionType | type[Any] | None = ...,
            **options: Unpack[_Options],
        ) -> None: ...

        @overload
        def __init__(
            self: Pipeline[Any, Any],
            name: str,
            version: str = ...,
            *,
            input_type: type[Any] | None = ...,
            result_type: UnionType,
            **options: Unpack[_Options],
        ) -> None: ...

        def __init__(self, *_: Any, **__: Any) -> None: ...

    def stage(
        self,
        name: str,
        runner: StageRunner[InputT] | None = None,
        *,
        kind: StageKind | None = None,
        after: str | Iterable[str] | None = None,
        compensate: UndoRunner[InputT] | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
        pivot: bool = False,
        on_unknown: OnUnknown = "retry",
        key: Callable[[StageContext[InputT]], str] | None = None,
        key_ttl: float | timedelta = 86400.0,
        queue: str | None = None,
        on_lease_lost: OnLeaseLost | None = None,
        callback: Any = None,
        limits: Iterable[Limit] = (),
        tools: Any = None,
    ) -> Pipeline[InputT, ResultT]:
        """This pipeline with one more stage.

        ``runner``: a function of one context, or an object with ``execute(ctx)``. ``after``: the stages it waits for;
        left out, the one before. ``compensate``: its undo. ``timeout``: seconds or timedelta for one attempt.
        ``pivot``: the point of no return. ``on_unknown``: what to do when a process died in it: ``"retry"``,
        ``"park"`` or ``"compensate"``. ``key``: a business key that dedups the stage across runs for ``key_ttl``
        seconds. ``queue``: a Celery queue of its own. ``on_lease_lost``: ``"end"`` ends the body once its worker could
        not renew its lease, though nobody may have taken the work; ``"continue"`` only once somebody has.
        ``callback``: a Pydantic model, or a JSON schema as a dict, by which what is sent to ``ctx.callback_url()`` is
        validated; None: any JSON. ``limits``: what it shares with others over all workers, see
        :class:`ConcurrencyLimit` and :class:`RateLimit`. ``tools``: the ``ToolRegistry`` (``stageflow_durable.tools``)
        of ``ctx.tools``.
        """
        brought: dict[str, Any] = dict(getattr(runner, "stage_options", {}))
        given = {name: value for name, value in (("retry", retry), ("compensate", compensate)) if value is not None}
        options = brought | given
        spec = StageSpec(
            name=name,
            runner=_callable(runner),
            kind=_kind(kind, runner),
            after=_names(after),
            compensate=_undo(options.get("compensate"), tools),
            retry=options.get("retry"),
            timeout=_seconds(timeout),
            pivot=pivot,
            on_unknown=on_unknown,
            key=key,
            key_ttl=_seconds(key_ttl),
            queue=queue,
            on_lease_lost=on_lease_lost,
            callback=callback,
            limits=_listed(limits),
            tools=tools,
            misfits=tuple(
                f"{name}= is given twice: by the stage object and beside it" for name in brought.keys() & given
            ),
        )
        return replace(self, stages=(*self.stages, spec))

    def sleep(
        self,
        name: str,
        duration: float | timedelta | None = None,
        *,
        until: datetime | Callable[[StageContext[InputT]], datetime] | None = None,
        after: str | Iterable[str] | None = None,
    ) -> Pipeline[InputT, ResultT]:
        """This pipeline with one more stage, which only sleeps: it is a row, and holds no worker and no message.

        ``duration``: seconds or timedelta, since the stages before it are done. ``until`` in its place: an aware
        datetime, or a function of the stage's context that gives one; a worker calls it once, no interceptor is around
        it, and its error parks the run as a bug. A moment that has passed is no mistake: it wakes at once. ``after``:
        as of :meth:`stage`. It has no output.
        """
        asked = until if callable(until) else _has_no_body
        spec = StageSpec(name, asked, StageKind.TRANSFORM, _names(after), sleep=Sleep(_seconds(duration), until))
        return replace(self, stages=(*self.stages, spec))

    def wait_for(
        self,
        name: str,
        schema: Any = None,
        *,
        timeout: float | timedelta | None = None,
        on_timeout: OnTimeout = "fail",
        after: str | Iterable[str] | None = None,
    ) -> Pipeline[InputT, ResultT]:
        """This pipeline with one more stage, which waits for the signal ``name``: it is a row, and holds no worker and
        no message. The signal's payload is its output.

        ``schema``: a Pydantic model, or a JSON schema as a dict, by which payloads are validated when they come; None:
        any JSON. ``timeout``: seconds or timedelta since the stages before it are done, at most ten years; None: it
        waits for as long as it takes. ``on_timeout``: then the stage has failed (``"fail"``), is skipped (``"skip"``),
        or ends with the value of ``Default(value)``. ``after``: as of :meth:`stage`.
        """
        wait = Wait(schema, _seconds(timeout), on_timeout)
        spec = StageSpec(name, _has_no_body, StageKind.TRANSFORM, _names(after), wait=wait)
        return replace(self, stages=(*self.stages, spec))

    def approve(
        self,
        name: str,
        of: Callable[[Any], Any],
        *,
        approvers: str | Iterable[str] | None = None,
        separation: bool = True,
        timeout: float | timedelta | None = None,
        on_timeout: OnDenied = "reject",
        on_denied: OnDenied = "reject",
        after: str | Iterable[str] | None = None,
    ) -> Pipeline[InputT, ResultT]:
        """This pipeline with one more stage, which waits until somebody approves what comes next. Meanwhile it is a
        row, and holds no worker and no message. Its output says who approved, when, and the digest of what.

        ``of``: a function of the stage's context (``def`` or ``async def``) that gives what is to be approved, as JSON.
        A worker calls it when the run comes there, and again before the run goes on: where it gives something else by
        then, the approval does not count, and is asked for again. Its error parks the run as a bug. ``approvers``: the
        names of those who may approve, as authenticated actors; None: anybody. ``separation``: whoever asked for the
        run (``enqueue(actor=)``) may not approve. ``on_denied``: then the run has failed (``"reject"``), is parked
        (``"park"``), or passes over the stages that come right after this one (``"skip"``). ``timeout``: seconds or
        timedelta, None for as long as it takes; ``on_timeout``: as ``on_denied``. ``after``: as of :meth:`stage`.
        """
        named = (approvers,) if isinstance(approvers, str) else approvers
        approval = Approval(of, named, separation, _seconds(timeout), on_timeout, on_denied)
        spec = StageSpec(name, of, StageKind.TRANSFORM, _names(after), approval=approval)
        return replace(self, stages=(*self.stages, spec))

    @cached_property
    def plan(self) -> Plan:
        """The graph of this pipeline. Raises DefinitionError with every mistake."""
        problems = [
            *mistakes.options_of_pipeline(
                name=self.name,
                version=self.version,
                retry=self.retry,
                on_failure=self.on_failure,
                on_compensation_failure=self.on_compensation_failure,
                on_lease_lost=self.on_lease_lost,
            ),
            *(problem for spec in self.stages for problem in mistakes.options_of_stage(spec)),
        ]
        unreadable = list(mistakes.names_of_stages(self.stages))
        placed, graph = _placed(self.stages) if not unreadable else ((), [])
        unmovable = list(mistakes.schemas(self.schema, self.migrations, frozenset(spec.name for spec in self.stages)))
        problems += unreadable + graph + unmovable
        reads = self.schema if unmovable else min([*self.migrations, self.schema])
        plan = Plan(self.name, self.version, placed, self.on_failure, self.on_compensation_failure, self.schema, reads)
        if not problems:
            problems += [
                *mistakes.unordered_pivots(plan),
                *disagreements(limit for stage in plan.stages for limit in stage.limits),
                *mistakes.joins_behind_approvals(plan),
                *mistakes.waits_behind_approvals(plan),
            ]
        if problems:
            raise DefinitionError(str(self.name), problems)
        return plan

    @cached_property
    def by_name(self) -> dict[str, StageSpec]:
        """Stage definitions by name."""
        return {spec.name: spec for spec in self.stages}


def _has_no_body(_ctx: Any) -> None:
    raise AssertionError("a stage that only waits has no body to be called")


def _callable(runner: Any) -> Runner:
    execute = getattr(runner, "execute", None)
    return execute if callable(execute) else runner  # type: ignore[no-any-return]  # _mistakes reports what is not callable


def _kind(given: StageKind | None, runner: Any) -> StageKind:
    kind: StageKind = given if given is not None else getattr(runner, "kind", StageKind.WORK)
    return kind


def _undo(compensate: Runner | Undo | None, tools: Any) -> Undo | None:
    if compensate is None and getattr(tools, "can_undo", False):
        return Undo(calls)
    return compensate if compensate is None or isinstance(compensate, Undo) else Undo(compensate)


def calls(_ctx: Any) -> None:
    """The undo of a stage that has none of its own, and tools whose calls can be undone: that is done before."""


def _names(after: Any) -> tuple[str, ...] | None:
    if after is None:
        return None
    return tuple(after) if isinstance(after, Iterable) and not isinstance(after, str) else (after,)


def _listed(limits: Any) -> Any:
    """A tuple where it is a list; what is none is kept for the list of mistakes."""
    return tuple(limits) if isinstance(limits, list | tuple) else limits


def _seconds(duration: Any) -> Any:
    """Seconds where it is a duration; what is none is kept for the list of mistakes."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _placed(specs: tuple[StageSpec, ...]) -> tuple[tuple[PlannedStage, ...], list[str]]:
    """The stages in the order of the graph, and what is wrong with the graph."""
    previous = ((), *((spec.name,) for spec in specs))
    resolved = [before if spec.after is None else spec.after for spec, before in zip(specs, previous, strict=False)]
    problems = mistakes.unknown_names(specs, resolved)
    placed, cyclic = (
        ordered(_planned(spec, after) for spec, after in zip(specs, resolved, strict=True))
        if not problems
        else ((), ())
    )
    problems += mistakes.implicit_after_branch(specs)
    return placed, [*problems, *([f"cycle through {', '.join(cyclic)}"] if cyclic else [])]


def _planned(spec: StageSpec, after: tuple[str, ...]) -> PlannedStage:
    undo = getattr(spec.compensate.action, "__name__", "undo") if spec.compensate else None
    stage = PlannedStage(spec.name, str(spec.kind), after, undo, spec.pivot, spec.on_unknown, spec.queue)
    if undo and getattr(spec.tools, "can_undo", False):
        stage = replace(stage, undoes_calls=True)
    if spec.approval is not None:
        return replace(stage, kind=APPROVAL, **_approved(spec.approval))
    if spec.wait is not None:
        return replace(stage, kind=WAIT, **_awaited(spec.wait))
    if spec.sleep is not None:
        return replace(stage, kind=SLEEP, **_slept(spec.sleep))
    if spec.limits and not any(mistakes_of(spec.limits)):
        stage = replace(stage, limits=planned(spec.limits))
    wrong = spec.callback is None or any(mistakes.of_callback(spec.callback))
    return stage if wrong else replace(stage, schema=json_schema.stored(mistakes.schema_of(spec.callback)))


def _slept(sleep: Sleep) -> dict[str, Any]:
    """What the plan says of a sleep; of a mistaken one, which is in the list of mistakes, nothing."""
    if sleep.until is None:
        return {"sleeps": sleep.seconds}
    moment = sleep.until.timestamp() if mistakes.is_moment(sleep.until) else None
    return {"until": moment, "asks_until": callable(sleep.until)}


def _awaited(wait: Wait) -> dict[str, Any]:
    """What the plan says of a wait; of a mistaken one, which is in the list of mistakes, nothing."""
    if any(mistakes.of_wait(wait)):
        return {}
    given = None if wait.schema is None else json_schema.stored(mistakes.schema_of(wait.schema))
    found: dict[str, Any] = {"timeout": wait.timeout, "schema": given}
    if isinstance(wait.on_timeout, Default):
        return {**found, "on_timeout": "default", "default": encode(wait.on_timeout.value)}
    return {**found, "on_timeout": wait.on_timeout}


def _approved(approval: Approval) -> dict[str, Any]:
    """What the plan says of an approval; of a mistaken one, which is in the list of mistakes, nothing."""
    if any(mistakes.of_approval(approval)):
        return {}
    return {
        "timeout": approval.timeout,
        "on_timeout": approval.on_timeout,
        "on_denied": approval.on_denied,
        "approvers": tuple(sorted(set(approval.approvers or ()))),
        "separation": approval.separation,
    }
