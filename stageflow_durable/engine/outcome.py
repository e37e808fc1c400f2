"""What a returned value or an exception means: success, another attempt, or the end. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from stageflow_durable.clock import Draw
from stageflow_durable.codec import Classes, encode
from stageflow_durable.engine.interrupt import StageTimeout
from stageflow_durable.engine.payload import too_large
from stageflow_durable.engine.redaction import LONGEST, members_of, message_of
from stageflow_durable.engine.typed import saved_by
from stageflow_durable.errors import UnsavableValue
from stageflow_durable.masking import masked
from stageflow_durable.model.output import OutputKind, StageOutput
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.status import AttemptState, Cause, ParkReason
from stageflow_durable.model.work import Failure
from stageflow_durable.retry import Category, GiveUp, GiveUpReason, classify, decide, parse_retry_after, retry_after_of
from stageflow_durable.retry.look import is_a, name_of
from stageflow_durable.retry.look import text as text_of_any

MAX_ERROR = 2000
"""Characters of an error's text that are kept."""

MEMBERS = 10
"""How many members of a group its text names."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """Save ``delta`` (encoded text; None for a skipped stage). ``replayed``: the result came from elsewhere, so this
    stage needs no undo. ``doubt``: the body raised and an interceptor returned a result, so the body may have acted.
    """

    delta: str | None
    skipped: bool = False
    replayed: bool = False
    doubt: bool = False


@dataclass(frozen=True, slots=True)
class Again:
    """Try again in ``delay`` seconds. ``drawn``: the delay that the policy chose by itself. ``error`` and ``most`` (the
    number of attempts that the policy allows) are for the log.
    """

    failure: Failure
    delay: float
    drawn: float
    error: BaseException | None = field(default=None, compare=False)
    most: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Over:
    """The stage has failed for good. ``error`` and ``most`` as of :class:`Again`."""

    failure: Failure
    cause: Cause = Cause.FAILED
    park: ParkReason | None = None
    exhausted: bool = False
    error: BaseException | None = field(default=None, compare=False)
    most: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class AwaitsCallback:
    """The body has returned, and what it started outside calls back within ``timeout`` seconds. ``expired``: what
    follows if nothing does.
    """

    timeout: float
    expired: Again | Over


Outcome = Succeeded | Again | Over | AwaitsCallback


@dataclass(frozen=True, slots=True)
class History:
    """What the retry policy needs to know of earlier attempts. ``elapsed``: seconds since the stage first began."""

    tries: int
    previous_delay: float | None
    elapsed: float
    wall: float


def text_of(error: BaseException | str | None) -> str:
    """An error as one short text; a group names its members. Never raises, even if the error's own code does."""
    if error is None:
        return ""
    try:
        return storable(_text(error))[:MAX_ERROR]
    except BaseException as why:  # noqa: BLE001  # the error's own code failed
        return f"{ascii_of(name_of(type(error)))} (its text cannot be had: {ascii_of(name_of(type(why)))})"


def _text(error: BaseException | str) -> str:
    if is_a(error, str):
        return masked(text_of_any(error, LONGEST))
    assert is_a(error, BaseException)
    said = f"{name_of(type(error))}: {message_of(error)}".removesuffix(": ")
    inside = members_of(error, MEMBERS)
    return f"{said}: {inside}" if inside else said


