"""Secrets in inputs, outputs, signals and events: stages and programs get them as they are, people see ``***``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from stageflow_durable import Actor, Pipeline, SchemaMigration, Sensitive, StageContext, masking
from stageflow_durable.errors import InvalidInput, NotAllowed, UnknownRun
from stageflow_durable.legible import jsonable
from tests.conformance.engine.conftest import MakeEngine

SECRET = "hunter2-4111"
URL = f"https://ann:{SECRET}@bank.example.com/pay?token={SECRET}"
SHOWN_URL = "https://***@bank.example.com/pay?token=***"
GIVEN = {
    "order_id": "A-1",
    "password": SECRET,
    "headers": {"Authorization": f"Bearer {SECRET}", "Set-Cookie": SECRET, "Accept": "*/*"},
    "hooks": [URL],
    "note": f"call with password={SECRET}",
}
SHOWN = {
    "order_id": "A-1",
    "password": "***",
    "headers": {"Authorization": "***", "Set-Cookie": "***", "Accept": "*/*"},
    "hooks": [SHOWN_URL],
    "note": "call with password=***",
}


class Card(BaseModel):
    number: Annotated[str, Sensitive]
    holder: str
    limits: Annotated[dict[str, int], Sensitive] = Field(default_factory=dict)
    iban: str | None = Field(None, json_schema_extra={"sensitive": True})
    old: list[Annotated[str, Sensitive()]] | None = None


class Payment(BaseModel):
    order_id: str
    card: Card


@dataclass
class Account:
    owner: str
    iban: Annotated[str, Sensitive]
    held: list[Card] = field(default_factory=list)


CARD = Card(number=SECRET, holder="Ann", limits={SECRET: 1}, iban=SECRET, old=[SECRET])
SHOWN_CARD = {
    "number": "(not shown)",
    "holder": "Ann",
    "limits": "(not shown)",
    "iban": "(not shown)",
    "old": "(not shown)",
}


def whole(run: Any) -> str:
    """All that a run shows, as ``stageflow show --json`` prints it."""
    return json.dumps(jsonable(run))


def test_what_is_named_like_a_secret_is_shown_to_nobody_and_stages_get_it(make_engine: MakeEngine) -> None:
    seen: list[Any] = []

    def charge(ctx: StageContext) -> dict[str, Any]:
        seen.append(ctx.input)
        ctx.emit("shop.charged", given=dict(ctx.input))
        return dict(ctx.input)

    def ship(ctx: StageContext) -> None:
        seen.append(ctx.outputs["charge"])

    pipeline = Pipeline("p").stage("charge", charge).stage("ship", ship)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, GIVEN, metadata={"api_key": SECRET, "of": "web"})
    engine.drain()

    run = handle.describe()
    assert (run.input, run.stage("charge").output) == (SHOWN, SHOWN)
    assert run.metadata == {"api_key": "***", "of": "web"}
    event = next(one for one in handle.history() if one.type == "shop.charged")
    assert event.data["given"] == SHOWN
    assert SECRET not in whole(run)
    assert SECRET not in whole(handle.history())
    assert seen == [GIVEN, GIVEN]
    assert handle.outputs()["charge"] == GIVEN
    assert handle.result(for_people=True)["charge"] == SHOWN


def test_what_is_declared_sensitive_is_shown_to_nobody_and_stages_get_it(make_engine: MakeEngine) -> None:
    seen: list[Any] = []

    def charge(ctx: StageContext[Payment]) -> Account:
        seen.append(ctx.input.card)
        ctx.emit("shop.charged", card=ctx.input.card)
        return Account("ann", SECRET, [ctx.input.card])

    def ship(ctx: StageContext[Payment]) -> None:
        seen.append(ctx.output("charge", Account))

    pipeline = Pipeline("p", input_type=Payment).stage("charge", charge).stage("ship", ship)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, Payment(order_id="A-1", card=CARD))
    engine.drain()

    run = handle.describe()
    assert run.input == {"order_id": "A-1", "card": SHOWN_CARD}
    assert run.stage("charge").output == {"owner": "ann", "iban": "(not shown)", "held": [SHOWN_CARD]}
    assert SECRET not in whole(run)
    assert SECRET not in whole(handle.history())
    assert seen == [CARD, Account("ann", SECRET, [CARD])]


def test_a_signal_and_what_is_to_be_approved_are_masked_and_bound_to_the_values(make_engine: MakeEngine) -> None:
    def of(_ctx: StageContext) -> dict[str, Any]:
        return {"account": URL, "token": SECRET, "amount": 42}

    pipeline: Pipeline[Any, Any] = Pipeline("p").wait_for("card", Card).approve("release", of=of)
    pipeline = pipeline.stage("pay", lambda ctx: ctx.output("card", Card).number)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, {})
    engine.work()
    engine.signal(handle.run_id, "card", CARD)
    engine.work()

    asked = handle.describe().stage("release").approval
    assert asked is not None
    assert asked.content == {"account": SHOWN_URL, "token": "***", "amount": 42}
    (listed,) = engine.unapproved()
    assert SECRET not in whole([handle.describe(), listed, handle.history(), engine.runs(attention=True)])
    assert handle.describe().stage("card").output == SHOWN_CARD
    engine.approve(handle.run_id, "release", digest=asked.digest, reason="right", actor=Actor("ann"))
    engine.drain()
    assert handle.outputs()["pay"] == SECRET


def test_a_payload_that_only_the_stored_schema_knows_is_masked_by_it(make_engine: MakeEngine) -> None:
    pipeline: Pipeline[Any, Any] = Pipeline("p").wait_for("card", Card).stage("pay", lambda ctx: ctx.outputs["card"])
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, {})
    engine.work()
    known = dict(engine.pipelines)
    engine.pipelines = {}  # as the command has it, which knows the database alone
    engine.signal(handle.run_id, "card", CARD.model_dump())
    assert SECRET not in whole([handle.describe(), handle.history()])
    engine.pipelines = known
    engine.drain()
    by_schema = SHOWN_CARD | {"old": ["(not shown)"]}
    assert handle.describe().stage("card").output == by_schema
    assert handle.outputs()["pay"]["number"] == SECRET
    assert handle.result(for_people=True)["card"] == by_schema


class Receipt(BaseModel):
    number: str
    iban: Annotated[str, Sensitive]
    api_key: str


def test_the_result_of_a_declared_type_is_masked_for_people_too(make_engine: MakeEngine) -> None:
    pipeline = Pipeline("p", result_type=Receipt)
    engine = make_engine(pipeline.stage("a", lambda _ctx: Receipt(number="r-1", iban=SECRET, api_key=SECRET)))
    handle = engine.enqueue("p", {})
    engine.drain()
    shown: Any = handle.result(for_people=True)
    assert shown == {"number": "r-1", "iban": "(not shown)", "api_key": "***"}
    assert handle.result() == Receipt(number="r-1", iban=SECRET, api_key=SECRET)


def test_a_migration_never_sees_a_mask_and_people_see_what_was_saved(make_engine: MakeEngine) -> None:
    before = Pipeline("p").stage("a", lambda _ctx: {"pin": "1234"}).wait_for("w")
    engine = make_engine(before)
    handle = engine.enqueue("p", {})
    engine.work()
    step = SchemaMigration(outputs={"a": lambda old: {"number": int(old["pin"])}})
    after = Pipeline("p", schema=2, migrations={1: step}).stage("a", lambda _ctx: {"number": 1}).wait_for("w")
    later = make_engine(after)
    later.signal(handle.run_id, "w")
    later.drain()
    again = later.handle(handle.run_id)
    assert again.outputs()["a"] == {"number": 1234}
    assert again.result(for_people=True)["a"] == {"pin": "***"}


def test_an_error_that_repeats_what_a_stage_was_given_is_masked_before_it_is_stored(make_engine: MakeEngine) -> None:
    def charge(ctx: StageContext) -> None:
        raise ValueError(f"the bank refused {dict(ctx.input)!r}")

    pipeline = Pipeline("p").stage("charge", charge)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, GIVEN)
    engine.drain()
    assert "the bank refused" in str(handle.describe().error)
    assert SECRET not in whole([handle.describe(), handle.history()])


def test_names_that_the_settings_give_are_masked_too(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_also", set())  # it is of the whole process
    given = {"IBAN": SECRET, "iban_of": "x", "card": [{"iban": SECRET}]}

    def charge(ctx: StageContext) -> None:
        raise ValueError(f"refused {dict(ctx.input)!r}, iban={SECRET}")

    engine = make_engine(Pipeline("p").stage("a", charge), redact=["iban"])
    handle = engine.enqueue("p", given)
    engine.drain()
    assert handle.describe().input == {"IBAN": "***", "iban_of": "x", "card": [{"iban": "***"}]}
    assert SECRET not in whole([handle.describe(), handle.history()])


# --- revealing --------------------------------------------------------------------------------------------------------


def revealing(make_engine: MakeEngine, **settings: Any) -> tuple[Any, Any]:
    """A run that is over, whose values hold secrets."""
    engine = make_engine(Pipeline("p", input_type=Payment).stage("a", lambda ctx: {"token": SECRET}), **settings)
    handle = engine.enqueue("p", Payment(order_id="A-1", card=CARD), metadata={"password": SECRET})
    engine.drain()
    return engine, handle


def test_who_may_is_shown_the_values_as_they_are_and_stands_in_the_history(make_engine: MakeEngine) -> None:
    engine, handle = revealing(make_engine)
    before = handle.describe()
    shown = engine.reveal(handle.run_id[:20], reason="complaint 812", actor=Actor("ann", authenticated=True))
    assert shown.run_id == handle.run_id
    assert shown.input["card"]["number"] == SECRET
    assert (shown.metadata, shown.outputs) == ({"password": SECRET}, {"a": {"token": SECRET}})
    assert SECRET not in repr(shown)

    last = handle.history()[-1]
    assert (last.type, last.data["actor"], last.data["reason"]) == ("operator.reveal", "ann", "complaint 812")
    assert last.data["authenticated"] is True
    after = handle.describe()
    assert (after.status, after.op_version) == (before.status, before.op_version)
    assert [one.problems for one in engine.audit()] == [()]


def test_it_is_shown_while_a_run_goes_and_the_run_goes_on(make_engine: MakeEngine) -> None:
    pipeline: Pipeline[Any, Any] = Pipeline("p").stage("a", lambda _ctx: {"token": SECRET}).wait_for("w")
    engine = make_engine(pipeline.stage("b", lambda _ctx: None))
    handle = engine.enqueue("p", {})
    engine.work()
    assert engine.reveal(handle.run_id, reason="r", actor="ann").outputs == {"a": {"token": SECRET}}
    engine.signal(handle.run_id, "w")
    engine.drain()
    assert handle.status() == "succeeded"


def test_who_may_not_is_shown_nothing(make_engine: MakeEngine) -> None:
    engine, handle = revealing(make_engine, authorize=lambda _actor, verb, _run: verb != "reveal")
    seen = len(handle.history())
    with pytest.raises(NotAllowed, match="ann may not reveal"):
        engine.reveal(handle.run_id, reason="r", actor="ann")
    with pytest.raises(InvalidInput, match="reason"):
        engine.reveal(handle.run_id, reason=" ", actor="ann")
    with pytest.raises(UnknownRun):
        engine.reveal("0" * 26, reason="r", actor="ann")
    assert len(handle.history()) == seen
