"""What was validated as a declared type comes back equal, and is not validated again; or it is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, NewType, NotRequired, Self
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from stageflow_durable import Sensitive
from stageflow_durable.codec import Classes, decode, encode, encode_and_fingerprint, fingerprint, restore
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import UnsavableValue
from stageflow_durable.masking import HIDDEN
from tests.unit.shapes import (
    FOLDED,
    REFUSED,
    SAVED,
    Cents,
    Colour,
    Dog,
    Excluding,
    Masking,
    MaskingAll,
    Money,
    Owner,
    Pet,
    Plain,
    Point,
    Tagged,
    Times,
)
from tests.unit.test_codec import exactly, values


def whole(value: Any) -> object:
    """Everything there is to a value, to the types."""
    if isinstance(value, BaseModel):
        held = {name: whole(value.__dict__[name]) for name in type(value).model_fields}
        private = value.__pydantic_private__
        return type(value), held, value.__pydantic_fields_set__, whole(value.__pydantic_extra__), whole(private)
    if is_dataclass(value) and not isinstance(value, type):
        held = {one.name: whole(getattr(value, one.name)) for one in fields(value)}
        return type(value), held, {name: whole(part) for name, part in sorted(getattr(value, "__dict__", {}).items())}
    if isinstance(value, dict):
        return type(value), [(whole(key), whole(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [whole(part) for part in value]
    if isinstance(value, datetime):
        return repr(value)
    return exactly(value), getattr(value, "__dict__", None)


def _named(case: object) -> str:
    """A parameter's name, the same in every process."""
    return str(case).partition(" at 0x")[0][:60]


@pytest.mark.parametrize(("declared", "given_"), SAVED, ids=_named)
def test_given_what_was_validated_when_it_is_read_then_it_is_equal_to_the_type(declared: Any, given_: Any) -> None:
    known = typed(declared)
    accepted = known.validated(given_, "input")
    text, print_ = encode_and_fingerprint(accepted, known.classes, "input")

    back = known.read(text, "input")

    assert whole(back) == whole(accepted)
    assert back == accepted
    assert restore(text, known.classes).checked
    assert encode(accepted, "input", known.classes) == text
    assert fingerprint(back, known.classes) == print_


@pytest.mark.parametrize(("declared", "given_", "message"), REFUSED, ids=_named)
def test_given_what_would_not_come_back_equal_then_it_is_refused_by_its_path(
    declared: Any, given_: Any, message: str
) -> None:
    known = typed(declared)
    with pytest.raises(UnsavableValue) as refused:
        encode_and_fingerprint(known.validated(given_, "input"), known.classes, "input")
    assert str(refused.value).startswith(message)


class Holder(BaseModel):
    model_config = ConfigDict(extra="allow")
    first: Any
    second: Any = None

    @field_validator("first", "second")
    @classmethod
    def seen(cls, value: Any) -> Any:
        return [value]


@given(values, st.booleans(), st.dictionaries(st.sampled_from(["x", "$sf", "v", "of"]), values, max_size=2))
def test_given_any_value_in_a_model_when_it_is_read_then_no_validator_has_seen_it_again(
    value: Any, also: bool, more: dict[str, Any]
) -> None:
    known = typed(Holder)
    accepted = known.validated({"first": value, **({"second": value} if also else {}), **more}, "input")

    back = known.read(encode(accepted, "input", known.classes), "input")

    assert whole(back) == whole(accepted)


@pytest.mark.parametrize("value", [Dog(name="r"), [Plain(2)], {"a": (Cents(cents=1),)}], ids=repr)
def test_given_an_object_where_nothing_is_declared_then_it_is_a_dict_of_its_fields(value: Any) -> None:
    def told(one: Any) -> Any:
        if isinstance(one, list | tuple):
            return type(one)(map(told, one))
        if isinstance(one, dict):
            return {key: told(part) for key, part in one.items()}
        return {name: getattr(one, name) for name in ("name", "barks", "a", "b", "c", "cents") if hasattr(one, name)}

    assert decode(encode(value)) == told(value)


