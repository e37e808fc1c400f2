"""Secrets in what people are shown: in free text, such as an error's (who logs in to a URL, what is named as a secret,
headers that prove who asks), and in values, by the names of their fields and by what is declared sensitive.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Annotated, Any, ForwardRef, get_args, get_origin

MASK = "***"
"""What stands in the place of a secret."""

HIDDEN = "(not shown)"
"""What people see of a field with ``exclude=True``, a serializer of its own, or marked as ``Sensitive``."""

# How names of secrets end, of fields as in texts. One list: what is hidden as a field is hidden in an error that
# repeats it.
_SECRET = re.compile(
    r"(?:pass(?:word|wd|phrase|code)s?|pwd|secrets?|token|credentials?|signature|cookies?|jwt"
    r"|(?:api|access|private|secret|signing|encryption|account)[_-]?keys?)\d?(?:[_-]?confirmation)?$|(?:^|[_-])pass$",
    re.IGNORECASE,
)
_WHOLE = frozenset({"authorization", "proxyauthorization", "cvc", "cvv", "cvv2", "pin", "otp"})
"""Names that are secrets as they stand, without dashes."""

_SHORT = frozenset({"key", "sig", "auth"})
"""What is a secret as an option of a URL, and a word of many meanings elsewhere."""

_LONGEST_NAME = 200
_also: set[str] = set()

# No pattern looks at a character more often than a few times: texts come from outside, are long, and a pattern holds
# up all threads of the process. Hence possessive repeats, and no start within a word.
_RUN = re.compile(r"[^\s'\"<>]+")
_AUTHORITY = re.compile(r"(://)[^/?#]*@")
# A password with an unescaped slash: what stands behind the colon is no port.
_SLASHED = re.compile(r"(://)[^/?#:@]*:(?!\d{1,5}[/?#]).*@")
_OPTION = re.compile(r"([?&;]([\w-]++)=)[^&;\s'\"<>]*+")
_TEXT = r"\"(?:[^\"\\]|\\.)*+\"|'(?:[^'\\]|\\.)*+'"
_WORD = re.compile(rf"((?<![\w-])([\w-]++)\s{{0,3}}+=\s{{0,3}}+)(?:{_TEXT}|[^\s&;,)'\"]++)")
# An entry of a dict or of JSON, as errors repeat it; its quotes may be escaped. A value may hold further entries.
_KEY = re.compile(r"(\\{0,3}[\"'])([\w-]{1,100})\1\s{0,3}+:\s{0,3}+")
_VALUE = re.compile(rf"b?(?:{_TEXT})|\\+\"[^\"\\]*+\\+\"|\[[^\]\[]*+\]|[\w.+-]++(?:\([^()]*+\))?+")
_HEADER = re.compile(
    r"((?<![\w-])(?:(?:proxy-)?authorization|(?:set-)?cookie)['\"]?\s{0,3}+[:=]\s{0,3}+['\"]?)"
    r"((?:basic|bearer|digest|negotiate|token)\s[^\r\n'\"]++|[^\s'\"*;=]{1,100}+=[^\r\n'\"]++|[^\s'\"*]{16,}+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"((?<!\w)bearer\s{1,3})[\w.~+/=-]{16,}", re.IGNORECASE)
_PLAIN = frozenset({"none", "null", "true", "false", "''", '""', "[]", "b''", 'b""'})
"""What says no more than whether there is a secret."""


def mask_also(names: Iterable[str]) -> None:
    """Mask fields of these names too, in any case: in the whole process, since whoever shows a value does not know
    whose it is. What one engine hides another hides as well.
    """
    _also.update(map(str.casefold, names))


def is_secret(name: object) -> bool:
    """Whether a field of that name is shown to nobody: ``password``, ``client_secret``, ``apiKey``, ``Set-Cookie``."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return False
    plain = name.casefold()
    return _SECRET.search(name) is not None or plain.replace("-", "").replace("_", "") in _WHOLE or plain in _also


# --- texts ------------------------------------------------------------------------------------------------------------


def masked(text: str) -> str:
    """``text`` with ``***`` in the place of each URL's user info, of secret options of its query (``?token=``), of
    what stands behind ``password=`` or ``"password":``, and of ``Authorization`` and cookies.
    """
    if "://" in text:
        text = _RUN.sub(_without_account, text)
    if ":" in text or "=" in text:
        text = _without_entries(_HEADER.sub(rf"\1{MASK}", text))
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _WORD.sub(_without_value, masked_options(text)) if "=" in text else text


