"""A sandbox as a stage: what it hands on, and what ends it; the keeper is a fake."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from stageflow_durable.errors import ConfigurationError, StageCancelled, StoreUnavailable
from stageflow_durable.model.stage import Stage
from stageflow_durable.sandbox import SandboxLevel, SandboxPolicy, SandboxStage, ToolFailed, backends
from stageflow_durable.sandbox.backends import Order


@dataclass
class Context:
    """What a stage gets, as far as a sandbox asks."""

    input: Any = field(default_factory=lambda: {"n": 1})
    idempotency_key: str = "run:tool"
    looks: list[Exception] = field(default_factory=list)

    def raise_if_cancelled(self) -> None:
        if self.looks:
            raise self.looks.pop(0)


class Fake:
    """Looks as often as a test says, and answers."""

    name, level, not_stopped = "bubblewrap", SandboxLevel.CONTAINER, ""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.looks = 1
        self.code = 0

    def run(self, order: Order, look: Callable[[], None]) -> dict[str, Any]:
        probing = order.stdin == b"works\n"
        if not probing:
            self.orders.append(order)
            for _ in range(self.looks):
                look()
        said = {"stdout": b"it works\n", "stderr": b"why\n"}
        usage: Mapping[str, float] = {"wall_seconds": 1}
        packed = {name: b64encode(data).decode() for name, data in said.items()}
        return {**packed, "exit_code": 0 if probing else self.code, "over": None, "files": {}, "usage": usage}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(backends, "_verdicts", {})
    monkeypatch.setattr(backends, "BACKENDS", (made,))
    return made


def execute(stage: SandboxStage, ctx: Context) -> dict[str, Any]:
    given: Any = ctx
    return stage.execute(given)


def test_the_runs_input_is_its_stdin_and_the_key_a_variable(fake: Fake) -> None:
    output = execute(SandboxStage(["convert", "-q"]), Context())
    (order,) = fake.orders
    assert order.program.words == ("convert", "-q")
    assert order.stdin == b'{"n": 1}'
    assert order.variables == {"STAGEFLOW_IDEMPOTENCY_KEY": "run:tool"}
    assert output["exit_code"] == 0
    assert output["stdout"] == "it works\n"
    assert set(output) == {"exit_code", "stdout", "stderr", "files", "usage", "backend", "value"}


def test_input_and_files_may_be_made_of_the_context(fake: Fake) -> None:
    stage = SandboxStage(["x"], input=lambda ctx: ctx.input["n"], files=lambda ctx: {"a.txt": "text", "b": b"\0"})
    execute(stage, Context())
    assert fake.orders[0].stdin == b"1"
    assert fake.orders[0].files == {"a.txt": b"text", "b": b"\0"}


def test_a_database_that_is_away_ends_no_tool_and_a_run_that_stops_does(fake: Fake) -> None:
    fake.looks = 2
    execute(SandboxStage(["x"]), Context(looks=[StoreUnavailable("away"), StoreUnavailable("away")]))
    with pytest.raises(StageCancelled):
        execute(SandboxStage(["x"]), Context(looks=[StoreUnavailable("away"), StageCancelled("stopping")]))


def test_an_exit_code_is_a_failure_for_good_with_its_last_words(fake: Fake) -> None:
    fake.code = 3
    with pytest.raises(ToolFailed, match="convert ended with exit code 3: why"):
        execute(SandboxStage(["convert"]), Context())


def test_it_is_a_stage_object_with_the_tools_name() -> None:
    assert isinstance(SandboxStage(["/usr/bin/convert", "x"]), Stage)
    assert SandboxStage(["/usr/bin/convert", "x"]).name == "convert"
    assert SandboxStage(["x"], name="render").name == "render"


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("convert -q", {}),
        ([], {}),
        (["x"], {"policy": {"wall": 3}}),
        (["x"], {"input": {"n": 1}}),
        (["x"], {"files": ["a.txt"]}),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused_where_it_is_defined(what: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SandboxStage(what, **options)


def test_files_that_are_more_than_the_work_directory_holds_are_refused(fake: Fake) -> None:
    with pytest.raises(ConfigurationError, match="work directory"):
        execute(SandboxStage(["x"], SandboxPolicy(), files=lambda _: {"big": b"x" * (65 << 20)}), Context())
    with pytest.raises(ConfigurationError, match="no name of a file"):
        execute(SandboxStage(["x"], files=lambda _: {"../x": b""}), Context())