def test_given_a_release_that_knows_enums_only_then_it_reads_the_fields() -> None:
    text = encode(Owner(pet=Dog(name="r")), "input", typed(Owner).classes)
    assert '"$sf":"enum"' in text
    assert decode(text) == {"pet": {"name": "r", "barks": 3}, "others": []}


def test_given_a_field_that_is_marked_later_then_its_key_is_the_same_key_and_people_see_it_no_more() -> None:
    def declared(annotation: Any) -> Any:
        fields = {"__annotations__": {"iban": annotation}, "__module__": __name__}
        return type("Order", (BaseModel,), dict(fields)), dataclass(type("Bill", (), dict(fields)))

    for plainly, marked in zip(declared(str), declared(Annotated[str, Sensitive]), strict=True):
        before, after = plainly(iban="DE1"), marked(iban="DE1")
        assert fingerprint(before) == fingerprint(after)
        assert decode(encode(before), shown=True) == {"iban": "DE1"}
        assert decode(encode(after), shown=True) == {"iban": HIDDEN}
        assert decode(encode(after)) == {"iban": "DE1"}


Iban = Annotated[str, Sensitive]


class Pii(Sensitive):
    """A mark of the application's own."""


class Ledger(RootModel[dict[str, Annotated[str, Sensitive]]]):
    pass


class Accounts(BaseModel):
    by_owner: Ledger
    listed: list[Annotated[str, Field(json_schema_extra={"sensitive": True})]] = []


class Wire(NamedTuple):
    amount: int
    iban: Iban


class Party(TypedDict):
    iban: Annotated[str, Sensitive]


class Transfer(BaseModel):
    wire: Wire
    party: Party | None = None
    aliased: NewType("Aliased", Annotated[str, Sensitive]) = "DE1"  # type: ignore[valid-type]  # mypy wants a name for it
    own: Annotated[str | None, Pii] = None


@dataclass
class Base:
    iban: Iban
    later: OnlyForCheckers | None = None  # type: ignore[name-defined]  # noqa: F821  # imported for type checkers alone, as many are


@dataclass
class Derived(Base):
    amount: int = 1


@pydantic_dataclass
class ByPydantic:
    iban: str = Field("DE1", json_schema_extra={"sensitive": True})
    code: str = Field("c", exclude=True)
    amount: int = 1


class Node(TypedDict):
    left: NotRequired[Node]
    right: NotRequired[Node]
    other: NotRequired[list[Node] | dict[str, Node] | tuple[Node, Node]]
    name: str


class Tree(BaseModel):
    node: Node


class SecretNode(TypedDict):
    left: NotRequired[SecretNode]
    right: NotRequired[SecretNode]
    name: Annotated[str, Sensitive]


class SecretTree(BaseModel):
    node: SecretNode


class CaseSensitive:
    """No mark at all."""


@dataclass
class Named:
    kind: Annotated[str, CaseSensitive]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Ledger({"root": "DE1", "a": "DE2"}), HIDDEN),
        (Accounts(by_owner=Ledger({"a": "DE1"}), listed=["DE1"]), {"by_owner": HIDDEN, "listed": HIDDEN}),
        (
            Transfer(wire=Wire(1, "DE1"), party={"iban": "DE1"}),
            {"wire": HIDDEN, "party": HIDDEN, "aliased": HIDDEN, "own": HIDDEN},
        ),
        (ByPydantic("DE1", "c"), {"iban": HIDDEN, "code": HIDDEN, "amount": 1}),
        (Named("k"), {"kind": "k"}),
        (Tree(node={"name": "n"}), {"node": {"name": "n"}}),
        (SecretTree(node={"name": "n"}), {"node": HIDDEN}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_given_a_mark_in_whatever_declaration_then_people_do_not_see_the_value(value: Any, shown: Any) -> None:
    text = encode(value)
    assert decode(text, shown=True) == shown
    assert whole(restore(text, typed(type(value)).classes).value) == whole(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Base("DE1"), {"iban": HIDDEN, "later": None}),
        (Derived("DE1"), {"iban": HIDDEN, "later": None, "amount": 1}),
    ],
)
def test_given_an_annotation_for_checkers_alone_then_the_others_count(value: Any, shown: Any) -> None:
    assert decode(encode(value), shown=True) == shown


