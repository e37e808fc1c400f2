"""Every error that the engine raises on purpose, under one root.

Three axes matter to a caller, and each is a type: :class:`Retryable` (the same call may succeed later),
:class:`Terminal` (it will not, fix the input or the setting) and :class:`Conflict` (somebody else was first: read
again, then decide). Messages name the run or the field and the way out, and carry no secrets. Every error survives
pickling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StageflowError(Exception):
    """Something that stageflow_durable refused or could not do."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors take keyword fields, which Exception's own pickling would lose.
        return (_revive, (type(self), self.args, self.__dict__))


def _revive(cls: type[StageflowError], args: tuple[object, ...], fields: dict[str, object]) -> StageflowError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class Retryable(StageflowError):
    """The same call may succeed later; nothing was half done."""


class Terminal(StageflowError):
    """The same call will fail again; the input, the setting or the state has to change first."""


class Conflict(StageflowError):
    """Somebody else changed it first; read it again and decide again."""


# --- what an application raises in its stages -------------------------------------------------------------------------


class TransientError(Retryable):
    """Raised by a stage for a failure that passes by itself (a timeout, a lost connection): it is retried.

    ``retry_after``: seconds, a lower bound of the delay, or None.
    """

    def __init__(self, message: str = "transient failure", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ToolTimeout(TransientError):
    """A tool's call took longer than its ``timeout``; it may have acted."""


class PermanentError(Terminal):
    """Raised by a stage for a failure that no retry fixes: the stage has failed."""


class StageCancelled(StageflowError):
    """Raised inside a stage by ``ctx.raise_if_cancelled()``: the run is stopping."""


# --- definitions and settings -----------------------------------------------------------------------------------------


class ConfigurationError(Terminal):
    """A setting is missing, malformed or unsafe."""


class UnknownTool(ConfigurationError):
    """No tool of that name is registered; ``known``: those that are."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"no tool {name!r}; there are: {', '.join(self.known) or 'none'}")


class DefinitionError(Terminal):
    """A pipeline definition has mistakes; ``problems`` lists all of them, one line each."""

    def __init__(self, pipeline: str, problems: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.problems = tuple(problems)
        super().__init__(f"pipeline {pipeline!r}: " + "; ".join(self.problems))


class UnknownPipeline(Terminal):
    """No pipeline of that name (or version) is registered with this engine."""

    def __init__(self, name: str, known: Sequence[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        listed = ", ".join(self.known) or "none"
        super().__init__(
            f"no pipeline {name!r} in this engine; it knows: {listed}. Register it with Engine(pipelines=[…])"
        )


class UnknownRun(Terminal):
    """No run has that id, or a prefix fits more than one."""


class InvalidInput(Terminal):
    """The input of a run does not validate; ``fields`` names what is wrong, ``path: message`` each."""

    def __init__(self, what: str, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        super().__init__(f"{what}: " + "; ".join(self.fields))


class UnsavableValue(Terminal):
    """A value cannot be saved as JSON; ``path`` says where inside it, ``kind`` what stands there."""

    def __init__(self, path: str, kind: str, hint: str = "") -> None:
        self.path = path
        self.kind = kind
        super().__init__(f"{path}: {kind} cannot be saved" + (f"; {hint}" if hint else ""))


class CallbackRefused(Conflict):
    """What was sent to a callback URL is not taken. ``reason``: ``"late"`` (the stage waits no more), ``"conflict"``
    (something else was sent before) or ``"forged"`` (the URL is none of this engine's; then nothing is told of a run).
    """

    def __init__(self, run_id: str, stage: str, reason: str, why: str) -> None:
        self.run_id, self.stage, self.reason = run_id, stage, reason
        about = f"run {run_id}, stage {stage}: " if run_id else ""
        super().__init__(f"{about}the callback is refused: {why}")


class LinkRefused(Conflict):
    """A link to an approval is not taken. ``reason``: ``"used"``, ``"expired"``, ``"gone"`` (its run was deleted or is
    in another database, or does not have that approval any more), ``"withdrawn"`` (who may approve was changed) or
    ``"forged"`` (the link is none of this engine's; then nothing is told of a run).
    """

    def __init__(self, run_id: str, stage: str, reason: str, why: str) -> None:
        self.run_id, self.stage, self.reason = run_id, stage, reason
        about = f"run {run_id}{f', stage {stage}' if stage else ''}: " if run_id else ""
        super().__init__(f"{about}the link is refused: {why}")


# --- idempotency ------------------------------------------------------------------------------------------------------


class InvalidKey(Terminal):
    """An idempotency key is empty, longer than 255 characters, or holds a control character."""


class IdempotencyParamMismatch(Terminal):
    """One idempotency key came with two different sets of parameters; ``fields`` are the paths that differ."""

    def __init__(self, key: str, fields: Sequence[str], *, run_id: str | None = None) -> None:
        self.key = key
        self.fields = tuple(fields)
        self.run_id = run_id
        named = ", ".join(self.fields) or "parameters"
        of = f" (run {run_id})" if run_id else ""
        super().__init__(
            f"idempotency key {key!r} was used before with other parameters{of}; differing: {named}. "
            "Send the same parameters, or a new key"
        )


class IdempotencyConflict(Conflict):
    """The key is held by work that is in progress or in doubt, or that was undone."""

    def __init__(self, key: str, reason: str, *, run_id: str | None = None) -> None:
        self.key = key
        self.run_id = run_id
        super().__init__(f"idempotency key {key!r}: {reason}")


class StepMismatch(Terminal):
    """A step of a stage was saved before under this key, and it is not the one that is asked for now. ``differs``:
    ``"arguments"`` or ``"name"``.
    """

    def __init__(self, run_id: str, stage: str, key: str, name: str, saved: str) -> None:
        self.run_id, self.stage, self.key = run_id, stage, key
        self.differs = "arguments" if name == saved else "name"
        said = "with other arguments" if name == saved else f"by {saved}"
        super().__init__(
            f"run {run_id}, stage {stage}: {name} with key {key!r} was saved before {said}. One key is one step: "
            "give this one a key of its own, or the arguments with which it was saved"
        )


class NothingToUndo(Terminal):
    """A tool's call has no undo: its tool has none, or it was undone before."""


class ReplayRefused(Terminal):
    """A signed request is not taken. ``reason``: ``"missing"`` or ``"malformed"`` (its signature), ``"tampered"``,
    ``"stale"``, ``"future"`` or ``"seen"``; ``client``: who it says it is from, or "".
    """

    def __init__(self, reason: str, why: str, client: str = "") -> None:
        self.reason, self.client = reason, client
        super().__init__(f"signed request{f' of {client!r}' if client else ''} is refused ({reason}): {why}")


class FenceLost(Conflict):
    """A write by an owner whose lease was taken over; nothing was written."""


# --- operators --------------------------------------------------------------------------------------------------------


class OperatorConflict(Conflict):
    """The run changed between reading it and acting on it (``op_version``); read it again."""

    def __init__(self, run_id: str, verb: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"run {run_id} was changed by somebody else before {verb}; look again: stageflow show {run_id}"
        )


class NotAllowed(Terminal):
    """The run's state does not permit that verb; ``of``: what it is, if no run."""

    def __init__(self, run_id: str, verb: str, why: str, *, of: str = "run") -> None:
        self.run_id = run_id
        super().__init__(f"{verb} of {of} {run_id} refused: {why}")


class NotAllowedInStage(NotAllowed):
    """A stage called what would hold up its worker, or what only another kind of stage has: a bug of the stage."""


# --- dependencies -----------------------------------------------------------------------------------------------------


class StoreUnavailable(Retryable):
    """The database did not answer in bounded time. Nothing was accepted, unless the answer to a commit was lost: with
    an idempotency key the same call can be made again safely.
    """


class RunBusy(StoreUnavailable):
    """Another transaction holds the row for longer than is waited; the same call may succeed later."""


class StoreRefused(StoreUnavailable):
    """The database answered, and refused what the engine needs: a right, or a statement. Nothing was accepted; the
    message says what to grant or to set, and the same call succeeds once that is done.
    """


class BrokerUnavailable(Retryable):
    """The broker did not answer in bounded time; what was recorded will be delivered by the recovery sweep."""


class PublishingFailed(Retryable):
    """A message could not be made or routed (a router, a missing queue, a setting of the application's); what was
    recorded will be delivered by the recovery sweep, once it can.
    """


class SchemaBehind(Terminal):
    """The database's schema is not the one this version needs: run ``stageflow db upgrade``."""


class SchemaAhead(Terminal):
    """A newer release has upgraded the database's schema: deploy that release here too."""


class SchemaInUse(Terminal):
    """Workers of an older release are at work, which the newer schema would stop in the middle: stop them first."""


# --- results ----------------------------------------------------------------------------------------------------------


class RunError(StageflowError):
    """A run ended without its result.

    ``run_id``, ``status``, ``cause`` (or None), ``stage`` (the one that failed, or None), ``error`` (its message, or
    None).
    """

    def __init__(
        self, run_id: str, status: str, cause: str | None = None, stage: str | None = None, error: str | None = None
    ) -> None:
        self.run_id, self.status, self.cause, self.stage, self.error = run_id, status, cause, stage, error
        at = f" at stage {stage}" if stage else ""
        why = f": {error}" if error else ""
        super().__init__(f"run {run_id} {status}{at}{why} (stageflow show {run_id})")


class RunFailed(RunError, Terminal):
    """The run failed for good."""


class RunCancelled(RunError, Terminal):
    """The run was cancelled."""


class RunCompensated(RunError, Terminal):
    """The run could not finish and its completed work was undone."""


class CompensationFailed(RunError, Terminal):
    """The run could not finish, and an undo failed for good: a person has to look."""


class RunParked(RunError):
    """The run waits for a person's decision; ``stageflow show`` lists what is allowed."""


class ValuesErased(RunError, Terminal):
    """The run succeeded, and its values were erased since: there is no result any more."""


class ResultTimeout(StageflowError, TimeoutError):
    """The run did not end within the timeout; it goes on."""
