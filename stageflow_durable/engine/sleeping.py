"""What the function of a stage that only waits said: until when it sleeps, or what is to be approved."""

from __future__ import annotations

from datetime import datetime

from stageflow_durable.codec import encode_and_fingerprint
from stageflow_durable.duration import LONGEST, shown
from stageflow_durable.engine.body import Called
from stageflow_durable.engine.outcome import Over, text_of
from stageflow_durable.engine.payload import within
from stageflow_durable.model.status import ParkReason
from stageflow_durable.model.work import Failure
from stageflow_durable.retry import Category
from stageflow_durable.retry.look import is_a
from stageflow_durable.transitions.approval import Asked


def moment_of(called: Called, now: float) -> float:
    """The moment, in seconds since the epoch as ``now``. Raises what the function raised, TypeError for what is no
    aware datetime, ValueError for one that lies too far ahead.
    """
    if called.error is not None:
        raise called.error
    given = called.value
    if not is_a(given, datetime) or given.tzinfo is None:
        raise TypeError(f"until= has to give an aware datetime, not {shown(given)}")
    until = given.timestamp()
    if not until - now <= LONGEST:  # nor where it is no number
        raise ValueError(f"until= gave {shown(given)}, which lies more than ten years ahead")
    return until


def content_of(called: Called, stage: str, limit: int) -> Asked:
    """What is to be approved. Raises what the function raised; UnsavableValue for what is no JSON, InvalidInput for
    what is larger than ``limit`` bytes.
    """
    if called.error is not None:
        raise called.error
    text, digest = encode_and_fingerprint(called.value, None, "of")
    return Asked(within(text, called.value, limit, f"of= of {stage}", "of"), digest)


def unanswered(error: BaseException) -> Over:
    """What follows where the function does not say it: a person fixes it and resumes. Nothing has been done."""
    failure = Failure(text_of(error), Category.BUG, doubt=False, vouched=True)
    return Over(failure, park=ParkReason.BUG, error=error)
