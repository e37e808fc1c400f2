"""What cannot be saved is refused before anything is written, by the path inside the value."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, SecretStr

from stageflow_durable.codec import MAX_DEPTH, canonical, decode, encode, plain
from stageflow_durable.errors import UnsavableValue


class Odd(enum.Enum):
    BOX = object()


@dataclass(frozen=True)
class Pair:
    a: int


class Boxed(enum.Enum):
    PAIR = Pair(1)


class Shifty(enum.Enum):
    ONE = "one"
    TWO = "two"

    @classmethod
    def _missing_(cls, _: object) -> Shifty:
        return cls.TWO


class Tray(enum.Enum):
    LISTED = ([1],)


Shifty.ONE._value_ = "changed"


@dataclass(slots=True)
class Gap:
    filled: int
    empty: int

    def __init__(self) -> None:
        self.filled = 1


class Card(BaseModel):
    number: SecretStr


class Broken:
    def model_dump(self, **_: object) -> object:
        raise RuntimeError("no")


class Endless:
    def model_dump(self, **_: object) -> object:
        return self


class Number(enum.Enum):
    ONE = 1


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def loop() -> Any:
    order: dict[str, Any] = {"lines": [{}]}
    order["lines"][0]["order"] = order
    return {"first": order}


NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {"at": object()}]}, "value.a[1].at: object cannot be saved"),
        ({"a b": object()}, "value['a b']: object"),
        ({7: object()}, "value[7]: object"),
        ({(1, 2): object()}, "value[…]: object"),
        ({object(): 1}, "value[…]: object"),
        ({"x" * 90: object()}, "value['" + "x" * 29 + "…"),
        ([{1, Ellipsis}], "value[0][…]: ellipsis"),
        ((lambda: 1), "value: function cannot be saved; turn it into plain data first"),
        (Pair, "value: type cannot"),
        (Broken, "value: type cannot"),
        (Odd.BOX, "value.value: object"),
        ({"n": NAN}, "value.n: nan cannot be saved"),
        ([float("-inf")], "value[0]: -inf"),
        ({"n": Decimal("NaN")}, r"value.n: Decimal('NaN')"),
        ({"n": Decimal("-Infinity")}, r"value.n: Decimal('-Infinity')"),
        ({"n": 10**5000}, "value.n: an integer of 16610 bits"),
        ({10**5000: object()}, "value[…]: an integer"),
        ({"t": time(1, tzinfo=ZoneInfo("Europe/Paris"))}, "value.t: a time whose zone has no offset"),
        (Boxed.PAIR, "does not lead back to the member"),
        (Shifty.ONE, "leads to another member"),
        (Gap(), "value.empty: a field that was never set"),
        ({"card": Card(number=SecretStr("4111"))}, "value.card.number: pydantic.types.SecretStr cannot"),
        ([Broken()], "value[0]: tests.unit.test_codec_refusals.Broken cannot be saved; model_dump raised RuntimeError"),
        (Endless(), "nesting deeper than 100|inside of"),
        ({Pair(1)}, "value: a set whose items are not distinct once saved cannot be saved; use a list"),
        ({Pair(1): 2}, "value: a dict whose keys are not distinct once saved cannot be saved; use a list of pairs"),
        ({Number.ONE, 1}, "value: a set whose items"),
        ({(Number.ONE,), (1,)}, "value: a set whose items"),
        ({frozenset({Number.ONE}): 1, frozenset({1}): 2}, "value: a dict whose keys"),
        ({Tray.LISTED}, "value: a set whose items"),
        (loop(), "value.first.lines[0].order: a reference to a container that it is inside of"),
        (nested(MAX_DEPTH + 1), "nesting deeper than 100 containers"),
        ({"a": nested(MAX_DEPTH)}, "nesting deeper than 100 containers"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
@pytest.mark.parametrize("save", [encode, plain, canonical])
def test_given_a_value_that_cannot_be_saved_then_the_path_to_it_is_named(
    save: Callable[[Any], Any], value: Any, message: str
) -> None:
    with pytest.raises(UnsavableValue) as refused:
        save(value)
    assert any(part in str(refused.value) for part in message.split("|"))
    assert len(refused.value.path) <= 201


def test_given_a_secret_in_a_model_when_refused_then_the_message_does_not_tell_it() -> None:
    with pytest.raises(UnsavableValue) as refused:
        encode(Card(number=SecretStr("4111")))
    assert "4111" not in str(refused.value)


def test_given_a_root_when_refused_then_the_path_begins_with_it() -> None:
    with pytest.raises(UnsavableValue, match=r"^output\.a\[0\]: object"):
        encode({"a": [object()]}, root="output")


def test_given_nesting_up_to_the_limit_then_it_is_saved_and_read() -> None:
    deep = nested(MAX_DEPTH)
    pairs: Any = 1
    for _ in range(MAX_DEPTH):
        pairs = {1: pairs}

    assert decode(encode(deep)) == deep
    assert decode(encode(pairs)) == pairs


def test_given_one_container_twice_side_by_side_then_it_is_no_cycle() -> None:
    shared = [object, 1][1:]

    assert plain({"a": shared, "b": shared}) == {"a": [1], "b": [1]}
