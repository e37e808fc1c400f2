"""JSON Schema as far as waits use it: what fits, what does not and where, and which schemas are refused."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from stageflow_durable.model import json_schema
from stageflow_durable.model.json_schema import mistakes, stored, without_sensitive


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(min_length=1, max_length=5, pattern="^[a-z]+$")]
    count: Annotated[int, Field(ge=0, lt=10)] = 0


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    items: Annotated[list[Item], Field(max_length=3)]
    colour: Literal["red", "blue"] | None = None
    price: Annotated[float, Field(gt=0)] | None = None
    notes: dict[str, str] = Field(default_factory=dict)
    pair: tuple[int, str] | None = None
    parent: Order | None = None


SCHEMA = Order.model_json_schema()

_atoms: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-2, 12) | st.sampled_from(["", "abc", "A", "red"])
)
_items = st.fixed_dictionaries({}, optional={"name": _atoms, "count": _atoms, "more": _atoms})
_orders = st.fixed_dictionaries(
    {"items": st.lists(_items, max_size=4) | _atoms},
    optional={
        "colour": _atoms,
        "price": _atoms | st.floats(-1, 3),
        "notes": st.dictionaries(st.sampled_from("ab"), _atoms, max_size=2) | _atoms,
        "pair": st.lists(_atoms, max_size=3) | _atoms,
        "parent": st.fixed_dictionaries({"items": st.just([])}) | _atoms,
    },
)


@given(_orders)
def test_a_value_fits_the_exported_schema_where_it_fits_the_model(value: Any) -> None:
    import json

    try:
        Order.model_validate_json(json.dumps(value))
    except ValidationError:
        fits = False
    else:
        fits = True
    assert (json_schema.problems(SCHEMA, value) == []) is fits


@pytest.mark.parametrize(
    ("schema", "good", "bad", "said"),
    [
        ({"type": "integer"}, [1, 1.0, -3], [1.5, "1", True, None], "value: integer is needed"),
        ({"type": "number"}, [1, 1.5], [True, "1"], "value: number is needed"),
        ({"type": ["string", "null"]}, ["", None], [1], "value: string or null is needed"),
        ({"const": 1}, [1, 1.0], [True, "1"], "value: only 1 is allowed"),
        ({"enum": [1, "a", None]}, [1, "a", None], [True, "b"], 'value: one of 1, "a", null is needed'),
        ({"minLength": 2, "maxLength": 3}, ["ab", 7], ["a", "abcd"], "characters"),
        ({"pattern": "^a"}, ["abc", 7], ["b"], "value: it has to match ^a"),
        ({"minimum": 1, "exclusiveMaximum": 5}, [1, 4.9, "x"], [0, 5], "value: it has to be"),
        ({"maximum": 3, "exclusiveMinimum": 1}, [2, 3], [1, 4], "value: it has to be"),
        ({"multipleOf": 0.1}, [0.3, 1], [0.35], "value: it has to be a multiple of 0.1"),
        ({"multipleOf": 3}, [9, 0], [10], "a multiple of 3"),
        ({"items": {"type": "integer"}}, [[], [1]], [[1, "a"]], "1: integer is needed"),
        ({"prefixItems": [{"type": "string"}], "items": False}, [["a"], []], [["a", 1]], "1: nothing may stand here"),
        ({"minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]], "items are"),
        ({"uniqueItems": True}, [[1, "1", True]], [[1, 1.0], [{"a": 1}, {"a": 1}]], "value: its items have to differ"),
        ({"contains": {"const": 7}}, [[1, 7]], [[], [1]], "none of its items is what is needed"),
        ({"required": ["a"]}, [{"a": None}, 7], [{}], "a: it is missing"),
        ({"properties": {"a": {"type": "string"}}}, [{"a": "x"}, {}], [{"a": 1}], "a: string is needed"),
        ({"additionalProperties": False}, [{}], [{"b": 1}], "b: there is no such field"),
        ({"additionalProperties": {"type": "null"}}, [{"b": None}], [{"b": 1}], "b: null is needed"),
        ({"patternProperties": {"^x": {"type": "null"}}}, [{"x": None, "y": 1}], [{"x1": 1}], "x1: null is needed"),
        ({"propertyNames": {"maxLength": 1}}, [{"a": 1}], [{"ab": 1}], "ab: a field may not be called so"),
        ({"minProperties": 1, "maxProperties": 1}, [{"a": 1}], [{}, {"a": 1, "b": 2}], "fields are"),
        ({"dependentRequired": {"a": ["b"]}}, [{"b": 1}, {"a": 1, "b": 1}], [{"a": 1}], "b: it is missing"),
        ({"dependentSchemas": {"a": {"required": ["b"]}}}, [{}, {"a": 1, "b": 1}], [{"a": 1}], "b: it is missing"),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [3], "at most 2"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ["a", None], [1], "value: string or null is needed"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [0, 4], [2], "more than one of the schemas"),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, ["a"], [1], "value: string or null is needed"),
        ({"not": {"type": "string"}}, [1], ["a"], "it must not fit"),
        ({"if": {"minimum": 5}, "then": {"maximum": 7}, "else": {"minimum": 3}}, [6, 3], [8, 2], "it has to be"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}, [1], [2], "only 1 is allowed"),
        ({"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}, [{"a": {}}], [{"a": {"b": 1}}], "a.b"),
        (
            {"properties": {"a": {"items": {"required": ["b"]}}}},
            [{"a": [{"b": 1}]}],
            [{"a": [{"b": 1}, {}]}],
            "a.1.b: it is missing",
        ),
        (
            {"anyOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"type": "null"}]},
            [{"a": None}],
            [{"a": 1}],
            "a: null is needed",
        ),
    ],
)
def test_a_keyword_holds_and_says_where_it_does_not(
    schema: dict[str, Any], good: list[Any], bad: list[Any], said: str
) -> None:
    assert json_schema.mistakes(schema) == []
    assert [json_schema.problems(schema, value) for value in good] == [[]] * len(good)
    for value in bad:
        assert said in "; ".join(json_schema.problems(schema, value)), value


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("text", "has to be a JSON object"),
        ({"type": object()}, "it is no JSON"),
        ({"minimum": float("nan")}, "it is no JSON"),
        ({"type": "text"}, '/type: "text" is not what this keyword takes'),
        ({"type": []}, "/type"),
        ({"minLength": -1}, "/minLength"),
        ({"minimum": "1"}, "/minimum"),
        ({"multipleOf": 0}, "/multipleOf"),
        ({"pattern": "("}, "/pattern"),
        ({"patternProperties": {"(": {}}}, "no regular expression"),
        ({"properties": []}, "/properties: a JSON object of schemas"),
        ({"properties": {"a": 7}}, "/properties/a: a schema is a JSON object"),
        ({"anyOf": []}, "/anyOf: a list of schemas"),
        ({"anyOf": [{"minimun": 1}]}, "/anyOf/0/minimun: this keyword is not known here"),
        ({"required": "a"}, "/required"),
        ({"enum": []}, "/enum"),
        ({"uniqueItems": 1}, "/uniqueItems"),
        ({"dependentRequired": {"a": "b"}}, "/dependentRequired"),
        ({"$ref": "#/$defs/gone"}, "'#/$defs/gone' is not in this schema"),
        ({"$ref": "https://example.org/schema"}, "is not in this schema"),
        ({"unevaluatedProperties": False}, "this keyword is not known here"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_where_it_is_wrong(schema: Any, problem: str) -> None:
    (found, *_more) = json_schema.mistakes(schema)
    assert problem in found


def test_what_is_stored_demands_the_same_and_has_no_annotations() -> None:
    class Plain(BaseModel):
        """Says something."""

        title: Annotated[str, Field(title="A title", description="what it is", examples=["x"])] = "t"
        default: int = 7

    stored = json_schema.stored(Plain.model_json_schema())
    assert stored == ('{"properties":{"default":{"type":"integer"},"title":{"type":"string"}},"type":"object"}'), (
        "fields that are called as annotations are kept"
    )
    again = json_schema.stored(
        {
            "type": "object",
            "title": "other",
            "properties": {"title": {"type": "string"}, "default": {"type": "integer"}},
        }
    )
    assert again == stored


def test_problems_are_bounded_and_hold_no_value() -> None:
    found = json_schema.problems({"items": {"type": "integer"}}, ["secret"] * 100)
    assert len(found) == json_schema.MOST_PROBLEMS
    assert "secret" not in " ".join(found)


def test_a_schema_that_refers_to_itself_without_end_says_so() -> None:
    schema = {"allOf": [{"$ref": "#"}]}
    assert json_schema.mistakes(schema) == []
    assert json_schema.problems(schema, 1) == ["value: it is nested too deeply"]


@pytest.mark.parametrize("declared", [Order, Item])
def test_what_pydantic_exports_can_be_used(declared: Any) -> None:
    assert json_schema.mistakes(TypeAdapter(declared).json_schema()) == []


# --- what people are shown --------------------------------------------------------------------------------------------


SECRET_TEXT = {"type": "string", "sensitive": True}


@pytest.mark.parametrize(
    ("schema", "value", "shown"),
    [
        ({"properties": {"a": SECRET_TEXT, "b": {}}}, {"a": "x", "b": "y"}, {"a": "-", "b": "y"}),
        ({"properties": {"a": SECRET_TEXT}}, {"a": None}, {"a": None}),
        ({"items": SECRET_TEXT}, ["x", "y"], ["-", "-"]),
        ({"prefixItems": [{}, SECRET_TEXT], "items": {}}, ["x", "y", "z"], ["x", "-", "z"]),
        ({"contains": SECRET_TEXT}, ["x"], ["-"]),
        ({"additionalProperties": SECRET_TEXT, "properties": {"b": {}}}, {"a": "x", "b": "y"}, {"a": "-", "b": "y"}),
        ({"patternProperties": {"^a": SECRET_TEXT}}, {"ab": "x", "b": "y"}, {"ab": "-", "b": "y"}),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}], "$defs": {"A": SECRET_TEXT}}, "x", "-"),
        ({"oneOf": [{"properties": {"a": SECRET_TEXT}}, {"properties": {"b": SECRET_TEXT}}]}, {"a": 1, "b": 2}, None),
        ({"allOf": [{"properties": {"a": {"items": SECRET_TEXT}}}]}, {"a": ["x"]}, {"a": ["-"]}),
        ({"if": {}, "then": {"properties": {"a": SECRET_TEXT}}}, {"a": "x"}, {"a": "-"}),
        ({"dependentSchemas": {"a": {"properties": {"b": SECRET_TEXT}}}}, {"b": "x"}, {"b": "-"}),
        ({"properties": {"a": {"sensitive": False}}}, {"a": "x"}, {"a": "x"}),
    ],
)
def test_what_a_schema_calls_sensitive_is_hidden_in_each_of_its_alternatives(
    schema: dict[str, Any], value: Any, shown: Any
) -> None:
    assert mistakes(schema) == []
    expected = {"a": "-", "b": "-"} if shown is None else shown
    assert without_sensitive(stored(schema), value, "-") == expected


def test_sensitive_says_yes_or_no() -> None:
    assert "/properties/a/sensitive" in mistakes({"properties": {"a": {"sensitive": "yes"}}})[0]


@pytest.mark.timeout(20)
def test_a_schema_that_refers_to_itself_in_several_alternatives_takes_no_longer_than_the_value() -> None:
    names = ("Leaf", "Add", "Mul", "Neg")
    of_any = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    each = {"properties": {"of": of_any, "left": of_any, "secret": SECRET_TEXT}}
    schema = stored({"$defs": dict.fromkeys(names, each), **of_any, "allOf": [{"$ref": "#"}]})
    value: Any = {"secret": "x"}
    for _level in range(90):
        value = {"of": value, "secret": "x"}
    assert '"x"' not in json.dumps(without_sensitive(schema, value, "-"))