def masked_options(url: str) -> str:
    """``url`` with ``***`` in the place of the values of secret options."""
    return _OPTION.sub(_without_option, url)


def _without_account(run: re.Match[str]) -> str:
    head, at, place = run[0].rpartition("@")
    if not at or "://" not in head:
        return run[0]
    return _SLASHED.sub(r"\1***@", _AUTHORITY.sub(r"\1***@", head + at)) + place


def _without_option(option: re.Match[str]) -> str:
    secret = option[2].lower() in _SHORT or is_secret(option[2])
    return f"{option[1]}{MASK}" if secret else option[0]


def _without_entries(text: str) -> str:
    kept, at = [], 0
    for key in _KEY.finditer(text):
        if key.start() < at or not is_secret(key[2]):
            continue
        value = _VALUE.match(text, key.end())
        if value is None or value[0].casefold() in _PLAIN:
            continue
        quote = next((mark for mark in (key[1], '"', "'") if value[0].startswith(mark)), "")
        kept += [text[at : key.end()], quote, MASK, quote]
        at = value.end()
    return "".join((*kept, text[at:]))


def _without_value(word: re.Match[str]) -> str:
    return f"{word[1]}{MASK}" if is_secret(word[2]) else word[0]


# --- values -----------------------------------------------------------------------------------------------------------


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
    if says_nothing or not is_secret(name):
        return masked_value(value)
    # A payment has an authorization with an id and an amount, which is no secret; a header's is a text.
    is_record = isinstance(value, Mapping) and str(name).casefold() == "authorization"
    return masked_value(value) if is_record else MASK


# --- what is declared -------------------------------------------------------------------------------------------------


class Sensitive:
    """Marks a field of a model or a dataclass that people are not shown: ``iban: Annotated[str, Sensitive]``. Stages
    get the value as it is.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """Have the field's JSON schema say so: a wait is stored with it, and shown where the model is not known."""
        return {**handler(core_schema), "sensitive": True}


_NAME = re.compile(r"(?<!\w)Sensitive(?!\w)")


def is_sensitive(annotation: Any) -> bool:
    """Whether a type, or one inside it (an alias, an item, an alternative), is marked as :class:`Sensitive`."""
    seen: dict[int, Any] = {}  # each once, and kept: types may lead back to themselves
    waiting = [annotation]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen[id(one)] = one
        parts = get_args(one)
        if get_origin(one) is Annotated and any(map(is_mark, parts[1:])):
            return True
        if isinstance(one, str) and _NAME.search(one):  # it could not be resolved
            return True
        waiting += [*parts, getattr(one, "__value__", None), getattr(one, "__supertype__", None)]
        if isinstance(one, type) and (hasattr(one, "_fields") or hasattr(one, "__total__")):
            waiting += annotations_of(one).values()  # a NamedTuple's, a TypedDict's: nobody else asks them
    return False


def is_mark(given: object) -> bool:
    """Whether it is :class:`Sensitive` or a subclass, one of either, or a ``Field`` that says so in its schema."""
    if isinstance(given, type):
        return issubclass(given, Sensitive)
    extra = getattr(given, "json_schema_extra", None)
    inside = getattr(given, "metadata", ()) if extra is not None or type(given).__name__ == "FieldInfo" else ()
    said = isinstance(extra, dict) and extra.get("sensitive") is True
    return isinstance(given, Sensitive) or said or any(map(is_mark, inside))


def annotations_of(cls: type) -> dict[str, Any]:
    """A class's annotations and those that it inherits, each resolved by itself; one that names what cannot be found
    here is text.
    """
    found: dict[str, Any] = {}
    for one in reversed(cls.__mro__[:-1]):  # the last is object
        names = {**vars(sys.modules.get(one.__module__, object)), **vars(one)}
        found |= {name: _resolved(given, names) for name, given in _own_annotations(one).items()}
    return found


def _own_annotations(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except NameError:  # from Python 3.14 they are evaluated when they are asked for
        lazily: Any = import_module("annotationlib")
        own: dict[str, Any] = lazily.get_annotations(cls, format=lazily.Format.FORWARDREF)
        return own


def _resolved(given: Any, names: dict[str, Any]) -> Any:
    given = given.__forward_arg__ if isinstance(given, ForwardRef) else given
    if not isinstance(given, str):
        return given
    try:
        return eval(given, names)  # noqa: S307  # an annotation of the application's own class, as typing does it
    except Exception:  # noqa: BLE001  # it names what is imported for type checkers alone
        return given


# --- the log ----------------------------------------------------------------------------------------------------------


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
