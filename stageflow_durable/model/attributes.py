"""Attributes of a run: what people and programs find it by. They are flat, few and indexed.

They are no part of what its key stands for: the same key with other attributes finds the same run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from stageflow_durable.errors import InvalidInput

Attributes: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""

MOST = 20
"""Attributes of one run."""

LONGEST_NAME, LONGEST_VALUE = 64, 255
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_.-]{{0,{LONGEST_NAME - 1}}}")


def checked(given: object, where: str) -> Attributes:
    """Attributes as they are stored: whole numbers and truth values become text (``1``, ``true``).

    :param given: a mapping of names to text, whole numbers or truth values; None: no attributes.
    :param where: the call that is refused, for the message.
    :raises InvalidInput: naming each attribute that is wrong.
    """
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise InvalidInput(
            where, [f'attributes: {type(given).__name__} given; names and values, e.g. {{"order": "A-1"}}']
        )
    if len(given) > MOST:
        raise InvalidInput(where, [f"attributes: {len(given)} given, at most {MOST}; metadata holds more"])
    wrong = [problem for name, value in given.items() if (problem := _problem(name, value)) is not None]
    if wrong:
        raise InvalidInput(where, wrong)
    return tuple(sorted((name, _text(value)) for name, value in given.items()))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problem(name: object, value: object) -> str | None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name)[:80] if isinstance(name, str) else type(name).__name__
        return f"attributes: {shown} is no name; letters, digits, _ . - and at most {LONGEST_NAME} of them"
    if not isinstance(value, str | int):
        return f"attributes.{name}: {type(value).__name__} given; text, a whole number or a truth value"
    try:
        text = _text(value)
    except ValueError:  # Python refuses to write very long numbers
        return f"attributes.{name}: the number is too long"
    if not text or len(text) > LONGEST_VALUE or not text.isprintable():
        return f"attributes.{name}: 1 to {LONGEST_VALUE} printable characters"
    return None
