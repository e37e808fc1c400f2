"""JSON Schema, as far as it describes what a wait takes: whether a schema can be used, and what is wrong with a value.

It has the keywords of draft 2020-12 that say something about one value, and references within the schema. A schema with
any other keyword is refused where it is declared, so that none is ignored. Annotations (titles, descriptions, formats)
say nothing about a value; they are left out of what is stored. ``"sensitive": true`` is one that is kept: people are
not shown what stands there (:func:`without_sensitive`). What is wrong is said without the value, which may be secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

ANNOTATIONS = frozenset(
    {
        *("title", "description", "default", "examples", "format", "deprecated", "readOnly", "writeOnly"),
        *("$comment", "$schema", "$id", "discriminator", "contentEncoding", "contentMediaType"),
    }
)
"""Keywords that demand nothing."""

MOST_PROBLEMS = 20
"""How many problems of one value are listed."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": _is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}
_SCHEMAS = ("not", "if", "then", "else", "items", "contains", "propertyNames", "additionalProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_TABLES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OTHERS = ("type", "enum", "const", "required", "pattern", "uniqueItems", "$ref", "dependentRequired", "sensitive")
KEYWORDS = frozenset({*_SCHEMAS, *_LISTS, *_TABLES, *_COUNTS, *_BOUNDS, *_OTHERS})


# --- a schema as it was declared --------------------------------------------------------------------------------------


def stored(schema: Any) -> str:
    """The schema as canonical JSON, without its annotations: two that demand the same of a value are the same text."""
    return json.dumps(_bare(schema), sort_keys=True, separators=(",", ":"))


def _bare(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for name, given in schema.items():
        if name in ANNOTATIONS:
            continue
        if name in _TABLES:
            found[name] = {key: _bare(one) for key, one in given.items()}
        elif name in _LISTS:
            found[name] = [_bare(one) for one in given]
        else:
            found[name] = _bare(given) if name in _SCHEMAS else given
    return found


def mistakes(schema: Any) -> list[str]:
    """What is wrong with a schema, each with where it stands; empty where it can be used."""
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        return [f"it is no JSON: {type(error).__name__}"]
    if not isinstance(schema, Mapping):
        return ["it has to be a JSON object, as in {'type': 'object'}"]
    return list(_mistakes(schema, schema, ""))


def _mistakes(schema: Any, root: Mapping[str, Any], at: str) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{at or 'schema'}: a schema is a JSON object, or true or false"
        return
    for name, given in schema.items():
        here = f"{at}/{name}"
        if name in _SCHEMAS:
            yield from _mistakes(given, root, here)
        elif name in _LISTS:
            yield from _mistakes_of_list(given, root, here)
        elif name in _TABLES:
            yield from _mistakes_of_table(given, root, here, patterns=name == "patternProperties")
        elif name not in ANNOTATIONS:
            yield from _mistake(name, given, root, here)


def _mistakes_of_list(given: Any, root: Mapping[str, Any], at: str) -> Iterator[str]:
    if not isinstance(given, list) or not given:
        yield f"{at}: a list of schemas"
        return
    for number, one in enumerate(given):
        yield from _mistakes(one, root, f"{at}/{number}")


def _mistakes_of_table(given: Any, root: Mapping[str, Any], at: str, *, patterns: bool) -> Iterator[str]:
    if not isinstance(given, Mapping):
        yield f"{at}: a JSON object of schemas"
        return
    for key, one in given.items():
        yield from _mistakes(one, root, f"{at}/{key}")
        if patterns and not _compiles(key):
            yield f"{at}/{key}: it is no regular expression"


def _mistake(name: str, given: Any, root: Mapping[str, Any], at: str) -> Iterator[str]:
    if name not in KEYWORDS:
        yield f"{at}: this keyword is not known here"
    elif name == "$ref":
        if not isinstance(given, str) or _referred(root, given) is None:
            yield f"{at}: {given!r} is not in this schema; a reference looks like '#/$defs/Name'"
    elif not _FITS.get(name, _is_count if name in _COUNTS else _is_number)(given):
        yield f"{at}: {json.dumps(given)[:60]} is not what this keyword takes"


def _is_count(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 0


def _is_names(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(name, str) for name in given)


def _compiles(given: Any) -> bool:
    try:
        re.compile(given)
    except (re.error, TypeError):
        return False
    return True


def _are_kinds(given: Any) -> bool:
    return bool(given) and all(isinstance(kind, str) and kind in _KINDS for kind in _listed(given))


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "type": _are_kinds,
    "enum": lambda given: isinstance(given, list) and bool(given),
    "const": lambda _given: True,
    "required": _is_names,
    "pattern": lambda given: isinstance(given, str) and _compiles(given),
    "uniqueItems": lambda given: isinstance(given, bool),
    "sensitive": lambda given: isinstance(given, bool),
    "dependentRequired": lambda given: isinstance(given, Mapping) and all(map(_is_names, given.values())),
    "multipleOf": lambda given: _is_number(given) and given > 0,
}


def _listed(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [given]


def _referred(root: Mapping[str, Any], reference: str) -> Any:
    """What a reference within the schema leads to; None if nothing."""
    if reference == "#":
        return root
    found: Any = root
    for part in reference.removeprefix("#/").split("/") if reference.startswith("#/") else [""]:
        key = part.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


# --- a value ----------------------------------------------------------------------------------------------------------


def problems(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What is wrong with a JSON value, ``path: what`` each; empty where it fits."""
    try:
        return list(islice(_Check(schema).of(schema, value, ""), MOST_PROBLEMS))
    except RecursionError:  # of a schema that refers to itself
        return ["value: it is nested too deeply"]


class _Check:
    """Checks values against a schema. ``root``: the whole of it, to which references lead."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def _fits(self, schema: Any, value: Any) -> bool:
        return next(self.of(schema, value, ""), None) is None

    def of(self, schema: Any, value: Any, at: str) -> Iterator[str]:
        """Each thing that is wrong with ``value``, which stands at ``at``."""
        if isinstance(schema, bool):
            yield from () if schema else (_said(at, "nothing may stand here"),)
        elif "type" in schema and not any(_KINDS[kind](value) for kind in _listed(schema["type"])):
            yield _said(at, f"{' or '.join(_listed(schema['type']))} is needed")
        else:
            yield from self._chosen(schema, value, at)
            yield from self._combined(schema, value, at)
            yield from self._inside(schema, value, at)

    def _chosen(self, schema: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
        if "$ref" in schema:
            yield from self.of(_referred(self._root, schema["$ref"]), value, at)
        if "const" in schema and not _same(schema["const"], value):
            yield _said(at, f"only {json.dumps(schema['const'])} is allowed")
        if "enum" in schema and not any(_same(one, value) for one in schema["enum"]):
            yield _said(at, f"one of {', '.join(map(json.dumps, schema['enum']))} is needed")

    def _inside(self, schema: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
        if isinstance(value, str):
            yield from _of_text(schema, value, at)
        elif isinstance(value, list):
            yield from self._of_array(schema, value, at)
        elif isinstance(value, Mapping):
            yield from self._of_object(schema, value, at)
        elif _is_number(value):
            yield from _of_number(schema, value, at)

    def _combined(self, schema: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
        for one in schema.get("allOf", ()):
            yield from self.of(one, value, at)
        if "anyOf" in schema and not any(self._fits(one, value) for one in schema["anyOf"]):
            yield from self._nearest(schema["anyOf"], value, at)
        if "oneOf" in schema:
            fitting = sum(self._fits(one, value) for one in schema["oneOf"])
            if not fitting:
                yield from self._nearest(schema["oneOf"], value, at)
            elif fitting > 1:
                yield _said(at, "it fits more than one of the schemas of which exactly one is needed")
        if "not" in schema and self._fits(schema["not"], value):
            yield _said(at, "it fits the schema that it must not fit")
        if "if" in schema:
            branch = "then" if self._fits(schema["if"], value) else "else"
            yield from self.of(schema.get(branch, True), value, at)

    def _nearest(self, schemas: Sequence[Any], value: Any, at: str) -> Iterator[str]:
        """What is wrong by the one of several schemas that comes nearest."""
        each = [list(self.of(one, value, at)) for one in schemas]
        kinds = [kind for one in schemas if isinstance(one, Mapping) for kind in _listed(one.get("type", []))]
        deep = [found for found in each if not all(problem.startswith(f"{at or 'value'}: ") for problem in found)]
        if deep or len(kinds) < len(schemas):
            yield from min(deep or each, key=len)
        else:
            yield _said(at, f"{' or '.join(dict.fromkeys(kinds))} is needed")

    def _of_array(self, schema: Mapping[str, Any], value: list[Any], at: str) -> Iterator[str]:
        yield from _counted(schema, len(value), "Items", "items", at)
        first = schema.get("prefixItems", [])
        for number, one in enumerate(value):
            each = first[number] if number < len(first) else schema.get("items", True)
            yield from self.of(each, one, _below(at, str(number)))
        if "contains" in schema and not any(self._fits(schema["contains"], one) for one in value):
            yield _said(at, "none of its items is what is needed")
        texts = [json.dumps(_number_apart(one), sort_keys=True) for one in value] if schema.get("uniqueItems") else []
        if len(set(texts)) < len(texts):
            yield _said(at, "its items have to differ")

    def _of_object(self, schema: Mapping[str, Any], value: Mapping[str, Any], at: str) -> Iterator[str]:
        yield from _counted(schema, len(value), "Properties", "fields", at)
        needed = [*schema.get("required", ())]
        needed += [one for name, also in schema.get("dependentRequired", {}).items() if name in value for one in also]
        yield from (_said(_below(at, name), "it is missing") for name in dict.fromkeys(needed) if name not in value)
        for name, one in schema.get("dependentSchemas", {}).items():
            yield from self.of(one, value, at) if name in value else ()
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, one in value.items():
            known = [named[name]] if name in named else []
            known += [each for pattern, each in patterns.items() if re.search(pattern, name)]
            if "propertyNames" in schema and not self._fits(schema["propertyNames"], name):
                yield _said(_below(at, name), "a field may not be called so")
            if not known and schema.get("additionalProperties") is False:
                yield _said(_below(at, name), "there is no such field")
                continue
            for each in known or [schema.get("additionalProperties", True)]:
                yield from self.of(each, one, _below(at, name))


def _of_text(schema: Mapping[str, Any], value: str, at: str) -> Iterator[str]:
    yield from _counted(schema, len(value), "Length", "characters", at)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield _said(at, f"it has to match {schema['pattern']}")


def _of_number(schema: Mapping[str, Any], value: float, at: str) -> Iterator[str]:
    for name, holds, words in (
        ("minimum", lambda bound: value >= bound, "at least"),
        ("maximum", lambda bound: value <= bound, "at most"),
        ("exclusiveMinimum", lambda bound: value > bound, "more than"),
        ("exclusiveMaximum", lambda bound: value < bound, "less than"),
        ("multipleOf", lambda step: _is_whole(value, step), "a multiple of"),
    ):
        if name in schema and not holds(schema[name]):
            yield _said(at, f"it has to be {words} {schema[name]}")


def _is_whole(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    return abs(value / step - round(value / step)) < 1e-9  # as binary fractions 0.3 is not 3 times 0.1


def _counted(schema: Mapping[str, Any], count: int, of: str, what: str, at: str) -> Iterator[str]:
    if count < schema.get(f"min{of}", 0):
        yield _said(at, f"at least {schema[f'min{of}']} {what} are needed")
    if f"max{of}" in schema and count > schema[f"max{of}"]:
        yield _said(at, f"at most {schema[f'max{of}']} {what} are allowed")


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and is not true."""
    return bool(_number_apart(one) == _number_apart(other))


def _number_apart(value: Any) -> Any:
    if isinstance(value, bool):
        return ["a boolean", str(value)]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_number_apart(one) for one in value]
    return {name: _number_apart(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def _below(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _said(at: str, what: str) -> str:
    return f"{at or 'value'}: {what}"


# --- what people are shown of it --------------------------------------------------------------------------------------


def without_sensitive(schema: str, value: Any, hidden: str) -> Any:
    """``value`` with ``hidden`` in the place of all that the schema calls sensitive in any of its alternatives."""
    if '"sensitive":true' not in schema:  # as :func:`stored` writes it
        return value
    root = json.loads(schema)
    return _Hide(root, hidden).of([root], value)


class _Hide:
    """Walks a value once, with all the schemas that may describe each part of it."""

    def __init__(self, root: Mapping[str, Any], hidden: str) -> None:
        self._root = root
        self._hidden = hidden

    def of(self, schemas: Iterable[Any], value: Any) -> Any:
        """``value`` as people see it, by any of these schemas."""
        known = self._with_alternatives(schemas)
        if any(one.get("sensitive") is True for one in known):
            return value if value is None else self._hidden
        if not known:
            return value
        if isinstance(value, Mapping):
            return {name: self.of(_of_field(known, str(name)), part) for name, part in value.items()}
        if isinstance(value, list):
            return [self.of(_of_item(known, number), one) for number, one in enumerate(value)]
        return value

    def _with_alternatives(self, schemas: Iterable[Any]) -> list[Mapping[str, Any]]:
        """These schemas and all that they refer to, or that stand beside them as alternatives; each once."""
        found: dict[int, Mapping[str, Any]] = {}
        waiting = [*schemas]
        while waiting:
            one = waiting.pop()
            if not isinstance(one, Mapping) or id(one) in found:
                continue
            found[id(one)] = one
            if "$ref" in one:
                waiting.append(_referred(self._root, one["$ref"]))
            waiting += [each for name in ("allOf", "anyOf", "oneOf") for each in one.get(name, ())]
            waiting += [one[name] for name in ("if", "then", "else") if name in one]
            waiting += one.get("dependentSchemas", {}).values()
        return [*found.values()]


def _of_field(known: Iterable[Mapping[str, Any]], name: str) -> Iterator[Any]:
    for schema in known:
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        fitting = [named[name]] if name in named else []
        fitting += [each for pattern, each in patterns.items() if re.search(pattern, name)]
        yield from fitting or [schema.get("additionalProperties")]


def _of_item(known: Iterable[Mapping[str, Any]], number: int) -> Iterator[Any]:
    for schema in known:
        first = schema.get("prefixItems", [])
        yield first[number] if number < len(first) else schema.get("items")
        yield schema.get("contains")
