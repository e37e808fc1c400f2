"""The tracker's names for sagas: they compile to stages and their options; the engine alone runs and undoes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from stageflow_durable.codec import fingerprint, plain
from stageflow_durable.errors import ConfigurationError, RunError
from stageflow_durable.model.context import StageContext
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.stage import (
    InputT_contra,
    OnCompensationFailure,
    Stage,
    StageKind,
    StageRunner,
    Undo,
    UndoRunner,
)
from stageflow_durable.model.status import RunStatus, StageState, StepState


class CompensatingActionStage(Generic[InputT_contra]):
    """An action and its undo as one stage object: ``Pipeline.stage`` reads ``stage_options``.

    ``action``: a function of a StageContext, or a stage object; ``compensation``: a function of a CompensationContext,
    or an :class:`Undo` with a retry policy of its own. ``name``: the action's name unless given. Raises
    ConfigurationError when either cannot be called, or the action brings an undo along already.
    """

    def __init__(
        self,
        action: StageRunner[InputT_contra],
        compensation: UndoRunner[InputT_contra],
        *,
        name: str | None = None,
        kind: StageKind | None = None,
    ) -> None:
        function: Any = getattr(action, "execute", action)
        self.execute: Callable[[StageContext[InputT_contra]], Any] = function
        self.name = str(name or getattr(action, "name", "") or getattr(action, "__name__", ""))
        self.kind = kind or StageKind(getattr(action, "kind", StageKind.WORK))
        undo = compensation if isinstance(compensation, Undo) else Undo(compensation)
        brought: dict[str, object] = dict(getattr(action, "stage_options", {}))
        if not self.name:
            raise ConfigurationError("CompensatingActionStage: the action has no name; give name=")
        for what, function in (("action", self.execute), ("compensation", undo.action)):
            if not callable(function):
                raise ConfigurationError(f"CompensatingActionStage {self.name!r}: {what} {function!r} cannot be called")
        if "compensate" in brought:
            raise ConfigurationError(f"CompensatingActionStage {self.name!r}: the action has an undo already; keep one")
        self.stage_options: dict[str, object] = {**brought, "compensate": undo}


class CheckpointStage:
    """A named place in a pipeline to fork from, with what was true there.

    Every stage is checkpointed; this one gives a checkpoint a name, and keeps what ``capture(ctx)`` returns (any value
    that can be saved; nothing when left out) beside the names and the fingerprint of the outputs so far. Later
    ``engine.fork(run_id, name)`` begins here with the outputs of then.
    """

    kind = StageKind.TRANSFORM

    def __init__(self, name: str = "checkpoint", capture: Callable[[Any], Any] | None = None) -> None:
        if capture is not None and not callable(capture):
            raise ConfigurationError(f"CheckpointStage {name!r}: capture {capture!r} cannot be called")
        self.name = name
        self._capture = capture

    def execute(self, ctx: Any) -> dict[str, Any]:
        """``{"stages": […], "fingerprint": SHA-256 of their outputs, "captured": …}``."""
        return {
            "stages": list(ctx.snapshot.outputs),
            "fingerprint": fingerprint(plain(dict(ctx.snapshot.outputs))),
            "captured": None if self._capture is None else self._capture(ctx),
        }


class _Runs(Protocol):
    """What is needed of an engine."""

    @property
    def enqueue(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True)
class SagaOutcome:
    """How a saga ended. Names of stages: ``completed`` have an output in ``outputs``, ``undone`` were taken back,
    ``left`` may have acted and were not taken back: they have no undo, it was skipped, or it failed.
    """

    run_id: str
    status: RunStatus
    completed: tuple[str, ...]
    undone: tuple[str, ...]
    left: tuple[str, ...]
    outputs: dict[str, Any]
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether every step is done."""
        return self.status is RunStatus.SUCCEEDED


class SagaOrchestrator:
    """A saga declared step by step, run as a pipeline: durable, recovered and undone like any other.

    Immutable: :meth:`step` returns a new one. Register :attr:`pipeline` with the engine that is to run it::

        trip = SagaOrchestrator("trip").step("hotel", book, undo=cancel).step("flight", fly, undo=refund)
        engine = Engine("travel", pipelines=[trip.pipeline])
        outcome = trip.execute(engine, {"who": "Ada"}, timeout=30)
    """

    def __init__(
        self,
        name: str,
        *steps: Stage,
        input_type: type[Any] | None = None,
        version: str = "1",
        on_compensation_failure: OnCompensationFailure = "continue",
    ) -> None:
        declared = Pipeline[Any, Any](
            name, version=version, input_type=input_type, on_compensation_failure=on_compensation_failure
        )
        for step in steps:
            if not isinstance(getattr(step, "name", None), str):
                raise ConfigurationError(
                    f"SagaOrchestrator {name!r}: step {step!r} has no name; give a stage, or add it by .step(name, …)"
                )
            declared = declared.stage(step.name, step)
        self.pipeline = declared

    def step(
        self, name: str, action: StageRunner[Any], *, undo: UndoRunner[Any] | None = None, **options: Any
    ) -> SagaOrchestrator:
        """This saga with one more step; ``options`` as for :meth:`Pipeline.stage`."""
        longer = SagaOrchestrator(self.pipeline.name)
        longer.pipeline = self.pipeline.stage(name, action, compensate=undo, **options)
        return longer

    def start(self, engine: _Runs, input: Any, **options: Any) -> Any:
        """``engine.enqueue`` of this saga: a RunHandle; ``options`` and errors are its."""
        return engine.enqueue(self.pipeline, input, **options)

    def execute(self, engine: _Runs, input: Any, *, timeout: float | None = None, **options: Any) -> SagaOutcome:
        """Start it and wait for its end, however it ends. Raises ResultTimeout after ``timeout`` seconds; the saga goes
        on all the same. A parked saga, too, is an end: its status says so.
        """
        handle = self.start(engine, input, **options)
        with suppress(RunError):  # told by the outcome
            handle.result(timeout)
        return outcome_of(handle.describe(), handle.outputs())


def outcome_of(run: Any, outputs: dict[str, Any]) -> SagaOutcome:
    """The outcome of a :class:`~stageflow_durable.model.run.Run` at rest, whose stages saved ``outputs``."""
    undone = tuple(stage.name for stage in run.stages if stage.state is StageState.UNDONE)
    completed = tuple(stage.name for stage in run.stages if stage.state is StageState.OK)
    turned_back = run.status in (RunStatus.COMPENSATED, RunStatus.COMPENSATION_FAILED)
    return SagaOutcome(
        run.run_id,
        run.status,
        completed,
        undone,
        tuple(stage.name for stage in run.stages if turned_back and _left(stage)),
        {name: outputs[name] for name in completed if name in outputs},
        run.error,
    )


def _left(stage: Any) -> bool:
    if stage.undo is not None:
        return stage.undo.state not in (StepState.VOID, StepState.COMPENSATED)
    return stage.kind in _ACTING and stage.state in _MAY_HAVE_ACTED


_ACTING = (StageKind.WORK, StageKind.AGENT)
_MAY_HAVE_ACTED = (StageState.OK, StageState.UNKNOWN, StageState.FAILED)
