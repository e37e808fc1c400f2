"""Fingerprints: equal for equal parameters whoever sends them, different for others, and the difference has a name."""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stageflow_durable.codec import (
    canonical,
    decode,
    differing_fields,
    encode,
    encode_and_fingerprint,
    fingerprint,
    freeze,
    writing,
)
from stageflow_durable.codec.canonical import _tree, _write_sorted
from stageflow_durable.errors import UnsavableValue
from tests.unit.test_codec import values

AT = datetime(2024, 1, 1, 12, tzinfo=UTC)
PARIS = timezone(timedelta(hours=1))


# Floats, and texts that look like some.
_texts = st.text(" .0e+1,}]", max_size=6)
numbers = st.recursive(
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9).map(float) | _texts,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(_texts, some, max_size=3),
)


class Size(enum.Enum):
    BIG = "big"
    BOTH = (1.0, "x")


def reordered(value: Any) -> Any:
    """The same with every dict written in the other order."""
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(values)
def test_given_another_order_of_keys_then_the_fingerprint_is_equal(value: Any) -> None:
    assert fingerprint(reordered(value)) == fingerprint(value)


@given(values)
def test_given_a_value_that_was_saved_and_read_then_the_fingerprint_is_equal(value: Any) -> None:
    assert fingerprint(decode(encode(value))) == fingerprint(value)
    assert differing_fields(decode(encode(value)), value) == ()


@given(values)
def test_given_a_frozen_value_then_the_fingerprint_is_equal(value: Any) -> None:
    assert fingerprint(freeze(value)) == fingerprint(value)


@given(values | numbers)
@example([1.0, -0.0, 1e16, 1.5e300, 1e-7, 0.05, 10.01, "1.0", "1e+16", {"1.0": 2.5}])
def test_given_a_value_then_the_quick_way_comes_to_what_the_careful_one_does(value: Any) -> None:
    assert canonical(value).decode() == _write_sorted(_tree(value))


@given(values)
def test_given_a_value_when_both_are_asked_for_then_they_are_what_each_is_alone(value: Any) -> None:
    assert encode_and_fingerprint(value) == (encode(value), fingerprint(value))


@pytest.mark.parametrize("value", [{"b": 1, "a": [True, None]}, {"n": 10**30}, {"t": "\ud83d\ude00\x00é"}, {"f": 2.0}])
def test_given_json_when_both_are_asked_for_then_they_are_what_each_is_alone(value: Any) -> None:
    assert encode_and_fingerprint(value) == (encode(value), fingerprint(value))


@pytest.mark.parametrize(
    "value", [{"n": float("nan")}, {"n": 10**5000}, {"o": [object()]}], ids=["nan", "long", "object"]
)
def test_given_what_cannot_be_saved_when_both_are_asked_for_then_it_is_named_as_alone(value: Any) -> None:
    with pytest.raises(UnsavableValue) as alone:
        fingerprint(value)
    with pytest.raises(UnsavableValue) as both:
        encode_and_fingerprint(value)
    assert str(both.value) == str(alone.value)


@given(values)
def test_given_a_python_without_the_encoder_in_c_then_the_texts_are_the_same(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "c_make_encoder", None)
        plain = writing.json_writer(writing.tagged)
    tree = writing.tagged(value)
    assert plain(tree) == writing.write_json(tree)


@given(values, values)
def test_given_two_values_then_fields_differ_exactly_when_fingerprints_do(a: Any, b: Any) -> None:
    assert (differing_fields(a, b) == ()) == (fingerprint(a) == fingerprint(b))


@given(st.integers(-(2**53), 2**53))
def test_given_a_whole_float_then_it_equals_the_integer(number: int) -> None:
    assert canonical({"n": float(number)}) == canonical({"n": number})


