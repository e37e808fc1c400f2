"""How long to wait: backoff times jitter, as in AWS's "Exponential Backoff And Jitter"."""

from __future__ import annotations

from collections.abc import Callable
from math import ldexp

from stageflow_durable.model.policy import Backoff, Jitter, RetryPolicy

Draw = Callable[[float, float], float]
"""Uniform chance between two bounds, both included: ``random.Random(seed).uniform``, or a fixed answer in a test."""


def backoff(policy: RetryPolicy, n: int) -> float:
    """Return the seconds after the ``n``-th failed attempt (from 1) before jitter; never above ``max_delay``."""
    return min(policy.max_delay, _GROWTH[policy.backoff](policy.base_delay, n))


def delay(policy: RetryPolicy, n: int, previous: float | None, draw: Draw) -> float:
    """Return the seconds to wait after the ``n``-th failed attempt (from 1), with jitter; never above ``max_delay``.

    ``previous``: what this function returned for the attempt before, None at first; only decorrelated jitter looks at
    it.
    """
    return min(policy.max_delay, _SPREAD[policy.jitter](policy, n, previous, draw))


def _doubled(base: float, n: int) -> float:
    try:
        return ldexp(base, n - 1)
    except OverflowError:
        return float("inf")


def _full(policy: RetryPolicy, n: int, _: float | None, draw: Draw) -> float:
    return draw(0.0, backoff(policy, n))


def _equal(policy: RetryPolicy, n: int, _: float | None, draw: Draw) -> float:
    half = backoff(policy, n) / 2
    return half + draw(0.0, half)


def _decorrelated(policy: RetryPolicy, _: int, previous: float | None, draw: Draw) -> float:
    base = policy.base_delay
    # A policy may have been changed between two attempts: the previous delay can lie outside of today's bounds.
    within = base if previous is None else min(max(previous, base), policy.max_delay)
    return draw(base, 3 * within)


_GROWTH: dict[Backoff, Callable[[float, int], float]] = {
    Backoff.EXPONENTIAL: _doubled,
    Backoff.LINEAR: lambda base, n: base * n,
    Backoff.CONSTANT: lambda base, _: base,
}
_SPREAD: dict[Jitter, Callable[[RetryPolicy, int, float | None, Draw], float]] = {
    Jitter.NONE: lambda policy, n, _, __: backoff(policy, n),
    Jitter.FULL: _full,
    Jitter.EQUAL: _equal,
    Jitter.DECORRELATED: _decorrelated,
}
