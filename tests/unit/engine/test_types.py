"""What mypy and an editor see of an engine and its handles: read by mypy in one go, expectation by expectation."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from stageflow_durable import Engine, RunHandle
from tests.project.tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("mypy")]

READ_WHILE_ITERATED = {"standings", "audit", "audit_heads"}
"""They give an iterator that reads as it goes: in the thread nothing would have been read."""

ASKS_NOTHING = {"pipeline", "worker_settings", "embedded", "close"}
"""They ask neither the database nor the broker, so that an event loop does not wait for them."""

BEFORE = """
import asyncio
from typing import Any
from pydantic import BaseModel
from stageflow_durable import Engine, Pipeline, RunHandle

class Order(BaseModel):
    order_id: str

class Receipt(BaseModel):
    payment_id: str

checkout = Pipeline("checkout", input_type=Order, result_type=Receipt)
untyped = Pipeline("untyped")
engine = Engine("shop", [checkout, untyped])
handle: RunHandle[Receipt]
"""

TYPES = {
    "engine.enqueue(checkout, Order(order_id='A-1'))": "RunHandle[Receipt]",
    "engine.enqueue(checkout, {'order_id': 'A-1'}).result()": "Receipt",
    "engine.enqueue('checkout', {'order_id': 'A-1'})": "RunHandle[Any]",
    "engine.enqueue('checkout', Order(order_id='A-1')).result()": "Any",
    "engine.enqueue(untyped, {}).result(timeout=3)": "Any",
    "engine.enqueue_many(checkout, [])": "list[RunHandle[Receipt] | StageflowError]",
    "engine.handle('01J9F2')": "RunHandle[Any]",
    "engine.pipeline(checkout)": "Pipeline[Order, Receipt]",
    "asyncio.run(engine.aenqueue(checkout, Order(order_id='A-1')))": "RunHandle[Receipt]",
    "asyncio.run(engine.aenqueue('checkout', {}))": "RunHandle[Any]",
    "asyncio.run(handle.aresult(timeout=3))": "Receipt",
    "asyncio.run(engine.acancel('01J9F2', reason='r', actor='a'))": "RunSummary",
    "asyncio.run(engine.afork('01J9F2', 'charge'))": "RunHandle[Any]",
}

REFUSED = [
    "engine.enqueue(checkout, Receipt(payment_id='P'))",
    "engine.enqueue(checkout, 'A-1')",
    "engine.enqueue(checkout, Order(order_id='A-1'), idempotency='k')",
    "engine.cancel('01J9F2', reason='no actor')",
    "engine.runs(status='parked', offset=3)",
    "asyncio.run(engine.aenqueue(checkout, Receipt(payment_id='P')))",
    "asyncio.run(engine.aenqueue(checkout, Order(order_id='A-1'), idempotency='k'))",
    "asyncio.run(engine.acancel('01J9F2', reason='no actor'))",
    "asyncio.run(engine.aruns(status='parked', offset=3))",
    "asyncio.run(handle.aresult(timeout='soon'))",
    "number: int = handle.result()",
]


def _public(cls: type[Any]) -> dict[str, Callable[..., Any]]:
    return {
        name: member
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (inspect.isfunction(member) or inspect.ismethod(member))
    }


def _twins(cls: type[Any]) -> dict[str, str]:
    """Each twin's name, and its method's."""
    found = _public(cls)
    return {f"a{name}": name for name in found if f"a{name}" in found}


TWINS = [(cls, twin, name) for cls in (Engine, RunHandle) for twin, name in _twins(cls).items()]
_SEEN_AS = {Engine: "engine", RunHandle: "handle"}


@pytest.fixture(scope="module")
def mypy_says(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What mypy says about each line: the type that it reveals, or the error."""
    twins = [f"{_SEEN_AS[cls]}.{name}" for cls, twin, method in TWINS for name in (twin, method)]
    lines = [*(f"reveal_type({expression})" for expression in [*TYPES, *twins]), *REFUSED]
    file = tmp_path_factory.mktemp("types") / "snippet.py"
    file.write_text(BEFORE + "\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said: dict[str, str] = {}
    for line in done.stdout.splitlines():
        found = re.search(r"snippet\.py:(\d+): (?:note|error): (.*)", line)
        assert found, f"mypy could not read it: {line}"
        number = int(found[1]) - 1 - BEFORE.count("\n")
        assert number >= 0, line
        said.setdefault(re.sub(r"^reveal_type\((.*)\)$", r"\1", lines[number]), found[2])
    assert said, done.stderr
    return said


def _without_modules(said: str) -> str:
    revealed = re.fullmatch(r'Revealed type is "(.*)"', said)
    assert revealed, said
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", revealed[1])


@pytest.mark.parametrize("expression", TYPES)
def test_a_run_has_the_types_that_its_pipeline_says(mypy_says: Mapping[str, str], expression: str) -> None:
    assert _without_modules(mypy_says[expression]) == TYPES[expression]


@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_fit_is_refused(mypy_says: Mapping[str, str], line: str) -> None:
    assert line in mypy_says
    assert "Revealed type" not in mypy_says[line]


@pytest.mark.parametrize(("cls", "twin", "name"), TWINS)
def test_mypy_sees_of_a_twin_what_it_sees_of_its_method_awaited(
    mypy_says: Mapping[str, str], cls: type[Any], twin: str, name: str
) -> None:
    method = _without_modules(mypy_says[f"{_SEEN_AS[cls]}.{name}"])
    parameters, returned = re.fullmatch(r"(def .*\)) -> (.*)", method).groups()  # type: ignore[union-attr]  # it fits
    awaited = f"Async{returned}" if returned.startswith("Iterator[") else f"Coroutine[Any, Any, {returned}]"
    assert _without_modules(mypy_says[f"{_SEEN_AS[cls]}.{twin}"]) == f"{parameters} -> {awaited}"


@pytest.mark.parametrize(("cls", "twin", "name"), TWINS)
def test_an_editor_sees_of_a_twin_the_parameters_and_the_documentation_of_its_method(
    cls: type[Any], twin: str, name: str
) -> None:
    found = _public(cls)
    assert inspect.signature(found[twin]).parameters == inspect.signature(found[name]).parameters
    is_iterator = inspect.isgeneratorfunction(found[name])
    assert inspect.isasyncgenfunction(found[twin]) if is_iterator else inspect.iscoroutinefunction(found[twin])
    assert found[twin].__name__ == twin
    assert (found[name].__doc__ or "?") in (found[twin].__doc__ or "")


@pytest.mark.parametrize("cls", [Engine, RunHandle])
def test_every_public_method_that_asks_the_database_has_a_twin(cls: type[Any]) -> None:
    twins = _twins(cls)
    without = set(_public(cls)) - set(twins) - set(twins.values())
    assert without == (READ_WHILE_ITERATED | ASKS_NOTHING if cls is Engine else set())