@dataclass
class OfNowhere:
    """Its annotations are texts, one of which names nothing that is there."""

    other: Nowhere  # type: ignore[name-defined]  # noqa: F821  # it is not there: that is the case
    iban: Annotated[str, Sensitive]


def test_given_annotations_that_cannot_be_read_then_what_they_say_is_enough() -> None:
    assert decode(encode(OfNowhere("x", "DE1")), shown=True) == {"other": "x", "iban": HIDDEN}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Excluding(id="1"), {"id": "1", "dry_run": HIDDEN, "token": HIDDEN}),
        ([Masking(card="4111")], [{"card": HIDDEN}]),
        (MaskingAll(a=1), {"a": HIDDEN}),
    ],
)
def test_given_fields_that_a_model_does_not_show_when_shown_to_people_then_they_are_not(value: Any, shown: Any) -> None:
    assert decode(encode(value), shown=True) == shown


# --- what has changed since -------------------------------------------------------------------------------------------


def version(name: str, annotations: dict[str, Any], **more: Any) -> type[BaseModel]:
    """A model as one release of an application has it."""

    def doubled(cls: object, value: Any) -> Any:
        return value * 2

    validator: Any = field_validator("n")(classmethod(doubled))
    body = {"__annotations__": annotations, "__module__": __name__, "__qualname__": name, "doubled": validator, **more}
    return type(name, (BaseModel,), body)


BEFORE = version("Order", {"n": int})


def saved() -> str:
    return encode(BEFORE(n=1), "input", typed(BEFORE).classes)


def test_given_a_field_with_a_default_was_added_then_it_is_filled_in_and_nothing_validated_again() -> None:
    back = typed(version("Order", {"n": int, "note": str}, note="")).read(saved(), "input")
    assert (back.n, back.note, back.model_fields_set) == (2, "", {"n"})


def test_given_a_field_has_another_type_then_it_is_validated_as_that() -> None:
    back = typed(version("Order", {"n": Decimal})).read(saved(), "input")
    assert exactly(back.n) == exactly(Decimal(4))


def test_given_a_class_that_moved_to_another_module_then_it_is_found_by_its_name() -> None:
    back = typed(version("Order", {"n": int}, __module__="elsewhere")).read(saved(), "input")
    assert back.n == 2


def test_given_a_class_of_another_name_then_the_fields_are_validated() -> None:
    back = typed(version("Purchase", {"n": int})).read(saved(), "input")
    assert back.n == 4


def test_given_an_input_of_before_there_were_objects_then_it_is_validated_by_the_names_of_the_fields() -> None:
    class Aliased(BaseModel):
        order_id: str = Field(alias="orderId")

    assert typed(Aliased).read('{"order_id":"A-1"}', "input").order_id == "A-1"


def test_given_a_name_in_a_text_then_no_class_is_made_but_those_that_are_declared() -> None:
    text = encode({"x": Cents(cents=1)})
    assert restore(text, Classes(Owner)).value == {"x": {"cents": 100}}


# --- subclasses of standard types -------------------------------------------------------------------------------------


class Stamp(datetime):
    """As pandas has it: more precise than its base, and equal to nothing else."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stamp) and super().__eq__(other)

    __hash__ = datetime.__hash__


class Span(timedelta):
    """As pendulum has it: its own days are not its base's."""

    months = 0

    @property
    def days(self) -> int:
        return 7


class Euro(Decimal):
    currency = "EUR"


class Cased(str):
    __slots__ = ("original",)
    original: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text.lower())
        made.original = text
        return made


class Bag(dict[str, int]):
    def __init__(self, *given_: Any) -> None:
        super().__init__(*given_)
        self.owner = "Ada"