def storable(text: str) -> str:
    """A text as a database's text column takes it: NUL and lone surrogates are shown as escapes."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def ascii_of(text: str) -> str:
    """A text as every database takes it, whatever its encoding: all but ASCII is shown as escapes."""
    return storable(text).encode("ascii", "backslashreplace").decode()[:MAX_ERROR]


def in_ascii(outcome: Again | Over) -> Again | Over:
    """The same outcome, for a database whose encoding does not hold its text."""
    return replace(outcome, failure=replace(outcome.failure, error=ascii_of(outcome.failure.error)))


def mistake(error: BaseException, behind: BaseException | None = None) -> Over:
    """The outcome of an unexpected error: the run is parked as a bug, and the body is not called again. ``behind``:
    what the body itself raised.
    """
    text = text_of(error) if behind is None else f"{text_of(error)}; the stage raised {text_of(behind)}"[:MAX_ERROR]
    return Over(Failure(text, Category.BUG, doubt=True), park=ParkReason.BUG, error=error)


def unjudged(why: BaseException) -> Over:
    """The outcome if deciding on the outcome has failed: the run is parked as a bug."""
    return Over(Failure(f"judging its outcome failed: {text_of(why)}", Category.BUG, doubt=True), park=ParkReason.BUG)


def as_output(value: Any) -> StageOutput:
    """A body's return value as an output."""
    if is_a(value, StageOutput):
        return value
    return StageOutput(OutputKind.OK, value=value)


def outcome_of_value(value: Any, policy: RetryPolicy, history: History, draw: Draw, result_type: Any = None) -> Outcome:
    """The outcome of a return value. ``result_type``: the declared type if this is the run's result, or None."""
    output = as_output(value)
    if output.kind is OutputKind.OK:
        return _ok(output, saved_by(result_type, output.value))
    return _ENDINGS[output.kind](output, policy, history, draw)


def outcome_of_error(
    error: BaseException, policy: RetryPolicy, history: History, draw: Draw, *, called: bool = True
) -> Outcome:
    """The outcome of an exception. Only a body that was ``called`` may have acted before it raised."""
    category = Category.TRANSIENT if is_a(error, StageTimeout) else classify(error, policy)
    after = retry_after_of(error, history.wall)
    return _decided(error, category, after, policy, history, draw, doubt=called, called=called)


def limited(outcome: Outcome, limit: int) -> Outcome:
    """The same outcome, or a bug if its output has more than ``limit`` bytes."""
    if not isinstance(outcome, Succeeded) or outcome.delta is None or len(outcome.delta) <= limit:
        return outcome
    why = f"output cannot be saved: {too_large(len(outcome.delta), limit)}"
    return Over(Failure(why, Category.BUG, doubt=True), park=ParkReason.BUG)


def not_called(outcome: Outcome) -> Outcome:
    """The outcome if an interceptor answered and the body was not called: this attempt has had no effect."""
    if isinstance(outcome, Succeeded):
        return replace(outcome, replayed=True)
    if isinstance(outcome, AwaitsCallback):
        return mistake(TypeError("an interceptor answered StageOutput.wait() for a body that was not called"))
    return replace(outcome, failure=replace(outcome.failure, called=False, doubt=False))


def in_doubt(outcome: Outcome) -> Outcome:
    """The outcome if an interceptor answered for a body that raised: it may have acted, unless that was ruled out."""
    if isinstance(outcome, Succeeded):
        return replace(outcome, doubt=True)
    if isinstance(outcome, AwaitsCallback):
        return outcome  # its outcome is in doubt until something calls back
    if outcome.failure.vouched:
        return outcome
    return replace(outcome, failure=replace(outcome.failure, doubt=True))


def mistake_before_body(outcome: Outcome) -> Outcome:
    """Parks errors before the body that no retry can fix: a typo in a deploy must not refund every customer."""
    if isinstance(outcome, Over) and not outcome.exhausted:
        return replace(outcome, park=ParkReason.BUG)
    return outcome


def refusal(error: Exception) -> Over:
    """The outcome if the stage cannot have its business key."""
    return Over(Failure(text_of(error), Category.PERMANENT, doubt=False, state=AttemptState.REJECTED, vouched=True))


