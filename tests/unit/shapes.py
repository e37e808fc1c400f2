"""Models, dataclasses and other types of every shape, with what an application would give for them."""

from __future__ import annotations

import enum
import threading
from collections import Counter, OrderedDict
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, NamedTuple, Self, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    RootModel,
    SecretStr,
    SerializeAsAny,
    StringConstraints,
    WrapValidator,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as validated_dataclass
from typing_extensions import TypedDict

T = TypeVar("T")
NEW_YORK = ZoneInfo("America/New_York")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Switch(enum.StrEnum):
    ON = "on"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Alias(BaseModel):
    order_id: str = Field(alias="orderId")


class Choices(BaseModel):
    order_id: str = Field(validation_alias=AliasChoices("a", "b"), serialization_alias="c")


class Path(BaseModel):
    x: int = Field(validation_alias=AliasPath("d", "e", 0))


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    some_name: int
    other: str = "d"


class Swapped(BaseModel):
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Excluding(BaseModel):
    id: str
    dry_run: bool = Field(default=False, exclude=True)
    token: UUID = Field(default_factory=uuid4, exclude=True)


class Masking(BaseModel):
    card: str

    @field_serializer("card")
    def masked(self, _: str) -> str:
        return "***"


class MaskingAll(BaseModel):
    a: int

    @model_serializer
    def masked(self) -> str:
        return "hidden"


class Pet(BaseModel):
    name: str


class Dog(Pet):
    barks: int = 3


class Owner(BaseModel):
    pet: Pet
    others: list[SerializeAsAny[Pet]] = []


class Cents(BaseModel):
    cents: int

    @field_validator("cents")
    @classmethod
    def from_euros(cls, euros: int) -> int:
        return euros * 100


class Loud(BaseModel):
    text: str
    seen: int = 0

    @model_validator(mode="before")
    @classmethod
    def shout(cls, given: Any) -> Any:
        return {**given, "text": given["text"] + "!"}

    @model_validator(mode="after")
    def count(self) -> Loud:
        self.seen += 1
        return self


class Wrapped(BaseModel):
    number: Annotated[int, WrapValidator(lambda value, handler: handler(value) + 1)]
    text: Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True)] = "a"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    colour: Colour
    level: Level
    at: datetime
    pair: tuple[int, ...]
    tags: set[str]


class Made(BaseModel):
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    items: list[int] = Field(default_factory=list)


class Computing(BaseModel):
    a: int

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented use; mypy has no better
    @property
    def double(self) -> int:
        return self.a * 2

    @cached_property
    def lock(self) -> Any:
        return threading.Lock()


class Private(BaseModel):
    a: int
    _note: str = PrivateAttr("x")
    _made: UUID = PrivateAttr(default_factory=uuid4)

    def model_post_init(self, _: Any) -> None:
        self._note = "posted"


class Locked(BaseModel):
    a: int
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Cat(BaseModel):
    kind: Literal["cat"]
    name: str


class Bird(BaseModel):
    kind: Literal["bird"]
    name: str


class Zoo(BaseModel):
    first: Annotated[Cat | Bird, Field(discriminator="kind")]
    second: Cat | Bird | None = None


class Box(BaseModel, Generic[T]):
    item: T


class Several(RootModel[list[Cents]]):
    pass


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    a: int


class OwnInit(BaseModel):
    a: int

    def __init__(self, a: int) -> None:
        super().__init__(a=a * 10)


class Node(BaseModel):
    value: int
    below: list[Node] = []


@validated_dataclass
class Validated:
    a: int
    b: str = Field("x", alias="B")


@dataclass
class Plain:
    a: int
    b: int = field(init=False)
    c: list[int] = field(default_factory=list)
    factor: InitVar[int] = 5

    def __post_init__(self, factor: int) -> None:
        self.b = self.a * factor
        self.other = "set besides"


@dataclass(kw_only=True, slots=True, frozen=True)
class Slotted:
    a: int
    day: date


@dataclass
class Nested:
    slotted: Slotted
    colour: Colour
    below: Nested | None = None


class Keys(TypedDict):
    id: int
    price: Cents


class Some(TypedDict, total=False):
    id: int


class Point(NamedTuple):
    x: int
    y: str = "y"


class Points(BaseModel):
    one: Point
    more: list[Point] = []


class Money(Decimal):
    pass


class Tagged(str):
    lang: str

    def __new__(cls, text: str, lang: str) -> Self:
        made = super().__new__(cls, text)
        made.lang = lang
        return made


class Priced(BaseModel):
    price: Annotated[Money, PlainValidator(Money)]
    title: Annotated[Tagged, PlainValidator(lambda value: value)]


class Times(BaseModel):
    at: datetime
    clock: time
    span: timedelta
    day: date


class Collections(BaseModel):
    ordered: OrderedDict[str, int]
    counted: Counter[str]


class Anything(BaseModel):
    value: Any


class Secret(BaseModel):
    password: SecretStr


