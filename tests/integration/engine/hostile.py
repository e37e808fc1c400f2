"""Messages as somebody writes them who has a true one and bad intentions: each thing that can be wrong, and chance."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

Raw = dict[str, Any]
ODD: tuple[Any, ...] = (
    None, "", "word", "q" * 300, "a\nb\x1b[2J\x00", "\ud800", 0, -1, 2**63, 1e308, float("nan"), float("inf"), True, [],
    ["x"], [[["x"]]], {}, {"a": {"b": []}}, "9999-12-31T23:59:59", "' or 1=1 --",
)  # fmt: skip


def deep(levels: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def body_of(raw: Raw) -> Any:
    return json.loads(base64.b64decode(raw["body"]))


def with_body(raw: Raw, body: Any) -> Raw:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {**raw, "body": base64.b64encode(text).decode()}


def _header(name: str, value: Any) -> Callable[[Raw], Raw]:
    return lambda raw: {**raw, "headers": {**raw["headers"], name: value}}


def _property(name: str, value: Any) -> Callable[[Raw], Raw]:
    return lambda raw: {**raw, "properties": {**raw["properties"], name: value}}


def _place(name: str, value: Any) -> Callable[[Raw], Raw]:
    return lambda raw: _property("delivery_info", {**raw["properties"]["delivery_info"], name: value})(raw)


def _without(part: str, name: str) -> Callable[[Raw], Raw]:
    return lambda raw: {**raw, part: {key: value for key, value in raw[part].items() if key != name}}


def _argument(place: int, value: Any) -> Callable[[Raw], Raw]:
    def changed(raw: Raw) -> Raw:
        arguments, *rest = body_of(raw)
        arguments[place] = value
        return with_body(raw, [arguments, *rest])

    return changed


def _follows(name: str, value: Any) -> Callable[[Raw], Raw]:
    def changed(raw: Raw) -> Raw:
        arguments, keywords, follows = body_of(raw)
        return with_body(raw, [arguments, keywords, {**follows, name: value}])

    return changed


def bomb(raw: Raw) -> Raw:
    """A hundred megabytes in a hundred kilobytes."""
    packed = base64.b64encode(zlib.compress(b" " * 100_000_000)).decode()
    return {**raw, "body": packed, "headers": {**raw["headers"], "compression": "application/x-gzip"}}


NAMED: dict[str, Callable[[Raw], Any]] = {
    "a limit that is a word": _header("timelimit", [5, "a"]),
    "a limit of three": _header("timelimit", [1, 2, 3]),
    "a limit that is a text of two": _header("timelimit", "ab"),
    "a limit that is no number": _header("timelimit", [float("nan"), None]),
    "an id that is a list": _header("id", ["x"]),
    "an id with a line break": _header("id", "a\nCRITICAL forged"),
    "a long id": _header("id", "x" * 100_000),
    "a shadow that is a list": _header("shadow", ["x"]),
    "a shadow that forges a line": _header("shadow", "a\nCRITICAL forged"),
    "stamps that are a list": _header("stamped_headers", [["x"]]),
    "stamps that are a word": _header("stamps", "x"),
    "an eta that is a list": _header("eta", [1]),
    "an eta that is no time": _header("eta", "soon"),
    "an expiry": _header("expires", "2001-01-01T00:00:00"),
    "a group": _header("group", "g"),
    "a chord": _header("chord", {"task": "x"}),
    "retries that are a word": _header("retries", "many"),
    "retries without end": _header("retries", 10**4000),
    "no task": _without("headers", "task"),
    "a task that is a list": _header("task", ["stageflow.advance"]),
    "a task that is not there": _header("task", "no.such.task"),
    "no id": _without("headers", "id"),
    "deep headers": _header("more", deep(700)),
    "deeper headers": _header("more", deep(900)),
    "headers that are a list": lambda raw: {**raw, "headers": ["x"]},
    "no headers": lambda raw: {**raw, "headers": None},
    "no properties": lambda raw: {**raw, "properties": None},
    "no delivery tag": _without("properties", "delivery_tag"),
    "a delivery tag that is a list": _property("delivery_tag", ["x"]),
    "no delivery info": _without("properties", "delivery_info"),
    "delivery info that is a word": _property("delivery_info", "x"),
    "another routing key": _place("routing_key", "q" * 300),
    "a routing key that is a list": _place("routing_key", ["x"]),
    "an exchange that is not there": _place("exchange", "nowhere"),
    "an exchange that is a list": _place("exchange", ["x"]),
    "redelivered, by a list": _place("redelivered", ["x"]),
    "a priority that is a word": _property("priority", "high"),
    "a priority without end": _property("priority", 10**30),
    "a reply to a list": _property("reply_to", ["x"]),
    "an unknown encoding": _property("body_encoding", "rot13"),
    "an encoding that is a list": _property("body_encoding", ["base64"]),
    "a body that is no base64": lambda raw: {**raw, "body": "%"},
    "a body that is a list": lambda raw: {**raw, "body": ["x"]},
    "a body that is no JSON": lambda raw: with_body(raw, b"\xff\xfe{"),
    "a body of another type": lambda raw: {**raw, "content-type": "application/x-python-serialize"},
    "a type that is a list": lambda raw: {**raw, "content-type": ["x"]},
    "a body of two": lambda raw: with_body(raw, [[], {}]),
    "a body that is a word": lambda raw: with_body(raw, "word"),
    "keywords that are a list": lambda raw: with_body(raw, [body_of(raw)[0], [], {}]),
    "a keyword": lambda raw: with_body(raw, [body_of(raw)[0], {"run_id": "x"}, {}]),
    "a deep body": lambda raw: with_body(raw, [[deep(800)], {}, {}]),
    "a body too deep to read": lambda raw: with_body(raw, b"[" * 100_000 + b"]" * 100_000),
    "a large body": lambda raw: with_body(raw, [["x" * 5_000_000], {}, {}]),
    "no arguments": lambda raw: with_body(raw, [[], {}, {}]),
    "five arguments": lambda raw: with_body(raw, [[*body_of(raw)[0], "x"], {}, {}]),
    "a run that is a list": _argument(0, ["x"]),
    "a run with a NUL": _argument(0, "0" * 25 + "\x00"),
    "a long run": _argument(0, "x" * 100_000),
    "a strand with a NUL": _argument(1, "s\x00"),
    "a strand that is a list": _argument(1, ["s1"]),
    "a fence that is a word": _argument(2, "1"),
    "a fence without end": _argument(2, 10**30),
    "a fence that is true": _argument(2, True),
    "a mark that is a list": _argument(3, ["1.0"]),
    "a mark with a NUL": _argument(3, "1.0\x00"),
    "a hint without end": _argument(3, "1.0 " + "x" * 100_000),
    "a callback": _follows("callbacks", [{"task": "celery.ping", "args": [], "kwargs": {}, "options": {}}]),
    "an errback": _follows("errbacks", [{"task": "x"}]),
    "a chain that is a word": _follows("chain", "x"),
    "a chain of something else": _follows("chain", [{"task": "celery.ping", "args": [], "kwargs": {}, "options": {}}]),
    "an unknown compression": _header("compression", "rar"),
    "a compression that is a list": _header("compression", ["gzip"]),
    "a body that does not expand": _header("compression", "application/x-gzip"),
    "a bomb": bomb,
    "a list": lambda _raw: ["x"],
    "a number": lambda _raw: 5,
    "null": lambda _raw: None,
}

TEXTS = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "too deep to read": b"[" * 100_000,
    "an odd type": b'{"__type__": "uuid", "__value__": 5}',
    "an odd moment": b'{"__type__": "datetime", "__value__": "yesterday"}',
    "a number of many digits": b"9" * 10_000,
}


def by_chance(true: Raw, seed: int, count: int) -> Iterator[Any]:
    """True messages in which one or two values, anywhere, are something else."""
    random = Random(seed)
    for number in range(count):
        raw = deepcopy(true)
        raw["properties"]["delivery_tag"] = f"tag-{seed}-{number}"
        for _ in range(random.randint(1, 2)):
            _change(raw, random)
        yield raw


def _change(raw: Raw, random: Random) -> None:
    if random.random() < 0.3:
        body = body_of(raw) if isinstance(raw.get("body"), str) else None
        if isinstance(body, list) and body:
            target: Any = body
            while (inner := [value for value in _values(target) if isinstance(value, dict | list) and value]) and (
                random.random() < 0.7
            ):
                target = random.choice(inner)
            _set(target, random)
            raw.update(with_body(raw, body))
        return
    target = raw
    while (
        inner := [value for value in _values(target) if isinstance(value, dict) and value]
    ) and random.random() < 0.8:
        target = random.choice(inner)
    _set(target, random)


def _values(target: Any) -> list[Any]:
    return list(target.values()) if isinstance(target, dict) else list(target)


def _set(target: Any, random: Random) -> None:
    key = random.choice(list(target)) if isinstance(target, dict) else random.randrange(len(target))
    if isinstance(target, dict) and random.random() < 0.2:
        del target[key]
    else:
        target[key] = random.choice(ODD)
