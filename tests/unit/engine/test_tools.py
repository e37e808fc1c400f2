"""Tools: what they take, how they are called, undone, and asked for by models. On the store in memory; how their rows
are written is in ``tests/conformance/engine/test_tools.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

from stageflow_durable import PermanentError, Pipeline, RetryPolicy, RunStatus, StageContext, TransientError
from stageflow_durable.errors import (
    ConfigurationError,
    DefinitionError,
    InvalidInput,
    NothingToUndo,
    ToolTimeout,
    UnknownTool,
)
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from stageflow_durable.tools import ToolCall, ToolDefinition, ToolRegistry, tool

Play = Callable[..., Any]


class Order(BaseModel):
    item: str
    count: int = 1


class Found(BaseModel):
    title: str
    on: date


@tool
def search(query: str, limit: int = 10) -> list[str]:
    """Search the web."""
    return [f"{query} {n}" for n in range(limit)]


@pytest.fixture
def play() -> Iterator[Play]:
    """Run a body as a stage with tools; returns what became of the run, with the engine beside it."""
    with ExitStack() as stack:

        def run(body: Any, *tools: ToolDefinition, registry: ToolRegistry | None = None, **options: Any) -> Any:
            known = ToolRegistry(tools) if registry is None else registry
            pipeline = Pipeline[Any, Any]("p").stage("a", body, tools=known, **options)
            engine = stack.enter_context(engine_for_tests(pipeline, store="memory", audit_key="the audit key of these"))
            handle = engine.enqueue("p", {})
            engine.drain()
            assert [one.problems for one in engine.store.audit(None, {}) if one.problems] == []
            return handle

        yield run


# --- what a tool is ---------------------------------------------------------------------------------------------------


def test_a_registry_refuses_a_second_tool_of_a_name_or_of_an_action() -> None:
    registry = ToolRegistry([search])
    with pytest.raises(ConfigurationError, match="a tool 'search' is registered already"):
        registry.register(search)
    registry.register(ToolDefinition("book", search.handler, action_type="booking"))
    with pytest.raises(ConfigurationError, match="tool 'book' has action type 'booking'"):
        registry.register(ToolDefinition("reserve", search.handler, action_type="booking"))
    with pytest.raises(ConfigurationError, match="is no tool; make one by @tool"):
        registry.register(len)  # type: ignore[arg-type]  # the mistake
    assert [one.name for one in registry] == ["search", "book"]
    assert "search" in registry and len(registry) == 2


def test_the_former_name_of_register_works_and_warns() -> None:
    registry = ToolRegistry()
    with pytest.warns(DeprecationWarning, match=r"register_tool\(\) is now called register\(\)"):
        registry.register_tool(search)
    assert registry["search"] is search


def test_a_tool_that_nobody_registered_is_named_with_those_that_are() -> None:
    with pytest.raises(UnknownTool, match="no tool 'serch'; there are: search"):
        ToolRegistry([search])["serch"]


def test_what_it_takes_follows_from_its_annotations() -> None:
    def handler(query: str, ctx: StageContext[Any], idempotency_key: str, before: date | None = None) -> None:
        """Look for something."""

    made = tool(handler)
    assert (made.name, made.description) == ("handler", "Look for something.")
    assert set(made.input.schema["properties"]) == {"query", "before"}
    assert made.input.schema["required"] == ["query"]
    assert made.input.schema["additionalProperties"] is False
    assert made.input.validated({"query": "x", "before": "2026-01-02"}) == {"query": "x", "before": date(2026, 1, 2)}
    assert search("x", limit=1) == ["x 0"]  # it is called as before


def test_a_parameter_may_be_called_as_models_call_their_methods() -> None:
    def handler(json: str, copy: int, model_name: str) -> str:
        return f"{json} {copy} {model_name}"

    made = tool(handler)
    assert made.input.validated({"json": "x", "copy": 1, "model_name": "y"}) == {
        "json": "x",
        "copy": 1,
        "model_name": "y",
    }


def test_a_model_or_a_schema_may_say_it() -> None:
    with_model = ToolDefinition("order", lambda order: order.item, input_schema=Order)
    assert with_model.input.validated({"item": "x"}) == {"order": Order(item="x")}
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
    with_schema = ToolDefinition("count", lambda **given: given, input_schema=schema)
    assert with_schema.input.validated({"n": 1}) == {"n": 1}
    with pytest.raises(InvalidInput, match="arguments of tool 'count': n:"):
        with_schema.input.validated({"n": 0})


STRANGE: Any = "strange"


def _of_anything(**given: Any) -> None: ...


class Stranger:
    """Nothing that Pydantic knows."""


def _of_a_stranger() -> Stranger: ...  # type: ignore[empty-body]  # only its annotation counts


def _by_place(given: int, /) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ToolDefinition("a b", search.handler), "a name is 1 to 128 letters"),
        (lambda: ToolDefinition("a", STRANGE), "handler 'strange' is no function"),
        (lambda: ToolDefinition("a", search.handler, timeout=0), "timeout"),
        (lambda: ToolDefinition("a", search.handler, retry=STRANGE), "is not a RetryPolicy"),
        (lambda: ToolDefinition("a", search.handler, undo_handler=STRANGE), "undo_handler 'strange' is no"),
        (lambda: ToolDefinition("a", _of_anything), "give input_schema="),
        (lambda: ToolDefinition("a", _by_place), "cannot be given by its name"),
        (lambda: ToolDefinition("a", search.handler, input_schema=Order), "its handler takes one: that model"),
        (lambda: ToolDefinition("a", search.handler, input_schema={"typ": "object"}), "input_schema: "),
        (lambda: ToolDefinition("a", search.handler, input_schema=int), "input_schema is a Pydantic model"),
        (lambda: ToolDefinition("a", search.handler, action_type="a b"), "action_type"),
        (lambda: ToolDefinition("a", _of_a_stranger), "its result cannot come back as Stranger"),
    ],
)
def test_what_cannot_be_a_tool_is_told_where_it_is_declared(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        wrong()


def test_a_stage_takes_a_registry_and_nothing_else() -> None:
    with pytest.raises(DefinitionError, match="is not a ToolRegistry"):
        Pipeline[Any, Any]("p").stage("a", print, tools=[search]).plan  # noqa: B018  # it is made when it is asked for


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_call_is_a_saved_step(play: Play) -> None:
    made: list[str] = []

    def lookup(name: str, token: str, ctx: StageContext[Any], idempotency_key: str) -> Found:
        made.append(f"{name} {ctx.stage} {idempotency_key}")
        return Found(title=name, on=date(2026, 1, 2))

    def body(ctx: Any) -> Any:
        found = ctx.tools.call("lookup", name="x", token="hush")
        assert found == Found(title="x", on=date(2026, 1, 2))
        if ctx.attempt == 1:
            raise TransientError("later")
        return [ctx.tools.call("lookup", {"name": "x", "token": "hush"}, key="k").title, found.title]

    handle = play(body, tool(lookup))
    assert handle.outputs()["a"] == ["x", "x"]
    assert len(made) == len(set(made)) == 2
    told = [event.data for event in handle.history() if event.type == "stage.step_saved"]
    assert [(data["tool"], data["arguments"], data["attempt"]) for data in told] == [
        ("lookup", {"name": "x", "token": "***"}, 1),
        ("lookup", {"name": "x", "token": "***"}, 2),
    ]
    assert all(len(data["result_digest"]) == len(data["arguments_digest"]) == 64 for data in told)
    first = handle.describe().stage("a").steps[0]
    assert (first.tool, first.arguments["name"], first.result["title"]) == (True, "x", "x")


def test_in_a_coroutine_calls_go_side_by_side(play: Play) -> None:
    together: list[int] = []
    busy = [0]

    async def slow(n: int) -> int:
        busy[0] += 1
        together.append(busy[0])
        await asyncio.sleep(0.01)
        busy[0] -= 1
        return n

    def plain(n: int) -> int:
        return -n

    async def body(ctx: Any) -> Any:
        return await asyncio.gather(*(ctx.tools.call("slow", n=n) for n in range(3)), ctx.tools.call("plain", n=3))

    assert play(body, tool(slow), tool(plain)).outputs()["a"] == [0, 1, 2, -3]
    assert max(together) == 3


def test_a_def_may_call_an_async_tool(play: Play) -> None:
    async def slow(n: int) -> int:
        await asyncio.sleep(0)
        return n

    assert play(lambda ctx: ctx.tools.call("slow", n=1), tool(slow)).outputs()["a"] == 1


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_call_is_tried_again_as_its_policy_says_with_one_key(play: Play, coroutine: bool) -> None:
    keys: list[str] = []

    def flaky(idempotency_key: str) -> int:
        keys.append(idempotency_key)
        if len(keys) < 3:
            raise TransientError("busy")
        return len(keys)

    async def awaits(ctx: Any) -> Any:
        return await ctx.tools.call("flaky")

    policy = RetryPolicy(max_attempts=3, base_delay=0.001, jitter="none")
    handle = play(
        awaits if coroutine else lambda ctx: ctx.tools.call("flaky"), ToolDefinition("flaky", flaky, retry=policy)
    )
    assert handle.outputs()["a"] == 3
    assert len(set(keys)) == 1
    failed = [event.data for event in handle.history() if event.type == "stage.step_failed"]
    assert [(data["try"], data["error"]) for data in failed] == [
        (1, "TransientError: busy"),
        (2, "TransientError: busy"),
    ]


def test_calls_that_are_cut_off_while_they_begin_leave_nothing_behind(play: Play) -> None:
    """Cancelled at its first step, while the database is asked: whoever asks for the same makes it."""
    made: list[int] = []

    async def once(n: int) -> int:
        made.append(n)
        return n

    async def body(ctx: Any) -> Any:
        for _time in range(3):
            cut_off = asyncio.ensure_future(ctx.tools.call("once", {"n": 1}, key="k"))
            await asyncio.sleep(0)
            cut_off.cancel()
            await asyncio.wait([cut_off])
        return await asyncio.wait_for(ctx.tools.call("once", {"n": 1}, key="k"), 5)

    assert play(body, tool(once)).outputs()["a"] == 1
    assert made == [1]


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("handler", ["def", "async def"])
def test_a_call_that_takes_too_long_is_over(play: Play, coroutine: bool, handler: str) -> None:
    import time

    def sleeps() -> str:
        time.sleep(0.15)  # a tool that takes its time
        return "late"

    async def asleeps() -> str:
        await asyncio.sleep(5)
        return "late"

    def body(ctx: Any) -> str:
        with pytest.raises(ToolTimeout, match="'slow' took longer than its timeout of 0.05 s"):
            ctx.tools.call("slow")
        return "over"

    async def abody(ctx: Any) -> str:
        with pytest.raises(ToolTimeout, match="'slow' took longer than its timeout of 0.05 s"):
            await ctx.tools.call("slow")
        return "over"

    slow = ToolDefinition("slow", sleeps if handler == "def" else asleeps, timeout=0.05)
    assert play(abody if coroutine else body, slow).outputs()["a"] == "over"


def test_what_does_not_fit_is_refused_before_anything_is_done(play: Play) -> None:
    def body(ctx: Any) -> int:
        wrongs: list[Any] = [{}, {"query": "x", "limit": "many"}, {"query": "x", "other": 1}, []]
        for wrong in wrongs:
            with pytest.raises(InvalidInput, match="arguments of tool 'search'"):
                ctx.tools.call("search", wrong)
        with pytest.raises(ConfigurationError, match="not both"):
            ctx.tools.call("search", {"query": "x"}, query="y")
        return len(ctx.tools.calls)

    assert play(body, search).outputs()["a"] == 0


def test_a_stage_without_tools_says_how_it_gets_some() -> None:
    with engine_for_tests(Pipeline[Any, Any]("p").stage("a", lambda ctx: ctx.tools), store="memory") as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        assert "tools=ToolRegistry" in str(handle.describe().error)


# --- undoing ----------------------------------------------------------------------------------------------------------


class Hotel:
    """Books rooms, each key once, and gives them back."""

    def __init__(self) -> None:
        self.booked: dict[str, str] = {}
        self.log: list[str] = []
        self.stuck = 0

    def tools(self, **options: Any) -> ToolRegistry:
        def book(room: str, idempotency_key: str) -> str:
            self.booked[idempotency_key] = room
            self.log.append(f"book {room}")
            return f"R-{room}"

        def give_back(call: ToolCall) -> None:
            if self.stuck:
                self.stuck -= 1
                raise TransientError("the hotel does not answer")
            self.booked.pop(call.idempotency_key, None)
            self.log.append(f"give back {call.arguments['room']} {call.outcome} {call.result}")

        made = ToolDefinition("book", book, undo_handler=give_back, action_type="booking", **options)
        return ToolRegistry([made, search])


def fails(ctx: Any) -> None:
    for room in ("1", "2"):
        ctx.tools.call("book", room=room)
    raise PermanentError("no flight")


def test_calls_are_undone_in_reverse_before_their_stages_own_undo(play: Play) -> None:
    hotel = Hotel()
    handle = play(fails, registry=hotel.tools(), compensate=lambda _ctx: hotel.log.append("undo a"))
    assert handle.status() is RunStatus.COMPENSATED
    assert hotel.log == ["book 1", "book 2", "give back 2 ok R-2", "give back 1 ok R-1", "undo a"]
    assert hotel.booked == {}
    assert [step.undone_at is not None for step in handle.describe().stage("a").steps] == [True, True]
    undone = [event.data for event in handle.history() if event.type == "stage.step_undone"]
    assert [(data["tool"], data["action"], data["number"]) for data in undone] == [
        ("book", "booking", 2),
        ("book", "booking", 1),
    ]


def test_a_stage_without_an_undo_of_its_own_has_that_of_its_calls(play: Play) -> None:
    hotel = Hotel()
    handle = play(fails, registry=hotel.tools())
    assert handle.status() is RunStatus.COMPENSATED
    assert hotel.booked == {}


def test_an_undo_that_failed_half_way_goes_on_where_it_was(play: Play) -> None:
    hotel = Hotel()

    def own(_ctx: Any) -> None:
        hotel.log.append("undo a")
        if hotel.log.count("undo a") < 2:
            raise TransientError("busy")

    hotel.stuck = 1
    assert play(fails, registry=hotel.tools(), compensate=own).status() is RunStatus.COMPENSATED
    assert hotel.log[2:] == ["give back 2 ok R-2", "give back 1 ok R-1", "undo a", "undo a"]


def test_a_body_cannot_vouch_away_what_its_tools_did(play: Play) -> None:
    from stageflow_durable import StageOutput

    hotel = Hotel()

    def body(ctx: Any) -> Any:
        ctx.tools.call("book", room="1")
        return StageOutput.reject("too expensive")

    assert play(body, registry=hotel.tools()).status() is RunStatus.COMPENSATED
    assert hotel.booked == {}


def test_a_call_of_which_nobody_knows_whether_it_happened_is_undone_as_unknown(play: Play) -> None:
    log: list[str] = []

    def book(room: str) -> str:
        raise PermanentError("the answer was lost")

    def body(ctx: Any) -> Any:
        ctx.tools.call("book", room="1")

    made = ToolDefinition("book", book, undo_handler=lambda call: log.append(f"{call.outcome} {call.result}"))
    assert play(body, made).status() is RunStatus.COMPENSATED
    assert log == ["unknown None"]


def test_a_body_undoes_a_call_once(play: Play) -> None:
    hotel = Hotel()
    registry = hotel.tools()

    def body(ctx: Any) -> Any:
        ctx.tools.call("book", room="1")
        (call,) = ctx.tools.calls
        registry.undo(call)
        for again in (call, *ctx.tools.calls):
            with pytest.raises(NothingToUndo, match="call 1 of 'book' was undone before"):
                registry.undo(again)
        ctx.tools.call("search", query="x")
        with pytest.raises(NothingToUndo, match="its tool has no undo_handler"):
            registry.undo(ctx.tools.calls[-1])
        return [call.tool for call in ctx.tools.calls]

    assert play(body, registry=registry).outputs()["a"] == ["search"]
    assert hotel.log == ["book 1", "give back 1 ok R-1"]


def test_another_attempt_undoes_what_an_earlier_one_called_and_calls_anew_what_was_undone(play: Play) -> None:
    hotel = Hotel()
    registry = hotel.tools()

    async def body(ctx: Any) -> Any:
        await registry.execute(ctx, "book", {"room": "1"}, key="k")
        if ctx.attempt == 1:
            raise TransientError("later")
        if ctx.attempt == 2:
            await registry.undo(ctx.tools.calls[0])
            raise TransientError("and later")
        return [call.number for call in ctx.tools.calls]

    assert play(body, registry=registry, retry=RetryPolicy(max_attempts=3)).outputs()["a"] == [2]
    assert hotel.log == ["book 1", "give back 1 ok R-1", "book 1"]
    assert len(hotel.booked) == 1


def test_a_tool_with_an_undo_that_came_too_late_is_refused(play: Play) -> None:
    registry = ToolRegistry([search])
    pipeline = Pipeline[Any, Any]("p").stage("a", lambda ctx: ctx.tools.call("book", room="1"), tools=registry)
    registry.register(Hotel().tools()["book"])
    with engine_for_tests(pipeline, store="memory") as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        assert handle.describe().park_reason is ParkReason.BUG
        assert "register tools first" in str(handle.describe().error)


# --- what models ask for ----------------------------------------------------------------------------------------------


def _chat(*calls: tuple[str, str]) -> dict[str, Any]:
    functions = [
        {"id": f"c{n}", "type": "function", "function": dict(zip(("name", "arguments"), call, strict=True))}
        for n, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": functions}


def test_a_chat_of_openai_is_answered_call_by_call(play: Play) -> None:
    message = _chat(("search", '{"query": "x", "limit": 1}'), ("serch", "{}"), ("search", "{]"), ("search", '{"q": 1}'))
    told = play(lambda ctx: ctx.tools.answer(message), search).outputs()["a"]
    assert [(one["role"], one["tool_call_id"]) for one in told] == [("tool", f"c{n}") for n in range(4)]
    assert json.loads(told[0]["content"]) == ["x 0"]
    assert told[1]["content"] == "error: UnknownTool: no tool 'serch'; there are: search"
    assert "the arguments are no JSON" in told[2]["content"]
    assert "query: Field required" in told[3]["content"]


def test_the_responses_of_openai_are_answered_in_kind(play: Play) -> None:
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "f1", "name": "search", "arguments": '{"query": "x", "limit": 1}'},
    ]
    told = play(lambda ctx: ctx.tools.answer(output), search).outputs()["a"]
    assert told == [{"type": "function_call_output", "call_id": "f1", "output": '["x 0"]'}]


def test_a_message_of_anthropics_is_answered_by_one(play: Play) -> None:
    async def body(ctx: Any) -> Any:
        blocks = [{"type": "text", "text": "let me see"}] + [
            {"type": "tool_use", "id": f"t{n}", "name": "search", "input": {"query": "x", "limit": n}}
            for n in (1, "many")
        ]
        return await ctx.tools.answer({"role": "assistant", "content": blocks})

    (told,) = play(body, search).outputs()["a"]
    assert told["role"] == "user"
    assert told["content"][0] == {"type": "tool_result", "tool_use_id": "t1", "content": '["x 0"]'}
    assert told["content"][1]["is_error"] is True


def test_a_request_of_mcps_is_answered_in_kind(play: Play) -> None:
    def where(city: str) -> dict[str, float]:
        return {"lat": 1.0}

    request = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "where", "arguments": {"city": "x"}},
    }
    told = play(lambda ctx: ctx.tools.answer(request), tool(where)).outputs()["a"]
    assert told == [
        {
            "jsonrpc": "2.0",
            "id": 7,
            "result": {
                "content": [{"type": "text", "text": '{"lat": 1.0}'}],
                "isError": False,
                "structuredContent": {"lat": 1.0},
            },
        }
    ]


@pytest.mark.parametrize(
    "strange", ["text", [1], {"tool_calls": {"a": 1}}, {"tool_calls": [{"function": {}}]}, {"method": "tools/call"}]
)
def test_what_is_no_message_is_refused(play: Play, strange: Any) -> None:
    def body(ctx: Any) -> str:
        with pytest.raises(InvalidInput, match="message: "):
            ctx.tools.answer(strange)
        return "refused"

    assert play(body, search).outputs()["a"] == "refused"


def test_a_message_without_calls_has_no_answer(play: Play) -> None:
    assert play(lambda ctx: ctx.tools.answer({"role": "assistant", "content": "done"}), search).outputs()["a"] == []


def test_what_may_pass_by_itself_is_the_stages_and_not_the_models(play: Play) -> None:
    made: list[int] = []

    def flaky(n: int) -> int:
        made.append(n)
        if n == 2 and made.count(2) == 1:
            raise ConnectionError("gone")
        return n

    async def body(ctx: Any) -> Any:
        return [one["content"] for one in await ctx.tools.answer(_chat(("flaky", '{"n": 1}'), ("flaky", '{"n": 2}')))]

    assert play(body, tool(flaky)).outputs()["a"] == ["1", "2"]
    assert sorted(made) == [1, 2, 2]


def test_models_are_told_of_tools_in_their_forms() -> None:
    registry = ToolRegistry([search])
    schema = search.input.schema
    assert registry.openai()[0]["function"] == {
        "name": "search",
        "description": "Search the web.",
        "parameters": schema,
    }
    assert registry.openai_responses()[0]["name"] == "search"
    assert registry.anthropic() == [{"name": "search", "description": "Search the web.", "input_schema": schema}]
    assert registry.mcp()[0]["inputSchema"] == schema


# --- an agent ---------------------------------------------------------------------------------------------------------


def agent(bank: dict[str, int], asked: list[int]) -> Any:
    """An agent that books and pays as a scripted model says, and what it needs."""

    def pay(cents: int, idempotency_key: str) -> str:
        bank.setdefault(idempotency_key, cents)
        return f"paid {cents}"

    def pay_back(call: ToolCall) -> None:
        bank.pop(call.idempotency_key, None)

    script = [
        ("pay", '{"cents": 5}'),
        ("look", '{"at": "the balance"}'),
        ("pay", '{"cents": 7}'),
        ("pay", '{"cents": 5}'),
    ]

    def model(messages: list[Any]) -> dict[str, Any]:
        """It never says the same twice: each answer has an id of its own, as a real one's has."""
        asked.append(len(messages))
        turn = sum(one["role"] == "assistant" for one in messages)
        if turn == len(script):
            return {"role": "assistant", "content": "done", "tool_calls": None}
        message = _chat(script[turn])
        message["tool_calls"][0]["id"] = f"call {len(asked)}"
        return message

    def look(at: str) -> int:
        return sum(bank.values())

    tools = ToolRegistry([ToolDefinition("pay", pay, undo_handler=pay_back), tool(look)])

    def body(ctx: Any) -> str:
        messages: list[Any] = [{"role": "user", "content": "pay them"}]
        while True:
            message = ctx.step("model", model, messages)
            messages.append(message)
            answers = ctx.tools.answer(message)
            if not answers:
                return str(message["content"])
            messages += answers

    return Pipeline[Any, Any]("p").stage("agent", body, tools=tools)


