"""What a sleep's function said: until when."""

from __future__ import annotations

from datetime import datetime

from stageflow_durable.duration import LONGEST, shown
from stageflow_durable.engine.body import Called
from stageflow_durable.engine.outcome import Over, text_of
from stageflow_durable.model.status import ParkReason
from stageflow_durable.retry import Category
from stageflow_durable.retry.look import is_a
from stageflow_durable.transitions.attempt import Failure


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


def unanswered(error: BaseException) -> Over:
    """What follows where nobody can say until when: a person mends the function and resumes. Nothing has been done."""
    failure = Failure(text_of(error), Category.BUG, doubt=False, vouched=True)
    return Over(failure, park=ParkReason.BUG, error=error)
