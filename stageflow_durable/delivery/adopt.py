"""An existing Celery task as a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic

from celery import Signature
from celery.exceptions import Ignore, Reject, Retry

from stageflow_durable.model.context import StageContext
from stageflow_durable.model.output import StageOutput
from stageflow_durable.model.stage import InputT_contra, StageKind


class TaskStage(Generic[InputT_contra]):
    """A stage object that calls a Celery task; made by :func:`task_stage`."""

    def __init__(
        self, signature_of: Callable[[StageContext[InputT_contra]], Signature], name: str, kind: StageKind
    ) -> None:
        self.name = name
        self.kind = kind
        self._signature_of = signature_of

    def execute(self, ctx: StageContext[InputT_contra]) -> Any:
        """Call the task; what it returns is the output."""
        return _call(_of_one_task(self._signature_of(ctx), ctx.stage), ctx)


def task_stage(
    signature_of: Callable[[StageContext[InputT_contra]], Signature],
    *,
    name: str = "task",
    kind: StageKind = StageKind.WORK,
) -> TaskStage[InputT_contra]:
    """A stage that calls a Celery task in place: ``task_stage(lambda ctx: charge_order.s(ctx.input.order_id))``.

    The task runs here, in the stage's attempt, and is not published. Its return value is the stage's output. Its
    ``self.retry()`` becomes a retry of ours, with its countdown or eta as the lower bound of the delay; our policy
    counts. ``Ignore`` and ``Reject`` mean skip. A chain, a group or another canvas is a bug, which parks the run before
    any of its tasks is called. ``name`` is used where the stage is given without one, as a step of a saga.
    """
    return TaskStage(signature_of, name, StageKind(kind))


def _of_one_task(signature: object, stage: str) -> Signature:
    """The signature itself. Raises TypeError for anything else than the signature of one task."""
    if not isinstance(signature, Signature):
        raise TypeError(
            f"stage {stage}: {type(signature).__name__} given; task_stage takes the signature of a task: task.s(…)"
        )
    canvas = signature.get("subtask_type")
    if canvas:
        raise TypeError(
            f"stage {stage}: a {canvas} of several tasks given; task_stage takes one task: give each a stage of its "
            "own, one after another, or side by side with after="
        )
    return signature


def _call(signature: Signature, ctx: StageContext[Any]) -> Any:
    task = signature.type
    # Eager and not called directly: then self.retry() raises, and publishes nothing.
    task.push_request(
        id=ctx.idempotency_key,
        args=signature.args,
        kwargs=signature.kwargs,
        retries=_retries(task, ctx),
        is_eager=True,
        called_directly=False,
        headers={},
    )
    try:
        return task.run(*signature.args, **signature.kwargs)
    except Retry as retry:
        return StageOutput.retry(retry.exc or retry.message or "the task asked for a retry", after=retry.when)
    except (Ignore, Reject) as given_up:
        return StageOutput.skip(f"{type(given_up).__name__}: {given_up}")
    finally:
        task.pop_request()


def _retries(task: Any, ctx: StageContext[Any]) -> int:
    """What the task sees as ``self.request.retries``; capped, for its own limit has no say here."""
    made = ctx.attempt - 1
    return made if task.max_retries is None else min(made, int(task.max_retries))
