"""Whatever a stage, its undo, an interceptor or a policy raises is the attempt's outcome, by name: no process is lost
to looking at it, to writing it down or to logging it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate

from stageflow_durable import Interceptor, Pipeline, RetryPolicy, RunStatus, StageOutput
from stageflow_durable.engine.outcome import MAX_ERROR
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.testing.plugin import MakeEngine, stageflow_engine
from tests.conformance.engine.acts import Acts

ONCE = RetryPolicy(max_attempts=1)

__all__ = ["stageflow_engine"]


@pytest.fixture
def acts() -> Acts:
    """What this test's stages do and did."""
    return Acts()


class Payload(Exception):
    """Looks its attributes up where they are not."""

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["payload"][name]


class Endless(Exception):
    """Looks its attributes up in itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self, name + "_")


class Trap:
    """An attribute that raises."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __get__(self, _it: object, _kind: type) -> Any:
        raise self._error("the trap")


def trapped(*names: str, base: type[BaseException] = Exception, error: type[BaseException] = KeyError) -> Any:
    """An error whose attributes of these names raise."""
    return type("Trapped", (base,), {name: Trap(error) for name in names})("sprung")


class Shy(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class Text(str):
    """Text that answers otherwise than it is."""

    __slots__ = ()

    def __str__(self) -> Any:
        return self

    def replace(self, *_given: Any) -> Any:
        raise KeyError("replace")

    encode = partition = find = replace  # type: ignore[assignment]  # as said


class Odd(Exception):
    def __str__(self) -> str:
        return Text("odd")


class Mad(type):
    """A class that lies about its name, and cannot be compared."""

    @property
    def __name__(cls) -> Any:  # type: ignore[override]  # as said
        raise KeyError("name")

    def __eq__(cls, _other: object) -> bool:
        raise KeyError("eq")

    def __hash__(cls) -> int:
        raise KeyError("hash")


def mad() -> BaseException:
    return Mad("Mad", (Exception,), {})("sprung")  # type: ignore[no-any-return]  # it is one


def deep(levels: int = 3000) -> BaseException:
    error: Exception = ValueError("inmost")
    for _ in range(levels):
        error = ExceptionGroup("level", [error])
    return error


def wide() -> BaseException:
    return ExceptionGroup("wide", [ValueError(str(number)) for number in range(2_000)])


def chained(links: int = 2000) -> BaseException:
    error: BaseException = ValueError("first")
    for number in range(links):
        after = ValueError(f"link {number}")
        after.__cause__ = error
        error = after
    return error


def circular() -> BaseException:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__context__ = other, one
    return one


def with_context(error: BaseException) -> BaseException:
    after = ValueError("after")
    after.__context__ = error
    return after


STRANGE: dict[str, Any] = {
    "attributes from a payload": lambda: Payload("x"),
    "endless attributes": lambda: Endless("x"),
    "attributes that raise": lambda: trapped(
        "response", "headers", "retry_after", "code", "status", "sqlstate", "errno"
    ),
    "attributes that interrupt": lambda: trapped("response", "status_code", "code", error=KeyboardInterrupt),
    "attributes that exit": lambda: trapped("response", "orig", "pgcode", error=SystemExit),
    "its class": lambda: trapped("__class__"),
    "its class exits": lambda: trapped("__class__", error=SystemExit),
    "its traceback": lambda: trapped("__traceback__", "__cause__", "__context__", "__suppress_context__"),
    "its notes": lambda: trapped("add_note", "__notes__"),
    "its arguments": lambda: trapped("args", "__dict__"),
    "no text": lambda: Shy("x"),
    "odd text": lambda: Odd("x"),
    "a mad class": mad,
    "an OSError whose number raises": lambda: trapped("errno", "strerror", base=OSError),
    "a group whose members raise": lambda: type("G", (ExceptionGroup,), {"exceptions": Trap(KeyError)})(
        "g", [OSError()]
    ),
    "a deep group": deep,
    "a wide group": wide,
    "a long chain": chained,
    "a circle": circular,
    "behind another": lambda: with_context(trapped("sqlstate", "__class__")),
    "behind another, mad": lambda: with_context(mad()),
    "lone surrogates": lambda: ValueError("\udc80 and \ud800"),
    "NUL": lambda: ValueError("a\x00b"),
    "every plane": lambda: ValueError("é 中 \U0001f600 \U0010ffff"),
    "huge": lambda: ValueError("\U0001f600" * 300_000),
    "controls": lambda: ValueError("\x1b[31m\r\n\x07"),
    "a base of its own": lambda: type("Gone", (BaseException,), {})("sprung"),
    "cancelled": asyncio.CancelledError,
    "GeneratorExit": lambda: GeneratorExit("x"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "a group of exits": lambda: BaseExceptionGroup("exits", [SystemExit(1), ValueError("x")]),
    "Ignore": Ignore,
    "Reject": lambda: Reject("x", requeue=True),
    "Retry": lambda: Retry("x", when=3),
    "WorkerShutdown": lambda: WorkerShutdown(0),
    "WorkerTerminate": lambda: WorkerTerminate(1),
    "SoftTimeLimitExceeded": SoftTimeLimitExceeded,
}


def raises(make: Any) -> Any:
    def body(_ctx: Any) -> Any:
        raise make()

    return body


def settled(engine: InProcessEngine, name: str = "line", given: Any = None) -> Any:
    handle = engine.enqueue(name, given or {})
    engine.drain()
    assert engine.crashes == 0
    run = handle.describe()
    assert all(attempt.state != "lost" for stage in run.stages for attempt in stage.attempts)
    return run


def ends(engine: InProcessEngine, *allowed: RunStatus) -> dict[str, str]:
    """One run for each strange error; returns which of them went wrong, and how."""
    wrong = {}
    for name in STRANGE:
        run = settled(engine, given={"error": name})
        says = 0 < len(str(run.error)) <= MAX_ERROR and "\x00" not in str(run.error)
        tries = [len(stage.attempts) for stage in run.stages]
        parked_well = run.park_reason in (None, ParkReason.BUG)
        if run.status not in allowed or not (says or run.error is None) or max(tries) > 1 or not parked_well:
            wrong[name] = f"{run.status} {run.park_reason} {tries} {run.error}"
    return wrong


def strange(ctx: Any) -> Any:
    error = STRANGE[ctx.input["error"]]()
    raise error


def one_stage(body: Any, **options: Any) -> Pipeline[Any, Any]:
    return Pipeline[Any, Any]("line").stage("a", body, **options)


def test_what_a_body_raises_ends_its_one_attempt(stageflow_engine: MakeEngine) -> None:
    engine = stageflow_engine(one_stage(strange), retry=ONCE)
    assert ends(engine, RunStatus.FAILED, RunStatus.PARKED) == {}


def test_what_an_async_body_raises_ends_its_one_attempt(stageflow_engine: MakeEngine) -> None:
    async def body(ctx: Any) -> None:
        strange(ctx)

    engine = stageflow_engine(one_stage(body), retry=ONCE)
    assert ends(engine, RunStatus.FAILED, RunStatus.PARKED) == {}


def test_what_an_undo_raises_ends_its_one_attempt(stageflow_engine: MakeEngine) -> None:
    pipeline = one_stage(lambda _ctx: None, compensate=strange).stage("b", lambda _ctx: StageOutput.reject("no"))
    assert ends(stageflow_engine(pipeline, retry=ONCE), RunStatus.COMPENSATION_FAILED) == {}


class Around(Interceptor):
    """Raises before the body, or after it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        if self.where == "before":
            strange(ctx)
        output: StageOutput = call_next(ctx)
        if self.where == "after":
            strange(ctx)
        return output


class AroundAsync(Around):
    """The same in the loop."""

    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        if self.where == "before":
            strange(ctx)
        output: StageOutput = await call_next(ctx)
        if self.where == "after":
            strange(ctx)
        return output


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", [Around, AroundAsync])
def test_what_an_interceptor_raises_is_the_attempts_outcome(
    stageflow_engine: MakeEngine, kind: Any, where: str
) -> None:
    engine = stageflow_engine(one_stage(lambda _ctx: None), retry=ONCE, interceptors=[kind(where)])
    assert ends(engine, RunStatus.FAILED, RunStatus.PARKED) == {}


async def strange_async(ctx: Any) -> None:
    strange(ctx)


@pytest.mark.parametrize("raising", [strange, strange_async])
def test_what_an_observer_raises_changes_nothing(stageflow_engine: MakeEngine, raising: Any) -> None:
    engine = stageflow_engine(one_stage(lambda _ctx: None), retry=ONCE, observers=[lambda end: raising(end.ctx)])
    assert ends(engine, RunStatus.SUCCEEDED) == {}


def test_what_a_policys_own_function_raises_is_a_bug(stageflow_engine: MakeEngine) -> None:
    error: list[str] = []

    def body(ctx: Any) -> None:
        error[:] = [ctx.input["error"]]
        raise ValueError("x")

    policy = RetryPolicy(max_attempts=1, category_of=lambda _error: raises(STRANGE[error[0]])(None))
    assert ends(stageflow_engine(one_stage(body), retry=policy), RunStatus.PARKED) == {}


class Unsavable:
    """A value that raises whatever is asked of it."""

    def __init__(self, error: str) -> None:
        self.__dict__["error"] = error

    def __getattribute__(self, name: str) -> Any:
        error = STRANGE[object.__getattribute__(self, "__dict__")["error"]]()
        raise error


@pytest.mark.parametrize("where", ["key", "cleanup", "fail", "retry", "output"])
def test_what_anything_else_of_the_applications_raises_loses_no_process(
    stageflow_engine: MakeEngine, where: str
) -> None:
    def body(ctx: Any) -> Any:
        error = ctx.input["error"]
        if where == "cleanup":
            ctx.on_cleanup(lambda: strange(ctx))
        if where in ("fail", "retry"):
            return getattr(StageOutput, where)(STRANGE[error]())
        return Unsavable(error) if where == "output" else None

    engine = stageflow_engine(one_stage(body, key=strange if where == "key" else None), retry=ONCE)
    assert ends(engine, RunStatus.FAILED, RunStatus.PARKED) == {}


EXITS = {"SystemExit: 3": SystemExit(3), "KeyboardInterrupt": KeyboardInterrupt(), "GeneratorExit": GeneratorExit()}


@pytest.mark.parametrize(("said", "error"), EXITS.items(), ids=EXITS)
def test_an_exit_in_a_stage_is_a_bug_and_is_named(
    stageflow_engine: MakeEngine, acts: Acts, said: str, error: BaseException
) -> None:
    acts.play("a", error)
    run = settled(stageflow_engine(acts.line("a")))
    assert (run.status, run.park_reason, run.error) == (RunStatus.PARKED, ParkReason.BUG, said)


def test_give_up_on_and_the_table_hold_for_an_error_that_fails_to_be_looked_at(
    stageflow_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", Payload("x"), Payload("x"), Payload("x"))
    run = settled(stageflow_engine(acts.line("a"), retry=RetryPolicy(max_attempts=3, give_up_on=Payload)))
    assert acts.log == ["a", "undo a unknown"]
    assert run.error == "Payload: x"


def test_a_group_names_its_members(stageflow_engine: MakeEngine, acts: Acts) -> None:
    inner = ExceptionGroup("inner", [KeyError("k"), OSError("gone")])
    acts.play("a", ExceptionGroup("both", [ValueError("v"), inner]))
    run = settled(stageflow_engine(acts.line("a"), retry=ONCE))
    assert run.error == "ExceptionGroup: both (2 sub-exceptions): ValueError: v; KeyError: 'k'; OSError: gone"
    acts.play("a", wide())
    run = settled(stageflow_engine(acts.line("a"), retry=ONCE))
    assert str(run.error).startswith("ExceptionGroup: wide (2000 sub-exceptions): ValueError: 0; ValueError: 1; ")
    assert "more" in str(run.error)


def test_what_no_text_column_takes_is_written_as_escapes(stageflow_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", ValueError("\udc80 a\x00b é"))
    run = settled(stageflow_engine(acts.line("a"), retry=ONCE))
    assert run.error == "ValueError: \\udc80 a\\x00b é"


def test_a_bodys_own_error_counts_before_that_of_its_cleanup(stageflow_engine: MakeEngine) -> None:
    def body(ctx: Any) -> None:
        ctx.on_cleanup(lambda: raises(lambda: KeyError("cleanup"))(None))
        raise ValueError("body")

    run = settled(stageflow_engine(Pipeline[Any, Any]("line").stage("a", body), retry=ONCE))
    assert (run.status, run.error) == (RunStatus.FAILED, "ValueError: body")
