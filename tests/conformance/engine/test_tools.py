"""Calls of tools that can be undone, on each store: written down before they are made, undone with their stage."""

from __future__ import annotations

from typing import Any

from stageflow_durable import PermanentError, Pipeline, RunStatus
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.tools import ToolCall, ToolDefinition, ToolRegistry
from tests.conformance.engine.conftest import MakeEngine
from tests.items import items_for, over


class Hotel:
    """Books a room for each key, and gives it back for each key."""

    def __init__(self) -> None:
        self.booked: dict[str, str] = {}
        self.given_back: set[str] = set()
        self.log: list[str] = []

    def registry(self) -> ToolRegistry:
        def book(room: str, idempotency_key: str) -> str:
            assert idempotency_key not in self.given_back, "booked after it was given back"
            self.booked[idempotency_key] = room
            self.log.append(f"book {room}")
            return f"R-{room}"

        def give_back(call: ToolCall) -> None:
            self.given_back.add(call.idempotency_key)
            self.booked.pop(call.idempotency_key, None)
            self.log.append(f"give back {call.arguments['room']} {call.outcome}")

        return ToolRegistry([ToolDefinition("book", book, undo_handler=give_back, action_type="booking")])


def trip(hotel: Hotel) -> Pipeline[Any, Any]:
    """Two rooms, and a flight that there is not."""

    def rooms(ctx: Any) -> list[str]:
        return [ctx.tools.call("book", room=room) for room in ("1", "2")]

    def flight(_ctx: Any) -> None:
        raise PermanentError("no flight")

    def own(_ctx: Any) -> None:
        hotel.log.append("undo rooms")

    tools = hotel.registry()
    return Pipeline[Any, Any]("trip").stage("rooms", rooms, tools=tools, compensate=own).stage("flight", flight)


def whole(engine: InProcessEngine) -> bool:
    return not [one.problems for one in engine.store.audit(None, {}) if one.problems]


def test_they_are_undone_in_reverse_before_what_their_stage_did(make_engine: MakeEngine) -> None:
    hotel = Hotel()
    engine = make_engine(trip(hotel))
    handle = engine.enqueue("trip", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert hotel.log == ["book 1", "book 2", "give back 2 ok", "give back 1 ok", "undo rooms"]
    rows = engine.store.calls(handle.run_id, "rooms")
    assert [(row.n, row.undoable, row.undone_at is not None) for row in rows] == [(1, True, True), (2, True, True)]
    assert whole(engine)


def test_a_process_that_dies_anywhere_leaves_no_room_booked(make_engine: MakeEngine) -> None:
    hotel = Hotel()
    engine = make_engine(trip(hotel))
    start = len(engine.faults.trace)
    engine.enqueue("trip", {})
    engine.drain()
    story = engine.faults.trace[start:]
    for place, point in enumerate(story):
        if point.call not in ("save_call", "undo_done"):
            continue
        hotel.__init__()  # type: ignore[misc]  # a new season
        engine.faults.at(point.when, point.call, number=story[: place + 1].count(point))
        handle = engine.enqueue("trip", {})
        engine.drain()
        engine.faults.clear()
        assert handle.status() is RunStatus.COMPENSATED, point
        assert hotel.booked == {} and len(hotel.given_back) == 2, point
        assert hotel.log[-1] == "undo rooms", point
        back = [line for line in dict.fromkeys(hotel.log) if line.startswith("give")]
        assert back == ["give back 2 ok", "give back 1 ok"], point
    assert whole(engine)


def test_a_process_that_was_lost_while_it_called_is_undone_as_unknown(make_engine: MakeEngine) -> None:
    """What was begun and never saved may have happened."""
    hotel = Hotel()

    def rooms(ctx: Any) -> None:
        ctx.tools.call("book", room="1")

    tools = hotel.registry()
    engine = make_engine(Pipeline[Any, Any]("trip").stage("rooms", rooms, tools=tools, on_unknown="compensate"))
    handle = engine.enqueue("trip", {})
    engine.faults.at("before", "save_call", number=2)
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert hotel.log == ["book 1", "give back 1 unknown"]
    assert hotel.booked == {}
    assert whole(engine)


def test_a_zombie_cannot_say_that_a_call_was_undone(make_engine: MakeEngine) -> None:
    hotel = Hotel()
    engine = make_engine(trip(hotel))
    zombie = engine.crew[0]

    def takes_over() -> None:
        engine.clock.advance(60)
        engine.sweep()
        engine.step(engine.hired())

    handle = engine.enqueue("trip", {})
    engine.faults.meanwhile("before", "save_call", takes_over, number=5)  # two begun, two saved: the first undo
    while engine.step(zombie):
        pass
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert hotel.booked == {}
    undone = [event.data for event in handle.history() if event.type == "stage.step_undone"]
    assert [(data["number"], data["attempt"]) for data in undone] == [(2, 2), (1, 2)]
    assert whole(engine)


def test_each_item_undoes_its_own_calls(make_engine: MakeEngine) -> None:
    hotel = Hotel()
    engine = make_engine(trip(hotel))
    with items_for({("trip", "rooms"): over("one", "two")}):
        handle = engine.enqueue("trip", {})
        engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert len(hotel.given_back) == 4 and hotel.booked == {}
    assert whole(engine)
