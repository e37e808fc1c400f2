"""``stageflow sandbox``, and what doctor says of sandboxed stages; backends are fakes, real ones are tests/sandbox."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import Pipeline
from stageflow_durable.cli.checks import Check, Level
from stageflow_durable.cli.sandbox import stages
from stageflow_durable.sandbox import SandboxLevel, SandboxPolicy, SandboxStage, SandboxUnavailable, backends
from stageflow_durable.sandbox.backends import Order
from tests.cli.conftest import Invoke


class Fake:
    """A backend that answers what a test says."""

    not_stopped = "a flaw of the kernel"

    def __init__(self, name: str, level: SandboxLevel) -> None:
        self.name, self.level = name, level
        self.broken: str | None = None
        self.answer: dict[str, Any] = {}
        self.orders: list[Order] = []

    def run(self, order: Order, look: Callable[[], None]) -> dict[str, Any]:
        if self.broken:
            raise SandboxUnavailable(self.broken)
        probing = order.stdin == b"works\n"
        self.orders += [] if probing else [order]
        said = {"stdout": b"it works\n", "stderr": b"", "files": {}, "exit_code": 0, "over": None}
        usage = {"wall_seconds": 0.5, "cpu_seconds": 0.1, "memory_bytes": 1024}
        found = {**said, "usage": usage, **({} if probing else self.answer)}
        return {name: b64encode(part).decode() if isinstance(part, bytes) else part for name, part in found.items()}


@pytest.fixture
def strong(monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(backends, "_verdicts", {})
    made = Fake("bubblewrap", SandboxLevel.CONTAINER)
    monkeypatch.setattr(backends, "BACKENDS", (made, Fake("process", SandboxLevel.PROCESS)))
    return made


def test_probe_says_of_each_backend_whether_it_works_and_why_not(invoke: Invoke, strong: Fake) -> None:
    strong.broken = "postgresql://u:secret@h \x1b[2J is no namespace"
    result = invoke("sandbox", "probe")
    assert result.exit_code == 1
    assert "NO" in result.stdout
    assert "\\x1b[2J is no namespace" in result.stdout
    assert "secret" not in result.stdout
    found = json.loads(invoke("sandbox", "probe", "--json").stdout)
    assert [(one["backend"], one["level"], one["works"]) for one in found] == [
        ("bubblewrap", "container", False),
        ("process", "process", True),
    ]


def test_probe_ends_with_0_where_something_isolates(invoke: Invoke, strong: Fake) -> None:
    result = invoke("sandbox", "probe")
    assert result.exit_code == 0
    assert "does not stop: a flaw of the kernel" in result.stdout


def test_run_shows_what_came_out_harmlessly(invoke: Invoke, strong: Fake) -> None:
    strong.answer = {
        "stdout": b"one\x1b[2J\ntwo\n",
        "stderr": b"talk\n",
        "files": {"r.txt": b64encode(b"\x07in").decode()},
    }
    result = invoke("sandbox", "run", "--output", "r.txt", "--input", '{"n": 1}', "--wall", "2s", "tool", "--flag", "x")
    assert result.exit_code == 0, result.output
    assert result.stdout == "one\\x1b[2J\ntwo\n\\x07in\n"
    assert "exit code 0, by bubblewrap" in result.stderr
    (order,) = strong.orders
    assert order.program.words == ("tool", "--flag", "x")
    assert order.stdin == b'{"n": 1}'
    assert order.policy.limits.wall == 2.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"exit_code": 3, "stderr": b"no \x1b[0m order\n"}, r"tool ended with exit code 3: no \x1b[0m order"),
        ({"over": "wall"}, "tool was ended at its limit of wall, 60"),
    ],
)
def test_a_tool_that_fails_is_one_line_and_exit_1(
    invoke: Invoke, strong: Fake, answer: dict[str, Any], said: str
) -> None:
    strong.answer = answer
    result = invoke("sandbox", "run", "tool")
    assert result.exit_code == 1
    assert said in result.stderr


def test_given_nothing_that_isolates_so_much_then_nothing_is_run(invoke: Invoke, strong: Fake) -> None:
    result = invoke("sandbox", "run", "--level", "machine", "tool")
    assert result.exit_code == 1
    assert "nothing here isolates at level MACHINE, and nothing was run" in result.stderr
    assert strong.orders == []


def test_run_takes_json_alone(invoke: Invoke, strong: Fake) -> None:
    assert invoke("sandbox", "run", "--input", "{", "tool").exit_code == 2


# --- doctor -----------------------------------------------------------------------------------------------------------


def looked_at(*stage: SandboxStage) -> list[Check]:
    pipeline = Pipeline[Any, Any]("shop")
    for number, one in enumerate(stage):
        pipeline = pipeline.stage(f"tool-{number}", one)
    return list(stages((pipeline.stage("plain", lambda ctx: None),)))


def test_doctor_says_nothing_of_sandboxes_where_there_are_none() -> None:
    assert looked_at() == []


def test_doctor_finds_stages_whose_sandbox_cannot_be_had(strong: Fake) -> None:
    (fine,) = looked_at(SandboxStage(["tool"]))
    assert fine.level is Level.OK
    backends._verdicts.clear()
    strong.broken = "no namespaces"
    (found,) = looked_at(SandboxStage(["tool"]))
    assert found.level is Level.FAIL
    assert "shop.tool-0: nothing here isolates at level CONTAINER" in found.message
    (weak,) = looked_at(SandboxStage(["tool"], SandboxPolicy(minimum_level=SandboxLevel.PROCESS)))
    assert weak.level is Level.WARN
