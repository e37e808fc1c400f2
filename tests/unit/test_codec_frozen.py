"""Frozen values equal the plain ones and refuse every change."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from stageflow_durable.codec import FrozenDict, FrozenList, FrozenSet, freeze
from tests.unit.test_codec import exactly, values


@given(values)
def test_given_any_value_when_frozen_then_it_equals_the_plain_one(value: Any) -> None:
    assert freeze(value) == value


@given(values)
def test_given_a_frozen_value_when_copied_deep_or_pickled_then_it_is_plain_again(value: Any) -> None:
    assert exactly(copy.deepcopy(freeze(value))) == exactly(value)
    assert exactly(pickle.loads(pickle.dumps(freeze(value)))) == exactly(value)


def add_in_place(value: Any) -> None:
    value += [1]


def multiply_in_place(value: Any) -> None:
    value *= 2


def merge_in_place(value: Any) -> None:
    value |= value


def subtract_in_place(value: Any) -> None:
    value -= value


def intersect_in_place(value: Any) -> None:
    value &= value


def differ_in_place(value: Any) -> None:
    value ^= value


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.__setitem__("k", 1),
        lambda value: value.__delitem__("k"),
        lambda value: value.update(k=1),
        lambda value: value.pop("k"),
        lambda value: value.popitem(),
        lambda value: value.setdefault("k", 1),
        lambda value: value.clear(),
        merge_in_place,
    ],
)
def test_given_a_frozen_dict_when_changed_then_it_refuses(change: Callable[[Any], object]) -> None:
    frozen = freeze({"k": 0})
    with pytest.raises(TypeError, match="frozen"):
        change(frozen)
    assert frozen == {"k": 0}


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.__setitem__(0, 1),
        lambda value: value.__delitem__(0),
        lambda value: value.append(1),
        lambda value: value.extend([1]),
        lambda value: value.insert(0, 1),
        lambda value: value.pop(),
        lambda value: value.remove(0),
        lambda value: value.clear(),
        lambda value: value.sort(),
        lambda value: value.reverse(),
        add_in_place,
        multiply_in_place,
    ],
)
def test_given_a_frozen_list_when_changed_then_it_refuses(change: Callable[[Any], object]) -> None:
    frozen = freeze([0])
    with pytest.raises(TypeError, match="frozen"):
        change(frozen)
    assert frozen == [0]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.add(1),
        lambda value: value.discard(0),
        lambda value: value.remove(0),
        lambda value: value.pop(),
        lambda value: value.clear(),
        lambda value: value.update({1}),
        lambda value: value.difference_update({0}),
        lambda value: value.intersection_update({1}),
        lambda value: value.symmetric_difference_update({0}),
        merge_in_place,
        subtract_in_place,
        intersect_in_place,
        differ_in_place,
    ],
)
def test_given_a_frozen_set_when_changed_then_it_refuses(change: Callable[[Any], object]) -> None:
    frozen = freeze({0})
    with pytest.raises(TypeError, match="frozen"):
        change(frozen)
    assert frozen == {0}


def test_given_nested_containers_when_frozen_then_all_of_them_are() -> None:
    frozen = freeze({"a": [{"b": ({"c": {1}},)}]})

    inner = frozen["a"][0]["b"][0]
    assert [type(frozen), type(frozen["a"]), type(inner), type(inner["c"])] == [
        FrozenDict,
        FrozenList,
        FrozenDict,
        FrozenSet,
    ]


def test_given_a_frozen_value_when_frozen_again_then_it_is_the_same_object() -> None:
    frozen = freeze({"a": [1]})

    assert freeze(frozen) is frozen
