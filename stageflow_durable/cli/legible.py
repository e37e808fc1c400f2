"""Text from elsewhere (errors, keys, names) as a terminal may show it: nothing in it acts on the terminal."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

V = TypeVar("V")

# Controls (escape sequences begin with one), surrogates that no terminal can be sent, and what reverses or hides text.
_ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]")
_BREAKS = re.compile("[ ]*[\t\n\v\f\r\x85\u2028\u2029][ \t\n\v\f\r\x85\u2028\u2029]*")


def legible(text: str) -> str:
    r"""``text`` on one line, with every other control character written as ``\x1b``, ``\u202e``."""
    return _ACTS.sub(_written, _BREAKS.sub(" ", text))


def harmless_json(document: str) -> str:
    """The same JSON with the characters that a terminal would act on escaped; line breaks between values stay."""
    return _ACTS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", document)


def for_people(value: V) -> V:
    """A record with all its text made legible, to any depth."""
    shown: V = _for_people(value)
    return shown


def _for_people(value: Any) -> Any:
    if type(value) is str:  # a StrEnum is one of ours
        return legible(value)
    if isinstance(value, tuple | list):
        return type(value)(map(_for_people, value))
    if isinstance(value, dict):
        return {_for_people(key): _for_people(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _for_people(getattr(value, field.name)) for field in fields(value)})
    return value


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
