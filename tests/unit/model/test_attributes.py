"""What a run may be found by: few names, each with a short text."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.attributes import LONGEST_NAME, LONGEST_VALUE, MOST, checked


def test_values_become_text_and_names_are_sorted() -> None:
    given = {"order": "A-1", "count": 3, "express": True, "a.b-c_d": "ü"}
    assert checked(given, "enqueue") == (("a.b-c_d", "ü"), ("count", "3"), ("express", "true"), ("order", "A-1"))


@pytest.mark.parametrize("none", [None, {}])
def test_none_are_none(none: Any) -> None:
    assert checked(none, "enqueue") == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([("order", "A-1")], "attributes: list given"),
        ("order=A-1", "attributes: str given"),
        ({f"a{n}": "1" for n in range(MOST + 1)}, "attributes: 21 given, at most 20"),
        ({"": "1"}, "attributes: '' is no name"),
        ({"1st": "1"}, "attributes: '1st' is no name"),
        ({"a b": "1"}, "attributes: 'a b' is no name"),
        ({"a\n": "1"}, "is no name"),
        ({"a" * (LONGEST_NAME + 1): "1"}, "is no name"),
        ({1: "1"}, "attributes: int is no name"),
        ({"a": ""}, "attributes.a: 1 to 255"),
        ({"a": "x" * (LONGEST_VALUE + 1)}, "attributes.a: 1 to 255"),
        ({"a": "x\x00"}, "attributes.a: 1 to 255"),
        ({"a": "\ud800"}, "attributes.a: 1 to 255"),
        ({"a": "\u202e"}, "attributes.a: 1 to 255"),
        ({"a": 1.5}, "attributes.a: float given"),
        ({"a": None}, "attributes.a: NoneType given"),
        ({"a": {"b": "c"}}, "attributes.a: dict given"),
        ({"a": 10**5000}, "attributes.a"),
    ],
)
def test_what_cannot_be_stored_or_found_is_refused_by_name(given: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        checked(given, "enqueue")
    assert says in str(refused.value)


def test_all_that_is_wrong_is_said_together() -> None:
    with pytest.raises(InvalidInput) as refused:
        checked({"a": 1.5, "b": ""}, "enqueue")
    assert "attributes.a" in str(refused.value)
    assert "attributes.b" in str(refused.value)
