"""Secrets inside free text, such as an error's: who logs in to a URL, and what its query names as a secret."""

from __future__ import annotations

import logging
import re
import traceback

_AUTHORITY = re.compile(r"([A-Za-z][\w+.-]*://)[^\s/?#'\"<>]*@")
# A password with an unescaped slash: what stands behind the colon is no port.
_SLASHED = re.compile(r"([A-Za-z][\w+.-]*://)[^\s/?#:@'\"<>]*:(?!\d{1,5}(?:[/?#\s]|$))[^\s'\"<>]*@")
_NAMED = (
    r"\w*(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|signature|api[_-]?key|access[_-]?key|private[_-]?key)"
)
_OPTION = re.compile(rf"([?&;](?:{_NAMED}\w*|key|sig|auth)=)[^&;\s'\"<>]*", re.IGNORECASE)
_WORD = re.compile(rf"(\b{_NAMED}\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;,)'\"]+)", re.IGNORECASE)


def masked(text: str) -> str:
    """``text`` with ``***`` in the place of each URL's user info, of secret options of its query (``?token=``), and of
    what stands behind ``password=``.
    """
    if "://" in text:
        text = _SLASHED.sub(r"\1***@", _AUTHORITY.sub(r"\1***@", text))
    return _WORD.sub(r"\1***", _OPTION.sub(r"\1***", text)) if "=" in text else text


class _Masking(logging.Filter):
    """A traceback ends with the error's own text, which nobody has masked."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = masked("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))
        return True


def masking(logger: logging.Logger) -> logging.Logger:
    """The logger, whose tracebacks are masked from now on."""
    if not any(isinstance(one, _Masking) for one in logger.filters):
        logger.addFilter(_Masking())
    return logger
