"""How often and when a stage is tried again: a value, without behaviour; ``retry`` decides by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar

from stageflow_durable.errors import ConfigurationError

_Choice = TypeVar("_Choice", bound=StrEnum)
_LONGEST = timedelta(days=3650).total_seconds()  # beyond ten years it is a mistake, and points in time soon overflow


class Backoff(StrEnum):
    """How the delay grows with the number of failed attempts n (from 1)."""

    EXPONENTIAL = "exponential"
    """base · 2^(n-1)"""
    LINEAR = "linear"
    """base · n"""
    CONSTANT = "constant"
    """base"""


class Jitter(StrEnum):
    """How chance spreads a delay d, so that what failed together does not come back together."""

    NONE = "none"
    """d"""
    FULL = "full"
    """uniform in 0 … d"""
    EQUAL = "equal"
    """d/2 + uniform in 0 … d/2"""
    DECORRELATED = "decorrelated"
    """uniform in base … 3 · previous delay, whatever the backoff"""


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """When a failed stage is tried again; the jitters are those of AWS's "Exponential Backoff And Jitter".

    max_attempts     attempts in all, the first included; at least 1 (which never retries)
    base_delay       seconds (or ``timedelta``) that the backoff starts from; 0 or more
    max_delay        seconds, the cap of a delay, applied last; at least ``base_delay``. A Retry-After may exceed it
    backoff, jitter  see :class:`Backoff` and :class:`Jitter`; their values as text do
    retry_for        seconds from the first attempt's begin; no attempt begins at or after it. None: no bound
    retry_on         exception types that are retried, whatever the table of categories says of them
    give_up_on       exception types that are not; of two listed ancestors of an error, the nearer one counts
    retry_on_fail    whether ``StageOutput.fail("message")`` is retried; it is not by default
    retry_unknown    whether errors that no table knows are retried
    category_of      asked first about every error; returns a category's name, or None for "as usual"

    Raises :class:`ConfigurationError` naming the field.
    """

    max_attempts: int
    base_delay: float
    max_delay: float
    backoff: Backoff
    jitter: Jitter
    retry_for: float | None
    retry_on: tuple[type[BaseException], ...]
    give_up_on: tuple[type[BaseException], ...]
    retry_on_fail: bool
    retry_unknown: bool
    category_of: Callable[[BaseException], str | None] | None

    def __init__(
        self,
        max_attempts: int = 3,
        *,
        base_delay: float | timedelta = 1.0,
        max_delay: float | timedelta = 30.0,
        backoff: str = "exponential",
        jitter: str = "full",
        retry_for: float | timedelta | None = None,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        give_up_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        retry_on_fail: bool = False,
        retry_unknown: bool = True,
        category_of: Callable[[BaseException], str | None] | None = None,
    ) -> None:
        # Written by hand: it takes more types than the fields have, so that the rest of the engine meets only seconds.
        fields = {
            "max_attempts": _count("max_attempts", max_attempts),
            "base_delay": _seconds("base_delay", base_delay),
            "max_delay": _seconds("max_delay", max_delay),
            "backoff": _choice("backoff", Backoff, backoff),
            "jitter": _choice("jitter", Jitter, jitter),
            "retry_for": None if retry_for is None else _seconds("retry_for", retry_for),
            "retry_on": _types("retry_on", retry_on),
            "give_up_on": _types("give_up_on", give_up_on),
            "retry_on_fail": _flag("retry_on_fail", retry_on_fail),
            "retry_unknown": _flag("retry_unknown", retry_unknown),
            "category_of": _function("category_of", category_of),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._require_agreement()

    def _require_agreement(self) -> None:
        if self.base_delay > self.max_delay:
            raise _wrong("base_delay", f"{self.base_delay} s is above max_delay, {self.max_delay} s; raise max_delay")
        if self.retry_for == 0:
            raise _wrong("retry_for", "must be above 0; use max_attempts=1 for a stage that is never tried again")
        both = [error.__name__ for error in self.retry_on if error in self.give_up_on]
        if both:
            raise _wrong("retry_on", f"{', '.join(both)} stands in give_up_on too")


def _wrong(field: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"RetryPolicy {field}: {problem}")


def _count(field: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise _wrong(field, f"must be a whole number from 1, not {value!r}")
    return value


def _seconds(field: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        raise _wrong(field, f"must be seconds or a timedelta, 0 to ten years, not {value!r}")
    return float(seconds)


def _choice(field: str, choices: type[_Choice], value: str) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        raise _wrong(field, f"must be one of {', '.join(choices)}, not {value!r}") from None


def _types(field: str, value: object) -> tuple[type[BaseException], ...]:
    listed = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in listed):
        raise _wrong(field, f"must be exception types, not {value!r}")
    return listed


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(field, f"must be True or False, not {value!r}")
    return value


def _function(field: str, value: Callable[..., str | None] | None) -> Callable[..., str | None] | None:
    if value is not None and not callable(value):
        raise _wrong(field, f"must be a function, not {value!r}")
    return value
