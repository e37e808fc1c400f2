"""Values come back from their text as they were: the same value, of the same type."""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, computed_field

from stageflow_durable.codec import decode, encode, freeze, plain, register_enum
from stageflow_durable.codec.writing import TAG
from stageflow_durable.errors import ConfigurationError


@register_enum
class Colour(enum.Enum):
    RED = "red"
    SIZES = (1, 2)


@register_enum
class Level(enum.IntEnum):
    LOW = 1


@register_enum
class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Unregistered(enum.StrEnum):
    ON = "on"


texts = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    [TAG, "v", "of", "\0", "\ud83d\ude00", "😀"]
)
# Whole seconds: Python's own fromisoformat takes an offset of less than one for UTC.
offsets = st.none() | st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
hashable_atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=8)
    | st.datetimes(timezones=offsets)
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.times(timezones=offsets)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from([*Colour, *Level, *Right, Right.READ | Right.WRITE])
    | texts.map(Path)
)
# Of equal members Python keeps one, and of an enum and its value the codec refuses the pair: see the refusals.
keys = st.integers() | texts | st.binary(max_size=4) | st.dates() | st.tuples(st.integers(), texts)
values = st.recursive(
    hashable_atoms | st.sets(keys, max_size=4) | st.frozensets(keys, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


def exactly(value: Any) -> object:
    """What two values share only when they agree to the type: ``True`` and 1, 0.0 and -0.0, tuple and list differ."""
    if isinstance(value, dict):
        return type(value), [(exactly(key), exactly(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(exactly, value))
    if isinstance(value, list | tuple):
        return type(value), tuple(map(exactly, value))
    return type(value), repr(value)


@given(values)
def test_given_any_savable_value_when_read_back_then_it_is_the_same_to_the_type(value: Any) -> None:
    assert exactly(decode(encode(value))) == exactly(value)


@given(values)
def test_given_any_savable_value_when_encoded_then_the_text_suits_every_text_column(value: Any) -> None:
    text = encode(value)

    assert text.isascii()
    assert "\0" not in text


@given(values)
def test_given_any_savable_value_when_made_plain_then_it_is_what_will_be_read_back(value: Any) -> None:
    assert exactly(plain(value)) == exactly(decode(encode(value)))


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 2, 29, 12, 30, 1, 250),
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime.max,
        datetime.min.replace(tzinfo=UTC),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45, seconds=7))),
        date.min,
        time(23, 59, 59, 999999),
        time(1, tzinfo=timezone(-timedelta(hours=3))),
        timedelta.min,
        timedelta.max,
        timedelta(microseconds=-1),
        UUID(int=0),
        Decimal("1.10"),
        Decimal("-0"),
        Decimal("1E+999"),
        datetime(2024, 10, 27, 2, 30, fold=1),
        time(2, 30, fold=1),
        b"",
        bytes(range(256)),
        Colour.RED,
        Colour.SIZES,
        Level.LOW,
        Right.READ | Right.WRITE,
        Path("a/b c"),
        Path("\udcff"),
        set(),
        {1, "1"},
        frozenset({(1, 2)}),
        (),
        ((),),
        (1, [2]),
        {1: "a", "1": "b"},
        {None: 1},
        {(1, 2): {Colour.RED: 3}},
        {TAG: "tuple", "v": [1]},
        {TAG: {TAG: 1}},
        [{"v": 1}],
        10**4000,
        -(2**63),
        1e308,
        5e-324,
        -0.0,
        "\0",
        "a\0b",
        "\ud800",
        "\ud83d\ude00",
        "😀",
        {"\udc00": "\ud83d"},
        "\\ud800",
        True,
        1,
        None,
        "",
        {},
        [],
    ],
    ids=ascii,
)
def test_given_an_odd_value_when_read_back_then_it_is_the_same_to_the_type(value: Any) -> None:
    assert exactly(decode(encode({"nested": [value]}))) == exactly({"nested": [value]})


def test_given_an_enum_that_is_not_registered_when_read_back_then_it_is_its_value() -> None:
    assert exactly(decode(encode([Unregistered.ON]))) == exactly(["on"])