@given(st.integers())
def test_given_a_big_integer_then_its_neighbour_differs(number: int) -> None:
    assert fingerprint(number * 10**30) != fingerprint(number * 10**30 + 1)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (0, -0.0),
        (10**22, 1e22),
        ([1.0], [1]),
        ({"a": {"b": 2.0}}, {"a": {"b": 2}}),
        ((1, 2), [1, 2]),
        ({1.0: "x"}, {1: "x"}),
        ({(1.0,): 2}, {(1,): 2}),
        ({1, 2}, frozenset({2.0, 1})),
        (Size.BIG, "big"),
        (Size.BOTH, [1, "x"]),
        ({Size.BIG: 1}, {"big": 1}),
        ({Size.BOTH: 1, 3: 2}, {3: 2, (1, "x"): 1}),
        ({2: "b", "a": 1}, OrderedDict([("a", 1), (2, "b")])),
        (AT, AT.astimezone(PARIS)),
        (Decimal("1.10"), Decimal("1.1")),
        (Decimal("100"), Decimal("1E+2")),
        (Decimal("-0"), Decimal("0.00")),
        ({"$sf": 1, "a": 2}, {"a": 2, "$sf": 1.0}),
        ({"a": 1, "b": 2.0}, {"b": 2, "a": 1}),
    ],
    ids=ascii,
)
def test_given_equal_parameters_then_the_fingerprints_are_equal(a: Any, b: Any) -> None:
    assert fingerprint(a) == fingerprint(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (0, False),
        (0, None),
        ("", None),
        ([], {}),
        ([], None),
        (1, "1"),
        ({1: 2}, {"1": 2}),
        (10**40, 10**40 + 1),
        (10**22 + 1, 1e22),
        (0.1, 0.1 + 2**-56),
        ({"a": None}, {}),
        ([1, 2], [2, 1]),
        (b"a", "a"),
        ({1}, [1]),
        ("é", "e\u0301"),
        (AT, AT.replace(tzinfo=None)),
        (AT, AT.isoformat()),
        (Decimal("0.1"), 0.1),
        (Decimal("1" * 40), Decimal("1" * 39 + "2")),
        ("😀", "\ud83d\ude00"),
        ({1}, {"$sf": "set", "v": [1]}),
        ([1], [1, 1]),
    ],
    ids=ascii,
)
def test_given_other_parameters_then_the_fingerprints_differ(a: Any, b: Any) -> None:
    assert fingerprint(a) != fingerprint(b)
    assert differing_fields({"field": a}, {"field": b}) != ()


def test_given_parameters_then_the_canonical_text_is_sorted_and_bare() -> None:
    assert canonical({"b": [1.0, "é"], "a": True}) == b'{"a":true,"b":[1,"\\u00e9"]}'
    assert fingerprint({}) == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize(
    "edge",
    [
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_given_an_instant_at_the_edge_of_the_calendar_then_it_has_a_fingerprint(edge: datetime) -> None:
    assert fingerprint(edge) == fingerprint(decode(encode(edge)))


@pytest.mark.parametrize(
    ("a", "b", "fields"),
    [
        ({"a": 1}, {"a": 1.0}, ()),
        ({"a": 1}, {"a": True}, ("a",)),
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 0, "d": 4}}, ("b.c", "b.d")),
        ({"a": 1}, {"b": 1}, ("a", "b")),
        ({"a": {"x": {"y": 1}}}, {}, ("a",)),
        ({"a": None}, {}, ("a",)),
        ({"lines": [{"n": 1}, {"n": 2}]}, {"lines": [{"n": 1}, {"n": 3}, {}]}, ("lines[1].n", "lines[2]")),
        ({"a": [1]}, {"a": {"0": 1}}, ("a",)),
        ({"a": {1, 2}}, {"a": {1, 3}}, ("a",)),
        ({"odd key": 1, "a.b": 1}, {}, ("['a.b']", "['odd key']")),
        ({"a": {1: 2}}, {"a": {1: 3}}, ("a",)),
        (1, 2, ("value",)),
        ([1], [2], ("[0]",)),
    ],
)
def test_given_two_parameter_sets_then_the_differing_paths_are_named(a: Any, b: Any, fields: tuple[str, ...]) -> None:
    assert differing_fields(a, b) == fields
    assert differing_fields(b, a) == fields


def test_given_many_differences_then_the_first_ten_are_named() -> None:
    a = {f"field{number:02}": number for number in range(30)}

    assert differing_fields(a, {}) == tuple(f"field{number:02}" for number in range(10))
