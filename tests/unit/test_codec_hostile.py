"""Text that ``encode`` did not write is refused with a reason; nothing in it is run."""

from __future__ import annotations

import enum
import json
import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.codec import UnreadableValue, decode, encode, register_enum
from stageflow_durable.errors import Terminal


@register_enum
class Fruit(enum.Enum):
    APPLE = "apple"


FRUIT = f"{Fruit.__module__}.{Fruit.__qualname__}"


def tag(name: object, payload: object, **more: object) -> str:
    return json.dumps({"$sf": name, "v": payload, **more})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON at character 0 of 0"),
        ("{", "not JSON at character 1"),
        ('{"a": 1} x', "not JSON at character 9 of 10: Extra data"),
        ("'a'", "not JSON"),
        ("NaN", "a number is not finite"),
        ("[-Infinity]", "a number is not finite"),
        ("[1e999]", "a number is not finite"),
        ("9" * 5000, "an integer has too many digits"),
        ('{"a": 1, "a": 2}', "an object has a key twice"),
        ("[" * 100_000, "nested deeper than 100"),
        ("[" * 500 + "]" * 500, "nested deeper than 100"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested deeper than 100"),
        ('["' + "[" * 500, "not JSON"),
        ('["' + "[" * 500 + "\\", "not JSON"),
        (tag("os.system", "true"), "unknown tag 'os.system'"),
        (tag("x" * 500, 1), "unknown tag 'xxx"),
        (tag(1, 1), "unknown tag 1"),
        (tag(["set"], 1), "unknown tag"),
        ('{"$sf": "set"}', "malformed set"),
        (tag("set", [1], more=1), "malformed set"),
        (tag("set", 1), "malformed set"),
        (tag("set", [[1]]), "malformed set"),
        (tag("set", [1, 1]), "malformed set"),
        (tag("frozenset", [1, 1]), "malformed frozenset"),
        (tag("tuple", "ab"), "malformed tuple"),
        (tag("dict", ["ab"]), "malformed dict"),
        (tag("dict", [[1, 2, 3]]), "malformed dict"),
        (tag("dict", [[1, 2], [1, 3]]), "malformed dict"),
        (tag("dict", [[[], 2]]), "malformed dict"),
        (tag("datetime", "yesterday"), "malformed datetime"),
        (tag("datetime", 1), "malformed datetime"),
        (tag("date", "2024-13-01"), "malformed date"),
        (tag("time", "25:00"), "malformed time"),
        (tag("timedelta", [1, 2]), "malformed timedelta"),
        (tag("timedelta", ["1", 2, 3]), "malformed timedelta"),
        (tag("timedelta", [10**30, 0, 0]), "malformed timedelta"),
        (tag("uuid", "nope"), "malformed uuid"),
        (tag("decimal", "nope"), "malformed decimal"),
        (tag("decimal", "NaN"), "malformed decimal"),
        (tag("bytes", "*"), "malformed bytes"),
        (tag("bytes", "é"), "malformed bytes"),
        (tag("str", "/w=="), "malformed str"),
        (tag("path", 1), "malformed path"),
        (tag("enum", 1), "malformed enum"),
        (tag("enum", "apple", of=[]), "malformed enum"),
        (tag("enum", "pear", of=FRUIT), "malformed enum"),
    ],
    ids=lambda case: case[:40],
)
def test_given_hostile_text_when_decoded_then_the_reason_is_told(text: str, reason: str) -> None:
    with pytest.raises(UnreadableValue) as refused:
        decode(text)
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 160


def test_given_an_enum_nobody_registered_when_decoded_then_nothing_is_looked_up() -> None:
    assert decode(tag("enum", "rm", of="os.system")) == "rm"


def test_given_many_brackets_side_by_side_or_in_texts_then_they_are_no_depth() -> None:
    value = [[{"a": "[" * 50 + '"\\'}] for _ in range(500)]

    assert decode(encode(value)) == value


@given(st.text() | st.text('[]{}",:\\0aeE$sfv-.'))
def test_given_any_text_when_decoded_then_it_is_a_value_or_unreadable(text: str) -> None:
    with suppress(UnreadableValue):
        decode(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.fixed_dictionaries(
                {"$sf": st.sampled_from(["set", "dict", "tuple", "timedelta", "enum", "str"]) | inner, "v": inner}
            )
            | st.fixed_dictionaries({"$sf": st.just("enum"), "of": st.just(FRUIT) | inner, "v": inner})
        ),
    )
)
def test_given_any_tags_when_decoded_then_it_is_a_value_or_unreadable(tree: object) -> None:
    with suppress(UnreadableValue):
        decode(json.dumps(tree))


def test_given_the_error_when_pickled_then_it_survives() -> None:
    with pytest.raises(UnreadableValue) as refused:
        decode("{")
    again = pickle.loads(pickle.dumps(refused.value))

    assert isinstance(again, Terminal)
    assert isinstance(again, ValueError)
    assert str(again) == str(refused.value)
