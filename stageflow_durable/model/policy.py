"""How often and when a stage is tried again: a value, without behaviour; ``retry`` decides by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from stageflow_durable.duration import seconds_of, shown
from stageflow_durable.errors import ConfigurationError

_Choice = TypeVar("_Choice", bound=StrEnum)


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

    Raises :class:`ConfigurationError` naming every field that is wrong.
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
        read = _Reader()
        fields = {
            "max_attempts": read(_count, "max_attempts", max_attempts),
            "base_delay": read(seconds_of, "base_delay", base_delay),
            "max_delay": read(seconds_of, "max_delay", max_delay),
            "backoff": read(_choice(Backoff), "backoff", backoff),
            "jitter": read(_choice(Jitter), "jitter", jitter),
            "retry_for": None if retry_for is None else read(seconds_of, "retry_for", retry_for),
            "retry_on": read(_types, "retry_on", retry_on),
            "give_up_on": read(_types, "give_up_on", give_up_on),
            "retry_on_fail": read(_flag, "retry_on_fail", retry_on_fail),
            "retry_unknown": read(_flag, "retry_unknown", retry_unknown),
            "category_of": read(_function, "category_of", category_of),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        problems = [*read.problems, *_disagreements(fields)]
        if problems:
            raise ConfigurationError("RetryPolicy " + "; ".join(problems))


class _Reader:
    """Reads fields one by one and keeps what is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __call__(self, parse: Callable[[Any], Any], field: str, value: object) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            self.problems.append(f"{field}: {error}")
            return None


def _disagreements(fields: Mapping[str, Any]) -> list[str]:
    """What is wrong with fields only together; a field that is wrong by itself is None here."""
    base, most, problems = fields["base_delay"], fields["max_delay"], []
    if base is not None and most is not None and base > most:
        problems.append(f"base_delay: {base} s is above max_delay, {most} s; raise max_delay")
    if fields["retry_for"] == 0:
        problems.append("retry_for: must be above 0; use max_attempts=1 for a stage that is never tried again")
    both = [error.__name__ for error in fields["retry_on"] or () if error in (fields["give_up_on"] or ())]
    if both:
        problems.append(f"retry_on: {', '.join(both)} stands in give_up_on too")
    return problems


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"must be a whole number from 1, not {shown(value)}")
    return value


def _choice(choices: type[_Choice]) -> Callable[[Any], _Choice]:
    def parse(value: Any) -> _Choice:
        try:
            return choices(value)
        except ValueError:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}") from None

    return parse


def _types(value: object) -> tuple[type[BaseException], ...]:
    listed = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in listed):
        raise ValueError(f"must be exception types, not {value!r}")
    return listed


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, not {value!r}")
    return value


def _function(value: object) -> object:
    if value is not None and not callable(value):
        raise ValueError(f"must be a function, not {value!r}")
    return value
