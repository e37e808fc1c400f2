"""What a stage and an undo get: frozen facts, and a few services that the engine hands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from stageflow_durable.model.output import StageOutput
from stageflow_durable.model.snapshot import ContextSnapshot
from stageflow_durable.model.steps import RunsSteps, SavesSteps

if TYPE_CHECKING:
    from typing_extensions import TypeVar as VariableWithDefault

    InputT_co = VariableWithDefault("InputT_co", default=Any, covariant=True)
else:  # defaults of type variables came with Python 3.13
    InputT_co = TypeVar("InputT_co", covariant=True)
T = TypeVar("T")


class StageServices(Protocol):
    """What only a running engine can do for a stage."""

    def session(self) -> Any:
        """A SQLAlchemy session that commits with the checkpoint."""

    def emit(self, event: str, data: Mapping[str, Any]) -> None:
        """Keep an event to be written with the outcome."""

    def raise_if_cancelled(self) -> None:
        """Raise StageCancelled when the run is stopping."""

    def heartbeat(self, progress: Any) -> None:
        """Report progress."""

    def callback_url(self) -> str:
        """The address that ends the stage's wait."""

    def on_cleanup(self, action: Callable[[], None]) -> None:
        """Run ``action`` when the body is over, however it ended."""

    def on_end(self, action: Observer) -> None:
        """Call ``action`` with the attempt's end, once that is committed or known not to be."""

    @property
    def steps(self) -> RunsSteps:
        """Runs steps, and saves what they bring."""

    def output(self, stage: str, value: Any, as_type: type[T]) -> T:
        """``value``, which ``stage`` saved, as ``as_type``."""


@dataclass(frozen=True, slots=True)
class StageContext(SavesSteps, Generic[InputT_co]):
    """What a stage body gets.

    ``attempt`` counts from 1 and is not raised by lost workers. ``idempotency_key`` is stable over attempts and
    recoveries: hand it to the remote system. ``deadline`` is an aware datetime or None. ``snapshot`` holds what the
    stage's ancestors saved.
    """

    run_id: str
    pipeline: str
    stage: str
    attempt: int
    input: InputT_co
    snapshot: ContextSnapshot
    client_id: str
    idempotency_key: str
    metadata: Mapping[str, Any]
    deadline: datetime | None
    services: StageServices

    @property
    def outputs(self) -> Mapping[str, Any]:
        """What the stages before saved, by stage name; frozen."""
        return self.snapshot.outputs

    @overload
    def output(self, stage: str) -> Any: ...

    @overload
    def output(self, stage: str, as_type: type[T]) -> T: ...

    def output(self, stage: str, as_type: type[Any] | None = None) -> Any:
        """What ``stage`` saved; as ``as_type`` when given: the object that the stage returned, where it is one, else
        validated. KeyError names the stages there are.
        """
        if stage not in self.snapshot.outputs:
            raise KeyError(
                f"{stage!r} saved nothing that {self.stage!r} can see; it sees: {', '.join(self.outputs) or 'nothing'}"
            )
        value = self.snapshot.outputs[stage]
        return value if as_type is None else self.services.output(stage, value, as_type)

    @property
    def session(self) -> Any:
        """A SQLAlchemy session on the engine's own database, opened at first use; it commits with the checkpoint.

        Not in ``async def`` stages, and without ``commit()``: both are refused. A write through it happens exactly
        once.
        """
        return self.services.session()

    def emit(self, event: str, **data: Any) -> None:
        """Add an event to the run's history; written with the outcome."""
        self.services.emit(event, data)

    def raise_if_cancelled(self) -> None:
        """Raise StageCancelled when the run is stopping; call it where stopping is safe."""
        self.services.raise_if_cancelled()

    def heartbeat(self, progress: Any = None) -> None:
        """Show ``progress`` (any JSON value) in ``stageflow show``; the lease is renewed without it."""
        self.services.heartbeat(progress)

    def callback_url(self) -> str:
        """The address that ends this stage, for a body that returns ``StageOutput.wait(timeout=…)``: what is sent there
        by POST, as JSON, is the stage's output. It is the same for every attempt of the stage, takes one call, and
        keeps one that comes before the stage waits. Whoever has it can end the stage: treat it as a password.

        Raises ConfigurationError where the engine has no ``public_url``, or no audit key to sign with.
        """
        return self.services.callback_url()

    def on_cleanup(self, action: Callable[[], None]) -> None:
        """Run ``action()`` when the body is over, however it ended."""
        self.services.on_cleanup(action)

    def on_end(self, action: Observer) -> None:
        """Call ``action(end)`` with this attempt's :class:`AttemptEnd`: after the commit, or once it is known that
        there is none. What it raises is logged and changes nothing. A process that dies before calls it never.
        """
        self.services.on_end(action)


@dataclass(frozen=True, slots=True)
class CompensationContext(Generic[InputT_co]):
    """What an undo gets.

    ``outcome``: ``"ok"`` when the action was recorded, ``"unknown"`` when it may or may not have happened: an undo
    must tolerate "never happened". ``action_key`` is the key that the action used, so that the remote can refuse it
    later; ``idempotency_key`` is the undo's own. ``output`` is what the stage saved, or None; ``attempt`` counts from
    1.
    """

    run_id: str
    pipeline: str
    stage: str
    input: InputT_co
    outputs: Mapping[str, Any]
    output: Any
    outcome: Literal["ok", "unknown"]
    action_key: str
    idempotency_key: str
    reason: str
    attempt: int
    client_id: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How one attempt of a stage or of its undo ended, as observers are told.

    ``ctx``: what it was called with. ``result``: what follows from it: ``ok`` with the output, ``skip``, ``retry``
    (``after``: the delay in seconds), ``fail``, ``reject``, ``cancel`` or ``wait``; what becomes of a wait, nobody is
    told. ``error``: what was raised, or None.
    ``committed``: False when nothing of it was saved, as far as this process knows: another owner had taken the work
    over, or the database stayed away. Who took it over tells of its own attempt.
    """

    ctx: StageContext[Any] | CompensationContext[Any]
    result: StageOutput
    error: BaseException | None = None
    committed: bool = True

    @property
    def undo(self) -> bool:
        """Whether it was an undo."""
        return isinstance(self.ctx, CompensationContext)


Observer = Callable[[AttemptEnd], Any]
"""Told of an attempt's end, ``def`` or ``async def``; what it returns is not used."""