class Zone(tzinfo):
    def __repr__(self) -> str:
        return "Zone()"  # a test's name is the same in every process

    def utcoffset(self, at: datetime | None) -> timedelta | None:
        return None if at is None else timedelta(hours=at.month % 3)

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    "value",
    [
        Stamp(2024, 1, 1),
        Span(hours=-1),
        Euro(5),
        Cased("Ab"),
        Tagged("a", "de"),
        Bag({"a": 1}),
        datetime(2024, 5, 1, tzinfo=Zone()),
    ],
)
@pytest.mark.parametrize("place", [lambda value: {"at": value}, lambda value: {"at": [1, value]}], ids=["at", "list"])
def test_given_a_subclass_that_holds_more_than_its_base_then_it_is_refused_by_its_path(place: Any, value: Any) -> None:
    with pytest.raises(UnsavableValue, match=r"^value\.at"):
        encode(place(value))


@pytest.mark.parametrize("value", [Money("1.50"), Point(1, "a")], ids=repr)
def test_given_a_subclass_that_holds_nothing_more_then_it_is_equal_to_what_is_read(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize("at", [FOLDED, FOLDED.replace(fold=0), datetime(2024, 3, 10, 2, 30, tzinfo=FOLDED.tzinfo)])
def test_given_a_named_zone_then_the_zone_comes_back_and_the_fold(at: datetime) -> None:
    back = decode(encode([at]))[0]
    assert (repr(back), back.utcoffset()) == (repr(at), at.utcoffset())
    assert back + timedelta(days=200) == at + timedelta(days=200)


def test_given_times_of_pydantic_then_they_are_the_same_instants() -> None:
    given_ = {"at": "2024-01-01T00:00:00Z", "clock": "10:00:00+02:00", "span": 5, "day": "2020-01-01"}
    accepted = Times.model_validate(given_)
    assert typed(Times).read(encode(accepted, "input", typed(Times).classes), "input") == accepted


def test_given_an_unknown_zone_in_a_text_then_it_says_what_is_missing() -> None:
    text = encode(datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))).replace("Europe/Paris", "Mars/Base")
    with pytest.raises(ValueError, match="does not know the time zone 'Mars/Base'; install tzdata"):
        decode(text)


# --- fingerprints -----------------------------------------------------------------------------------------------------


@dataclass
class Request:
    a: int


@pytest.mark.parametrize(
    ("one", "other", "declared"),
    [
        (Excluding(id="1", dry_run=True), Excluding(id="1", dry_run=False), Excluding),
        (Masking(card="4111"), Masking(card="4222"), Masking),
        (MaskingAll(a=1), MaskingAll(a=2), MaskingAll),
        (Owner(pet=Dog(name="r")), Owner(pet=Pet(name="r")), Owner),
        (Dog(name="r"), Dog(name="r", barks=3), Dog),
        (Dog(name="r"), Pet(name="r"), Pet),
    ],
)
def test_given_inputs_that_a_stage_can_tell_apart_then_so_do_their_fingerprints(
    one: Any, other: Any, declared: Any
) -> None:
    classes = typed(declared).classes
    assert fingerprint(one, classes) != fingerprint(other, classes)


def test_given_a_fingerprint_when_saved_then_it_is_text() -> None:
    print_ = fingerprint(Excluding(id="1"))
    assert exactly(decode(encode({"print": print_}))) == exactly({"print": str(print_)})
    assert print_.startswith("2:")
    assert len(print_) == 64


def test_given_what_a_default_factory_made_then_a_repeated_request_has_the_same_fingerprint() -> None:
    one, other = Excluding(id="1", dry_run=True), Excluding(id="1", dry_run=True)
    assert one.token != other.token
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(Excluding(id="1", dry_run=True, token=one.token))


@pytest.mark.parametrize(
    "value", [Pet(name="r"), Request(1), {"at": datetime(2024, 1, 1, tzinfo=UTC), "c": Colour.RED}]
)
def test_given_what_the_first_version_saw_whole_then_the_fingerprint_is_the_first_versions(value: Any) -> None:
    print_ = fingerprint(value)
    assert len(print_) == 64
    assert not print_.startswith("2:")
    assert print_ == fingerprint(decode(encode(value)))
