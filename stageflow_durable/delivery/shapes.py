"""What a message has to look like before a worker uses anything of it. Pure: each check gives the reason, or None.

Whoever reaches the broker writes headers, properties and delivery info as he likes, and a worker's parent uses them
long before a task could look: in its books of what is unacknowledged, in its timers, in what it sends to its children.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DEPTH = 500
"""Lists in lists. Python reads some 900 of them, and ends in the middle of passing them on."""

OUR_DEPTH = 12
OUR_BYTES = 65_536
"""Of the body of a message of ours: ids, and those of the rest of a chain."""

EXPANDED_BYTES = 64 * 1024 * 1024
"""Of a compressed body, once it is expanded."""

TEXT = 255
"""Characters of a name."""

Reason = str | None
_TEXTS = frozenset({str, type(None)})
_COUNTS = frozenset({int, type(None)})
_NESTED = frozenset({dict, list})


def is_text(value: object, most: int = TEXT) -> bool:
    """Whether it is text of 1 to ``most`` characters, none of which a log or a database could take for a sign."""
    return type(value) is str and 0 < len(value) <= most and value.isprintable()


def envelope(raw: object) -> Reason:
    """Of a message as a Redis-like broker keeps it: what kombu uses before anybody is asked."""
    if not isinstance(raw, dict):
        return f"a {type(raw).__name__}, no message"
    properties = raw.get("properties")
    if not isinstance(properties, dict):
        return "its properties are missing"
    if not is_text(properties.get("delivery_tag")):
        return "its delivery tag is no text"
    return (
        _texts(raw, ("body", "content-type", "content-encoding"))
        or _texts(properties, ("body_encoding",))
        or place(properties.get("delivery_info"))
        or _flat(properties)
        or described(raw.get("headers"))
    )


def _texts(values: Mapping[str, Any], names: tuple[str, ...]) -> Reason:
    """The first of these that is given, and is no text."""
    for name in names:
        if type(values.get(name)) not in _TEXTS:
            return f"{name} is no text"
    return None


def place(info: object) -> Reason:
    """Of where a message was sent to: it is put back there."""
    if not isinstance(info, dict) or "exchange" not in info or "routing_key" not in info:
        return "it does not say where it was sent to"
    return _texts(info, ("exchange", "routing_key"))


def described(headers: object) -> Reason:
    """Of a message's headers (or of a whole message of Celery's first protocol), whatever task it is for: what Celery
    uses outside of where it expects mistakes. What it may leave out may be left out.
    """
    if headers is None:
        return None
    if not isinstance(headers, dict):
        return f"its headers are a {type(headers).__name__}"
    if not _is_limit(headers.get("timelimit")):
        return "timelimit is not two numbers"
    stamps, of = headers.get("stamps"), headers.get("stamped_headers")
    if not (isinstance(stamps, dict | None) and _are_texts(of)):
        return "its stamps cannot be read"
    return _texts(headers, ("id", "task", "shadow", "compression")) or _flat(headers)


def _are_texts(values: object) -> bool:
    return values is None or (isinstance(values, list) and all(isinstance(value, str) for value in values))


def _is_limit(value: object) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list | tuple) and len(value) == 2 and all(part is None or is_number(part) for part in value)
    )


def is_number(value: object) -> bool:
    """Whether a timer can wait that long."""
    return isinstance(value, int | float) and -1e12 < value < 1e12 and not math.isnan(value)


def _flat(values: Mapping[str, Any]) -> Reason:
    for value in values.values():
        if type(value) in _NESTED and is_deeper(value, DEPTH):
            return "it is nested too deeply"
    return None


def is_deeper(value: object, than: int) -> bool:
    """Whether lists and mappings stand in one another more than ``than`` times. Does not recurse."""
    level: list[Any] = [value]
    for _ in range(than + 1):
        inside: list[Any] = []
        for outer in level:
            for inner in outer.values() if type(outer) is dict else outer:
                if type(inner) in _NESTED:
                    inside.append(inner)  # noqa: PERF401  # one that is built of two loops is slower
        if not inside:
            return False
        level = inside
    return True


def may_be_deep(body: bytes | str | None) -> bool:
    """Whether a body has enough brackets to be nested too deeply: to look there costs."""
    if isinstance(body, bytes):
        return body.count(b"[") + body.count(b"{") > DEPTH
    return isinstance(body, str) and body.count("[") + body.count("{") > DEPTH


_UNSAID = ("shadow", "group", "chord", "taskset")
_SENT_BY = ("root_id", "parent_id")
_ANSWERED_TO = ("reply_to", "correlation_id")
_SHORT = ("argsrepr", "kwargsrepr", "origin", "lang")
_SAID = ("eta", "expires", *_SHORT)


def ours(headers: Mapping[str, Any], properties: Mapping[str, Any], *, expires: bool) -> Reason:
    """Of a message for a task of ours, once :func:`described` has nothing against it. ``expires``: it may."""
    if not is_text(headers.get("id")):
        return "its id is no text of 1 to 255 characters"
    if headers.get("expires") is not None and not expires:
        return "it expires, which a message of ours does not"
    if type(headers.get("retries")) not in _COUNTS or type(properties.get("priority")) not in _COUNTS:
        return "retries or priority is no number"
    if not 0 <= (headers.get("retries") or 0) < 1_000_000:
        return "retries is no number that Celery would come to"
    return (
        _none(headers, _UNSAID)
        or _texts(headers, _SAID)
        or _names(headers, _SENT_BY)
        or _names(properties, _ANSWERED_TO)
        or _short(headers)
    )


def _none(values: Mapping[str, Any], names: tuple[str, ...]) -> Reason:
    for name in names:
        if values.get(name):
            return f"it has a {name}, which no message of ours has"
    return None


def _names(values: Mapping[str, Any], names: tuple[str, ...]) -> Reason:
    for name in names:
        value = values.get(name)
        if value is not None and not is_text(value, 4 * TEXT):
            return f"{name} is no id"
    return None


def _short(headers: Mapping[str, Any]) -> Reason:
    for name in _SHORT:
        if len(headers.get(name) or "") > 4 * TEXT:
            return f"{name} is too long"
    return None


def body_of_ours(body: object, payload: object) -> Reason:
    """Of the body of a message for a task of ours, and of what it was read as."""
    if isinstance(body, bytes | str) and len(body) > OUR_BYTES:
        return f"its body has {len(body)} bytes"
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        return "its body is not arguments, keywords and what follows"
    arguments, keywords, follows = payload
    fine = isinstance(arguments, list | tuple) and isinstance(keywords, dict) and isinstance(follows, dict | None)
    if not fine:
        return "its body is not arguments, keywords and what follows"
    if is_deeper(list(payload), OUR_DEPTH):
        return "its body is nested too deeply"
    return _none(follows or {}, ("callbacks", "errbacks", "chord"))
