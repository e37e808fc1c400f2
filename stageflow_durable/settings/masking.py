"""Secrets inside free text, such as an error's: who logs in to a URL, and what its query names as a secret."""

from __future__ import annotations

import logging
import re
import traceback

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


def masked(text: str) -> str:
    """``text`` with ``***`` in the place of each URL's user info, of secret options of its query (``?token=``), and of
    what stands behind ``password=``.
    """
    if "://" in text:
        text = _RUN.sub(_without_account, text)
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
    is_secret = option[2].lower() in _SHORT or _SECRET.search(option[2])
    return f"{option[1]}***" if is_secret else option[0]


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