def mutated() -> Cents:
    order = Cents(cents=5)
    order.cents = "unlike an int"  # type: ignore[assignment]  # nothing validates it
    return order


def computed() -> Computing:
    model = Computing(a=1)
    assert model.lock is model.lock
    return model


FOLDED = datetime(2024, 11, 3, 1, 30, tzinfo=NEW_YORK, fold=1)

SAVED: list[tuple[Any, Any]] = [
    (Alias, {"orderId": "1"}),
    (Choices, {"b": "1"}),
    (Path, {"d": {"e": [4]}}),
    (Camel, {"someName": 1}),
    (Swapped, {"a": 1, "b": 2}),
    (Excluding, {"id": "1", "dry_run": True}),
    (Masking, {"card": "4111"}),
    (MaskingAll, {"a": 1}),
    (Owner, {"pet": Dog(name="r"), "others": [Dog(name="q", barks=1), Pet(name="p")]}),
    (Pet, Dog(name="r")),
    (Cents, {"cents": 5}),
    (Cents, mutated()),
    (Cents, Cents.model_construct(cents="unlike an int")),
    (Loud, {"text": "a"}),
    (Wrapped, {"number": 1, "text": " B "}),
    (Strict, {"colour": Colour.RED, "level": Level.LOW, "at": FOLDED, "pair": (1, 2), "tags": {"a", "b"}}),
    (Made, {}),
    (Computing, computed()),
    (Private, {"a": 1}),
    (Extra, {"a": 1, "z": [1], "y": {"q": 1}}),
    (Extra, Extra(a=1)),
    (Zoo, {"first": {"kind": "bird", "name": "b"}, "second": {"kind": "cat", "name": "b"}}),
    (Cat | Bird, {"kind": "bird", "name": "b"}),
    (Box[int], {"item": 3}),
    (Box[Cents], {"item": {"cents": 1}}),
    (Several, [{"cents": 1}]),
    (RootModel[int], 4),
    (Frozen, {"a": 1}),
    (dict[str, Frozen], {"k": {"a": 1}}),
    (OwnInit, {"a": 1}),
    (Node, {"value": 1, "below": [{"value": 2, "below": [{"value": 3}]}]}),
    (Validated, {"a": 1, "B": "y"}),
    (Plain, {"a": 2}),
    (Plain, Plain(3, factor=7)),
    (Slotted, {"a": 1, "day": "2020-01-01"}),
    (Nested, {"slotted": {"a": 1, "day": "2020-01-01"}, "colour": "red"}),
    (Nested, Nested(Slotted(a=1, day=date.min), Colour.RED, Nested(Slotted(a=2, day=date.max), Colour.RED))),
    (Keys, {"id": 1, "price": {"cents": 2}}),
    (Some, {}),
    (Annotated[dict[str, int], {"doc": 1}], {"a": 1}),
    (Annotated[int, AfterValidator(lambda value: value * 2)], 4),
    (list[Cents], [{"cents": 1}]),
    (Cents | None, None),
    (Point, Point(1, "z")),
    (Points, {"one": (1, "a"), "more": [(2, "b")]}),
    (dict[Point, int], {Point(1): 2}),
    (Literal["a", Colour.RED], Colour.RED),
    (Colour, "red"),
    (Level, 1),
    (Switch, "on"),
    (Right, 3),
    (frozenset[Level], [1]),
    (Priced, {"price": "5", "title": Tagged("hallo", "de")}),
    (Times, {"at": FOLDED, "clock": time(1, 2, fold=1), "span": timedelta(-1, 5), "day": date.max}),
    (Collections, {"ordered": {"b": 1, "a": 2}, "counted": {"x": 2}}),
    (Anything, {"value": {1, (2, b"x")}}),
    (dict[str, Any], {"a": [1, (2, 3)]}),
    (datetime, "2024-01-01"),
]

REFUSED: list[tuple[Any, Any, str]] = [
    (Cents, Cents.model_construct(), "input.cents: a field that was never set"),
    (Locked, {"a": 1}, "input._lock: _thread.lock"),
    (Secret, {"password": "x"}, "input.password: pydantic.types.SecretStr cannot be saved; keep the secret in a vault"),
    (Anything, {"value": Cents(cents=1)}, "input.value: tests.unit.shapes.Cents cannot be saved; the declared types"),
    (Anything, {"value": [Colour.RED]}, "input.value[0]: tests.unit.shapes.Colour cannot be saved; the declared types"),
    (Anything, {"value": {"k": Money(1)}}, "input.value.k: tests.unit.shapes.Money cannot be saved"),
    (Anything, {"value": float("nan")}, "input.value: nan"),
    (Anything, {"value": object()}, "input.value: object"),
    (Extra, {"a": 1, "more": object()}, "input.more: object"),
    (dict[str, Any], {"a": Tagged("x", "y")}, "input.a: tests.unit.shapes.Tagged"),
]