def test_given_an_enum_with_a_name_of_its_own_when_written_then_the_text_holds_that_name() -> None:
    class Moved(enum.Enum):
        HERE = 1

    register_enum(Moved, name="places")

    assert '"of":"places"' in encode(Moved.HERE)
    assert decode(encode(Moved.HERE)) is Moved.HERE


def test_given_a_name_of_another_enum_when_registered_then_it_is_refused() -> None:
    class Newcomer(enum.Enum):
        A = 1

    register_enum(Level, name="taken")

    with pytest.raises(ConfigurationError, match=r"'taken' is tests\.unit\.test_codec\.Level already"):
        register_enum(Newcomer, name="taken")
    register_enum(Level)


def test_given_a_named_zone_when_read_back_then_it_is_the_same_instant_at_its_offset() -> None:
    noon = datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Paris"))

    back = decode(encode(noon))

    assert back == noon
    assert back.utcoffset() == timedelta(hours=2)


Point = namedtuple("Point", "x y")


class Shout(str):
    def __str__(self) -> str:
        return self.upper()


class Money(float):
    pass


class Count(int):
    pass


class Day(date):
    pass


class Moment(datetime):
    pass


class Span(timedelta):
    pass


class Clock(time):
    pass


class Id(UUID):
    pass


class Amount(Decimal):
    pass


class Blob(bytes):
    pass


class Folder(type(Path())):  # type: ignore[misc]  # the platform's own Path, chosen at run time
    pass


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        (Point(1, 2), (1, 2)),
        (Shout("hi"), "hi"),
        ({Shout("key"): 1}, {"key": 1}),
        (Money(1.5), 1.5),
        (Count(3), 3),
        (bytearray(b"x"), b"x"),
        (Blob(b"x"), b"x"),
        (Day(2024, 1, 2), date(2024, 1, 2)),
        (Moment(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)),
        (Span(1, 2, 3), timedelta(1, 2, 3)),
        (Clock(1, 2), time(1, 2)),
        (Id(int=7), UUID(int=7)),
        (Amount("1.50"), Decimal("1.50")),
        (Folder("a"), Path("a")),
    ],
    ids=ascii,
)
def test_given_a_subclass_when_read_back_then_it_is_its_base(value: Any, base: Any) -> None:
    assert exactly(decode(encode(value))) == exactly(base)


@dataclass
class Line:
    sku: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    lines: list[Line]
    at: datetime | None = None
    note: str = field(default="", repr=False)


class Customer(BaseModel):
    name: str
    since: date
    best: Line

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented use; mypy has no better
    @property
    def shown(self) -> str:
        return self.name.title()


def test_given_a_dataclass_when_saved_then_its_fields_are() -> None:
    order = Order([Line("A", ("x",)), Line("B")], at=datetime(2024, 1, 1, tzinfo=UTC))

    assert decode(encode(order)) == {
        "lines": [{"sku": "A", "tags": ("x",)}, {"sku": "B", "tags": ()}],
        "at": datetime(2024, 1, 1, tzinfo=UTC),
        "note": "",
    }


def test_given_a_pydantic_model_when_saved_then_its_fields_are_without_computed_ones() -> None:
    customer = Customer(name="ann", since=date(2020, 1, 1), best=Line("A"))
    saved = {"name": "ann", "since": date(2020, 1, 1), "best": {"sku": "A", "tags": ()}}

    assert plain({"by": [customer]}) == {"by": [saved]}
    assert Customer.model_validate(decode(encode(customer))) == customer


def test_given_a_frozen_value_when_encoded_then_the_text_is_that_of_the_plain_one() -> None:
    value = {"a": [1, {"b": (2, {3})}], "s": {1}, "t": {TAG: 1}}

    assert encode(freeze(value)) == encode(value)


def test_given_a_set_when_encoded_then_its_order_does_not_depend_on_hashes() -> None:
    assert encode({"b", "a", "c"}) == encode({"c", "b", "a"}) == '{"$sf":"set","v":["a","b","c"]}'


def test_given_a_float_when_read_back_then_no_digit_is_lost() -> None:
    assert decode(encode(math.nextafter(0.1, 1))) == math.nextafter(0.1, 1)
