"""When a stage is tried again: categories of errors, backoff and jitter, and one pure decision over them.

``classify`` says what kind of failure it was, ``decide`` what follows from it under a :class:`RetryPolicy`. Nothing
here sleeps, reads a clock or rolls dice: time and chance come in as arguments, and what lasts between attempts is the
caller's.
"""

from __future__ import annotations

from stageflow_durable.model.policy import Backoff, Jitter, RetryPolicy
from stageflow_durable.retry.adapters import RetryInterceptor, RetryStage
from stageflow_durable.retry.after import parse_retry_after, retry_after_of
from stageflow_durable.retry.backoff import Draw, backoff, delay
from stageflow_durable.retry.classify import categories, classify
from stageflow_durable.retry.decide import Decision, GiveUp, GiveUpReason, RetryAt, decide
from stageflow_durable.retry.table import Category

__all__ = [
    "Backoff",
    "Category",
    "Decision",
    "Draw",
    "GiveUp",
    "GiveUpReason",
    "Jitter",
    "RetryAt",
    "RetryInterceptor",
    "RetryPolicy",
    "RetryStage",
    "backoff",
    "categories",
    "classify",
    "decide",
    "delay",
    "parse_retry_after",
    "retry_after_of",
]
