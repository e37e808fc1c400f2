"""From what people write to what the engine uses, one pure function a kind of setting.

Each raises :class:`ValueError` with what is allowed; who set it, and under which name, the caller adds. A message never
holds a password.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from stageflow_durable.masking import masked_options
from stageflow_durable.settings.pasted import SCHEME, account_and_place, is_place, meant_by, path_of_sqlite, unquoted
from stageflow_durable.settings.queues import QUEUE_NAME, is_queue_name

Parser = Callable[[object], object]

DATABASES = ("postgresql+psycopg", "sqlite")
BROKERS = ("redis", "rediss", "redis+socket", "sentinel", "amqp", "amqps", "pyamqp", "memory")
CLAIM_STORES = ("redis", "rediss", "unix", "redis+socket")
# Other spellings of what we support: SQLAlchemy 2.1 and Heroku for psycopg, Valkey's own for Redis's protocol.
_SPELLINGS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "sqlite+pysqlite": "sqlite",
    "valkey": "redis",
    "valkeys": "rediss",
}
_PRINTED = re.compile(r"[!-~]+")
_OF_FILES = ("sqlite", "memory", "unix", "redis+socket")


def safe_url(url: str) -> str:
    """``url`` with every password replaced by ``***``: after the user's name, and in options (``?password=``).

    Several URLs joined by ``;`` (kombu's failover list) are each redacted. Where it is in doubt what is the password,
    more is hidden rather than less.
    """
    return ";".join(_safe(part) for part in re.split(r";(?=[\w+]+://)", url))


def _safe(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or not SCHEME.fullmatch(scheme):
        return "***"  # no URL: nobody knows which part of it is the password
    # The last @: an unescaped one, or a slash, inside a password must not cut it short.
    account, at, place = rest.rpartition("@")
    if scheme not in _OF_FILES and not is_place(place):
        return f"{scheme}://***"
    user, colon, _ = account.partition(":")
    hidden = f"{user}:***" if colon else user
    return masked_options(f"{scheme}{separator}{hidden}{at}{place}")


def broker_name(url: str) -> str:
    """What all who use a broker call it: its place without user, password and options; several in a fixed order."""
    return ";".join(sorted(_place(part) for part in re.split(r";(?=[\w+]+://)", url)))


def _place(url: str) -> str:
    scheme, _, rest = url.partition("://")
    place = rest.rpartition("@")[2].partition("?")[0].rstrip("/")
    host, slash, number = place.partition("/")
    if scheme in ("redis", "rediss"):  # what redis-py takes where a part is left out
        host = host if ":" in host.rpartition("]")[2] else f"{host or 'localhost'}:6379"
        slash, number = "/", number or "0"
    return f"{scheme}://{host}{slash}{number}"


def database_url(value: object) -> str:
    """A SQLAlchemy URL of PostgreSQL or of a SQLite file, whose path is made absolute: processes share it."""
    url = _url(value, DATABASES)
    return _absolute_sqlite(url) if url.startswith("sqlite:") else url


def broker_url(value: object) -> str:
    """A kombu URL of Redis, Valkey or RabbitMQ, or several joined by ``;``."""
    return ";".join(_url(part, BROKERS) for part in unquoted(_text(value)).split(";"))


def redis_url(value: object) -> str:
    """A redis-py URL, or ``off``: claims are answered by the database alone."""
    return "off" if value == "off" else _url(value, CLAIM_STORES)


def _url(value: object, schemes: Iterable[str]) -> str:
    text = unquoted(_text(value))
    written, separator, rest = text.partition("://")
    scheme = _SPELLINGS.get(written.lower(), written.lower())
    if not separator or not SCHEME.fullmatch(written):
        meant = meant_by(text) if "sqlite" in schemes else ""
        raise ValueError(f"not a URL; write {' or '.join(f'{name}://…' for name in schemes)}{meant}")
    if scheme not in schemes:
        raise ValueError(f"{written}:// is not supported; use {', '.join(schemes)}")
    if scheme not in _OF_FILES:
        account_and_place(rest)
    return f"{scheme}://{rest}"


def _absolute_sqlite(url: str) -> str:
    place, mark, options = url.removeprefix("sqlite://").partition("?")
    if place and not place.startswith("/"):
        raise ValueError("a SQLite file takes three slashes, and four when its path begins with one: sqlite:///file.db")
    path = path_of_sqlite(place)
    if path in ("", ":memory:") or "mode=memory" in options:
        raise ValueError("SQLite in memory is one process's own, workers are others; write sqlite:///stageflow.db")
    if path.startswith("file:"):
        return url
    return f"sqlite:///{_home(Path(path)).absolute()}{mark}{options}"


def seconds(low: float, high: float = 7 * 86400.0, *, above: bool = False) -> Parser:
    """Seconds (a number, its text, or a timedelta) from ``low`` to ``high``; ``above``: more than ``low``."""

    def parse(value: object) -> float:
        number = _number(value.total_seconds() if isinstance(value, timedelta) else value, "a number of seconds")
        if number < low or number > high or (above and number == low):
            raise ValueError(f"must be {'more than' if above else 'at least'} {low:g} and at most {high:g} seconds")
        return number

    return parse


def whole(low: int, high: int = 1_000_000) -> Parser:
    """A whole number from ``low`` to ``high``."""

    def parse(value: object) -> int:
        number = _number(value, "a whole number")
        if number != int(number) or not low <= number <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(number)

    return parse


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {what}, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except ValueError:
        raise ValueError(f"is not {what}; write for example 10") from None
    if not math.isfinite(number):
        raise ValueError(f"must be {what}, and finite")
    return number


def queue(value: object) -> str:
    """The name of a queue."""
    name = value.strip() if isinstance(value, str) else value
    if not is_queue_name(name):
        raise ValueError(f"must be {QUEUE_NAME}")
    return str(name)


def matching(pattern: str, what: str) -> Parser:
    """Text that fits ``pattern`` as a whole; ``what`` says so to people."""

    def parse(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {what}")
        return text

    return parse


def web_address(value: object) -> str:
    """An address that others reach by HTTP, without a slash at its end."""
    text = _text(value)
    parts = urlsplit(text)
    parts.port  # noqa: B018  # raises ValueError for one that is none
    wrong = (
        parts.scheme not in ("http", "https")
        or not is_place(parts.netloc)
        or not parts.hostname
        or parts.username is not None
    )
    if wrong or any(mark in text for mark in "?#%\\") or "/../" in f"{text}/" or not _PRINTED.fullmatch(text):
        raise ValueError("must be http:// or https:// with a host and perhaps a path, and nothing behind or before it")
    return text.rstrip("/")


def notified(value: object) -> str:
    """The URL of a webhook as it is, or a command as a JSON list: a list of words, or text that is split into such."""
    if isinstance(value, str) and re.match(r"https?://", value.strip()):
        address, mark, query = value.strip().partition("?")
        return f"{web_address(address)}{mark}{query}"
    words = value if isinstance(value, list | tuple) else _words(_text(value))
    if not words or not all(isinstance(word, str) and word and "\0" not in word for word in words):
        raise ValueError('must be the URL of a webhook, or a command: ["notify-send", "stageflow"]')
    return json.dumps(list(words))


def _words(text: str) -> list[str]:
    if text.startswith("["):
        try:
            read = json.loads(text)
        except ValueError:
            raise ValueError("begins like a list, and is no JSON") from None
        return read if isinstance(read, list) else []
    return shlex.split(text)


def one_of(*choices: str) -> Parser:
    """One of ``choices``, in capitals or not."""

    def parse(value: object) -> str:
        text = _text(value).upper()
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def word(*choices: str) -> Parser:
    """One of ``choices``, in capitals or not; for ``off``, what a TOML file says for it too."""

    def parse(value: object) -> str:
        text = "off" if value is False and "off" in choices else _text(value).lower()
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


_SWITCHED = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def switch(value: object) -> bool:
    """``on`` or ``off``, or what is usual for them in environments."""
    known = value if isinstance(value, bool) else _SWITCHED.get(_text(value).lower())
    if known is None:
        raise ValueError("must be on or off")
    return known


def secret(value: object) -> str:
    """A key of at least 16 characters."""
    text = _text(value)
    if len(text) < 16:
        make = "python -c 'import secrets; print(secrets.token_hex())'"
        raise ValueError(f"must have at least 16 characters; make one: {make}")
    return text


def secrets(value: object) -> str:
    """Several keys, with commas between them."""
    return ",".join(secret(part) for part in _text(value).split(","))


def names(value: object) -> str:
    """Names of fields, with commas between them, or a list of them."""
    given = value if isinstance(value, list | tuple) else _text(value).split(",")
    found = [_text(one) for one in given]
    wrong = next((one for one in found if not re.fullmatch(r"[\w.-]{1,100}", one)), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:100]!r} is no name of a field: letters, digits, _, - and . ; several with commas")
    return ",".join(found)


def text(value: object) -> str:
    """Text that says something."""
    given = _text(value)
    if not given:
        raise ValueError("is blank")
    return given


def directory(value: object) -> Path:
    """A directory, made absolute; it need not exist."""
    return _home(Path(value if isinstance(value, Path) else _text(value))).absolute()


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path.parts[0]} is the home directory of nobody known here") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {type(value).__name__}")
    return value.strip()