def apply_on_unknown(outcome: Outcome, on_unknown: str) -> Outcome:
    """Apply the stage's ``on_unknown``: a body that raised, timed out or returned ``fail`` may have acted, like one
    whose process died.
    """
    if isinstance(outcome, AwaitsCallback):
        return outcome  # applied where the wait expires
    if on_unknown == "retry" or isinstance(outcome, Succeeded) or not outcome.failure.doubt:
        return outcome
    park = outcome.park if isinstance(outcome, Over) else None
    if on_unknown == "park":
        park = park or ParkReason.UNKNOWN
    cause = outcome.cause if isinstance(outcome, Over) else Cause.FAILED
    return Over(outcome.failure, cause=cause, park=park, error=outcome.error, most=outcome.most)


def _ok(output: StageOutput, classes: Classes | None) -> Outcome:
    try:
        return Succeeded(encode(output.value, "output", classes))
    except UnsavableValue as error:
        return _unsavable(storable(str(error))[:MAX_ERROR])
    except Exception as error:  # noqa: BLE001  # the value's own code raised: a property, an iterator, a serializer
        return _unsavable(text_of(error))


def _unsavable(why: str) -> Over:
    return Over(Failure(f"output cannot be saved: {why}", Category.BUG, doubt=True), park=ParkReason.BUG)


def _skip(output: StageOutput, policy: RetryPolicy, history: History, draw: Draw) -> Outcome:
    return Succeeded(None, skipped=True)


def _retry(output: StageOutput, policy: RetryPolicy, history: History, draw: Draw) -> Outcome:
    after = parse_retry_after(output.after, history.wall)
    return _decided(output.error, Category.TRANSIENT, after, policy, history, draw, doubt=False)


def _fail(output: StageOutput, policy: RetryPolicy, history: History, draw: Draw) -> Outcome:
    category = classify(output.error or "failed", policy)
    return _decided(output.error, category, None, policy, history, draw, doubt=True)


def _reject(output: StageOutput, policy: RetryPolicy, history: History, draw: Draw) -> Outcome:
    failure = Failure(text_of(output.error), Category.PERMANENT, doubt=False, state=AttemptState.REJECTED, vouched=True)
    return Over(failure)


def _wait(output: StageOutput, policy: RetryPolicy, history: History, draw: Draw) -> Outcome:
    seconds = output.timeout
    if seconds is None:
        return mistake(TypeError("StageOutput of kind wait has no timeout; build it with StageOutput.wait(timeout=…)"))
    at_its_end = replace(history, elapsed=history.elapsed + seconds, wall=history.wall + seconds)
    expired = _decided("no callback came in time", Category.TRANSIENT, None, policy, at_its_end, draw, doubt=True)
    assert not isinstance(expired, Succeeded | AwaitsCallback)
    return AwaitsCallback(seconds, expired)


def _cancel(output: StageOutput, policy: RetryPolicy, history: History, draw: Draw) -> Outcome:
    return Over(Failure(text_of(output.error), Category.PERMANENT, doubt=True), cause=Cause.STAGE)


_ENDINGS = {
    OutputKind.SKIP: _skip,
    OutputKind.RETRY: _retry,
    OutputKind.FAIL: _fail,
    OutputKind.REJECT: _reject,
    OutputKind.CANCEL: _cancel,
    OutputKind.WAIT: _wait,
}


def _decided(
    error: BaseException | str | None,
    category: Category,
    after: float | None,
    policy: RetryPolicy,
    history: History,
    draw: Draw,
    *,
    doubt: bool,
    called: bool = True,
) -> Outcome:
    decision = decide(
        policy,
        n=history.tries + 1,
        previous_delay=history.previous_delay,
        category=category,
        retry_after=after,
        elapsed=history.elapsed,
        draw=draw,
    )
    failure = Failure(text_of(error), category, doubt=doubt, called=called)
    thrown = error if is_a(error, BaseException) else None
    if not isinstance(decision, GiveUp):
        return Again(failure, decision.delay, decision.drawn, error=thrown, most=policy.max_attempts)
    park = ParkReason.BUG if decision.reason is GiveUpReason.BUG else None
    return Over(failure, park=park, exhausted=decision.exhausted, error=thrown, most=policy.max_attempts)
