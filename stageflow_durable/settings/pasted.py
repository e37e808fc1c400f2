"""What people paste where a URL belongs: a path, a password with signs that a URL has other uses for, quotes. Pure.

A message names the signs and never shows what stood around them: that is the password.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_SIGNS = "@/?#[]\\ "
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^/?#@:\[\]]*)(:[0-9]{1,5})?(,[^/?#@]*)?([/?#].*)?", re.DOTALL)
_DRIVE = re.compile(r"/?[A-Za-z]:[\\/]")


def unquoted(value: str) -> str:
    """``value`` without the quotes that belonged to a file or a shell."""
    text = value.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" else text


def account_and_place(rest: str) -> tuple[str, str]:
    """What stands behind ``scheme://``: who logs in (or nothing), and where. Raises ValueError, naming the signs in the
    user's name or password that have to be written otherwise.
    """
    account, place = _split(rest)
    if wrong := [sign for sign in _SIGNS if sign in account]:
        told = ", ".join(f"{_named(sign)} as {quote(sign, safe='')}" for sign in wrong)
        raise ValueError(f"in the user's name or password write {told} (before the @ that the host stands behind)")
    if _ESCAPE.search(account):
        raise ValueError("in the user's name or password write % as %25")
    if not is_place(place):
        raise ValueError(
            "behind the host only :PORT, a number, and /DATABASE may stand; a password with : @ / ? # or % in it needs "
            "user:password@ before the host, with these signs written %3A %40 %2F %3F %23 %25"
        )
    return account, place


def _split(rest: str) -> tuple[str, str]:
    head, mark, options = rest.partition("?")
    account, _, place = head.rpartition("@")
    if "@" in options and not is_place(place):
        account, _, place = rest.rpartition("@")  # the question mark was the password's
        return account, place
    return account, place + mark + options


def is_place(text: str) -> bool:
    """Whether it can be ``host:port/database?options`` and nothing else."""
    return bool(_PLACE.fullmatch(text))


def _named(sign: str) -> str:
    return "a blank" if sign == " " else sign


def path_of_sqlite(place: str) -> str:
    """The path of a SQLite URL's ``place``. Raises ValueError where it is none of this system's."""
    path = place.removeprefix("/")
    if os.name != "nt" and (_DRIVE.match(path) or "\\" in path):
        raise ValueError(
            "this is a path of Windows; here a path is written with /, as in sqlite:////home/me/stageflow.db"
        )
    if path.startswith("/~"):
        raise ValueError("a home directory stands behind three slashes: sqlite:///~/stageflow.db")
    if "\0" in path:
        raise ValueError("a path has no NUL in it")
    return path


def meant_by(text: str) -> str:
    """What somebody may have meant who wrote a path where a URL belongs; or nothing."""
    is_path = re.fullmatch(r"[~./\w-][^\s@:?]*\.(db|sqlite3?)|(~|\.{0,2})/[^\s@:?]*", text)
    return f"; did you mean sqlite:///{text}?" if is_path else ""