def test_an_agent_that_is_killed_at_every_step_ends_with_the_same_ledger() -> None:
    bank: dict[str, int] = {}
    asked: list[int] = []
    with engine_for_tests(agent(bank, asked), store="memory", audit_key="the audit key of these") as engine:
        start = len(engine.faults.trace)
        engine.enqueue("p", {})
        engine.drain()
        story = engine.faults.trace[start:]
        assert sorted(bank.values()) == [5, 5, 7]
        kills = [n for n, point in enumerate(story) if point.call in ("begin", "save_call", "succeed")]
        assert len(kills) > 20
        for number in kills:
            _killed(engine, bank, asked, story, number)
        assert [one.problems for one in engine.store.audit(None, {}) if one.problems] == []


def _killed(engine: InProcessEngine, bank: dict[str, int], asked: list[int], story: Any, number: int) -> None:
    bank.clear()
    asked.clear()
    point = story[number]
    engine.faults.at(point.when, point.call, number=story[: number + 1].count(point))
    handle = engine.enqueue("p", {})
    engine.drain()
    engine.faults.clear()
    assert handle.outputs() == {"agent": "done"}, point
    assert sorted(bank.values()) == [5, 5, 7], point
    assert len(asked) <= 6, point  # the model is asked again at most once: what it said was saved
