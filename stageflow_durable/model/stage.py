"""A stage's definition: its runner, its kind and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from stageflow_durable.model.context import CompensationContext, StageContext
from stageflow_durable.model.limits import Limit
from stageflow_durable.model.policy import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import TypeVar as VariableWithDefault

    InputT_contra = VariableWithDefault("InputT_contra", default=Any, contravariant=True)
else:  # defaults of type variables came with Python 3.13
    InputT_contra = TypeVar("InputT_contra", contravariant=True)

Runner = Callable[[Any], Any]
"""``def`` or ``async def`` of one context; returns a value, a model, a dict or a :class:`StageOutput`."""

OnUnknown = Literal["retry", "park", "compensate"]
OnLeaseLost = Literal["continue", "end"]
"""What a body does once its worker has lost its lease: go on until its work was taken over, or end at once."""

OnFailure = Literal["compensate", "park"]
OnCompensationFailure = Literal["continue", "halt"]


class StageKind(StrEnum):
    """What a stage is for. WORK, the safe one, is the default: it may have effects outside."""

    TRANSFORM = "transform"
    ENRICH = "enrich"
    ROUTE = "route"
    GUARD = "guard"
    WORK = "work"
    AGENT = "agent"


class Executes(Protocol[InputT_contra]):
    """What stands for a stage's function at the least."""

    def execute(self, ctx: StageContext[InputT_contra], /) -> Any:
        """Run the stage; the same contract as a stage function."""


@runtime_checkable
class Stage(Protocol[InputT_contra]):
    """An object that can stand for a stage's function."""

    name: str
    kind: StageKind

    def execute(self, ctx: StageContext[InputT_contra], /) -> Any:
        """Run the stage; the same contract as a stage function."""


@dataclass(frozen=True, slots=True)
class Undo(Generic[InputT_contra]):
    """How a stage is undone: the action and, optionally, a retry policy of its own."""

    action: Callable[[CompensationContext[InputT_contra]], Any]
    retry: RetryPolicy | None = None


StageRunner: TypeAlias = Callable[[StageContext[InputT_contra]], Any] | Executes[InputT_contra]
"""What :meth:`Pipeline.stage` takes for a pipeline of that input: a function of its context, or an object."""

UndoRunner: TypeAlias = Callable[[CompensationContext[InputT_contra]], Any] | Undo[InputT_contra]
"""What undoes a stage of a pipeline of that input."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """How long a stage sleeps: ``seconds``, or ``until`` an aware datetime or what a function of the context gives."""

    seconds: Any = None
    until: Any = None


@dataclass(frozen=True, slots=True)
class Default:
    """What a wait ends with once its time is over: ``value``, as if a signal had brought it."""

    value: Any = field(hash=False)


OnTimeout = Literal["fail", "skip"] | Default
"""What becomes of a wait whose time is over: the stage has failed, is skipped, or ends with a value."""


@dataclass(frozen=True, slots=True)
class Wait:
    """For what a stage waits. ``schema``: a Pydantic model or a JSON schema of the payload, or None; ``timeout``:
    seconds, or None for as long as it takes.
    """

    schema: Any = field(default=None, hash=False)
    timeout: Any = None
    on_timeout: Any = "fail"


OnDenied = Literal["reject", "park", "skip"]
"""What becomes of a run whose approval is denied: it has failed, is parked, or passes over what was to be approved."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person is asked to approve: ``of`` is a function of the context that says it. ``approvers``: names of
    authenticated actors, or None for anybody; ``separation``: whoever asked for the run may not approve.
    """

    of: Any
    approvers: Any = field(default=None, hash=False)
    separation: Any = True
    timeout: Any = None
    on_timeout: Any = "reject"
    on_denied: Any = "reject"


@dataclass(frozen=True, slots=True)
class SchemaMigration:
    """From one schema of a pipeline's data to the next: the ``input``, and ``outputs`` by stage; each a function from
    the old value to the new one. What is not named stays as it is.
    """

    input: Callable[[Any], Any] | None = None
    outputs: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage as the application declared it; ``after`` is None where it follows the stage before.

    ``misfits``: what could not be kept of its options, told together with all other mistakes.
    """

    name: str
    runner: Runner
    kind: StageKind = StageKind.WORK
    after: tuple[str, ...] | None = None
    compensate: Undo | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    pivot: bool = False
    on_unknown: OnUnknown = "retry"
    key: Callable[[Any], str] | None = None
    key_ttl: float = 86400.0
    queue: str | None = None
    on_lease_lost: OnLeaseLost | None = None
    sleep: Sleep | None = None
    wait: Wait | None = None
    callback: Any = field(default=None, hash=False)
    approval: Approval | None = None
    limits: tuple[Limit, ...] = ()
    tools: Any = field(default=None, hash=False)
    misfits: tuple[str, ...] = ()
