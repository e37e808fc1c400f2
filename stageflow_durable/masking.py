"""Secrets in what people are shown: in free text, such as an error's (who logs in to a URL, what its query names as a
secret, headers that prove who asks), and in values, by the names of their fields.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

# No pattern looks at a character more often than a few times: texts come from outside, and are long.
_RUN = re.compile(r"[^\s'\"<>]+")
_AUTHORITY = re.compile(r"(://)[^/?#]*@")
# A password with an unescaped slash: what stands behind the colon is no port.
_SLASHED = re.compile(r"(://)[^/?#:@]*:(?!\d{1,5}[/?#]).*@")
_SECRET = re.compile(
    r"pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|signature|(?:api|access|private)[_-]?key", re.IGNORECASE
)
_SHORT = frozenset({"key", "sig", "auth"})
"""What is a secret as an option of a URL, and a word of many meanings elsewhere."""
_OPTION = re.compile(r"([?&;]([\w-]+)=)[^&;\s'\"<>]*")
_WORD = re.compile(r"(\b([\w-]+)\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;,)'\"]+)")


# An entry of a dict or of JSON, as errors repeat it.
_ENTRY = re.compile(r"(([\"'])([\w-]{1,100})\2\s{0,3}:\s{0,3})(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[\w.+-]+)")
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\s{0,3}[:=]\s{0,3})(?!['\"*\s])[^\r\n]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s{1,3})[\w.~+/=-]{16,}", re.IGNORECASE)
_FIELD = re.compile(
    r"(?:(?:pass(?:word|wd|phrase|code)|pwd|secret|token|credentials?|signature"
    r"|(?:api|access|private|secret)[_-]?key|cookies?)|^(?:proxy[_-])?authorization|^pass|^cv[cv]2?|^pin)$",
    re.IGNORECASE,
)

MASK = "***"
"""What stands in the place of a secret."""

HIDDEN = "(not shown)"
"""What people see of a field with ``exclude=True``, a serializer of its own, or marked as ``Sensitive``."""


def masked(text: str) -> str:
    """``text`` with ``***`` in the place of each URL's user info, of secret options of its query (``?token=``), of
    what stands behind ``password=`` or ``"password":``, and of ``Authorization`` and cookies.
    """
    if "://" in text:
        text = _RUN.sub(_without_account, text)
    if ":" in text or "=" in text:
        text = _ENTRY.sub(_without_entry, _HEADER.sub(rf"\1\2{MASK}", text))
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _WORD.sub(_without_value, masked_options(text)) if "=" in text else text


def is_secret(name: object) -> bool:
    """Whether a field of that name is shown to nobody: ``password``, ``client_secret``, ``apiKey``, ``Set-Cookie``."""
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and _FIELD.search(name) is not None


_LONGEST_NAME = 200


def masked_value(value: Any) -> Any:
    """``value``, which JSON or the codec made, as people may see it: fields named like secrets, and secrets in texts
    at any depth, are ``***``. What says no more than whether there is one (None, True, False, an empty text) stays.
    """
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {name: _masked_field(name, part) for name, part in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(masked_value, value))
    return value


def _masked_field(name: object, value: Any) -> Any:
    says_nothing = value is None or isinstance(value, bool) or value in ("", HIDDEN)
    return MASK if is_secret(name) and not says_nothing else masked_value(value)


class Sensitive:
    """Marks a field of a model or a dataclass that people are not shown: ``iban: Annotated[str, Sensitive]``. Stages
    get the value as it is.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """Have the field's JSON schema say so: a wait is stored with it, and shown where the model is not known."""
        return {**handler(core_schema), "sensitive": True}


def is_sensitive(annotation: Any) -> bool:
    """Whether a type, or one inside it, is marked as :class:`Sensitive`."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated and any(map(is_mark, parts[1:])):
        return True
    return any(map(is_sensitive, parts))


def is_mark(given: object) -> bool:
    """Whether it is :class:`Sensitive`, or one of it."""
    return given is Sensitive or isinstance(given, Sensitive)


def masked_options(url: str) -> str:
    """``url`` with ``***`` in the place of the values of secret options."""
    return _OPTION.sub(_without_option, url)


def _without_account(run: re.Match[str]) -> str:
    head, at, place = run[0].rpartition("@")
    if not at or "://" not in head:
        return run[0]
    return _SLASHED.sub(r"\1***@", _AUTHORITY.sub(r"\1***@", head + at)) + place


def _without_option(option: re.Match[str]) -> str:
    is_secret = option[2].lower() in _SHORT or _SECRET.search(option[2])
    return f"{option[1]}***" if is_secret else option[0]


def _without_entry(entry: re.Match[str]) -> str:
    quote = entry[4][0] if entry[4][0] in "\"'" else ""
    plain = not quote and entry[4] in ("None", "null", "True", "False", "true", "false")
    return f"{entry[1]}{quote}{MASK}{quote}" if is_secret(entry[3]) and not plain else entry[0]


def _without_value(word: re.Match[str]) -> str:
    return f"{word[1]}***" if any(found.end() == len(word[2]) for found in _SECRET.finditer(word[2])) else word[0]


class _Masking(logging.Filter):
    """A traceback ends with the error's own text, which nobody has masked."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            try:
                record.exc_text = masked("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
            except Exception:  # noqa: BLE001  # whoever loads a frame's source raises what it likes
                record.exc_info = None  # the line is logged without it
        return True


def masking(logger: logging.Logger) -> logging.Logger:
    """The logger, whose tracebacks are masked from now on."""
    if not any(isinstance(one, _Masking) for one in logger.filters):
        logger.addFilter(_Masking())
    return logger
