"""The ``a…`` twin of a method: mypy, pyright and an editor see of it what they see of the method, awaited."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from stageflow_durable import Engine, RunHandle
from tests.typing.checkers import CHECKERS, Checker, ask

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("checkers")]

READ_WHILE_ITERATED = {"standings", "audit", "audit_heads"}
"""They give an iterator that reads as it goes: in the thread nothing would have been read."""

ASKS_NOTHING = {"pipeline", "worker_settings", "embedded", "close"}
"""They ask neither the database nor the broker, so that an event loop does not wait for them."""

PROGRAM = """
from pydantic import BaseModel
from stageflow_durable import Engine, RunHandle

class Receipt(BaseModel):
    payment_id: str

engine = Engine("shop")
handle: RunHandle[Receipt] = engine.handle("01J9F2")
"""


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
def revealed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[Checker, str], str]:
    """The types that the checkers reveal of each method and each twin."""
    members = [f"{_SEEN_AS[cls]}.{name}" for cls, twin, method in TWINS for name in (twin, method)]
    file = tmp_path_factory.mktemp("types") / "twins.py"
    file.write_text(PROGRAM + "".join(f"reveal_type({member})\n" for member in members))
    first = PROGRAM.count("\n") + 1
    return {
        (checker, members[said.line - first]): said.text
        for checker in CHECKERS
        for said in ask(checker, [file])
        if said.rule is None
    }


def awaited(text: str) -> str:
    """The type of a twin without the coroutine around what it returns."""
    while found := re.search(r"\bCoroutine(Type)?\[Any, Any, ", text):
        depth, end = 1, found.end()
        while depth:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        text = text[: found.start()] + text[found.end() : end - 1] + text[end:]
    return text


def _same_names(text: str) -> str:
    """Pyright says of which function a type variable is, and puts a union that is returned in brackets; mypy does not
    say that a method returns None.
    """
    return re.sub(r"-> \(([^()]*)\)$", r"-> \1", re.sub(r"(\w+)@\w+", r"\1", text)).removesuffix(" -> None")


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize(("cls", "twin", "name"), TWINS)
def test_a_checker_sees_of_a_twin_what_it_sees_of_its_method_awaited(
    revealed: Mapping[tuple[Checker, str], str], checker: Checker, cls: type[Any], twin: str, name: str
) -> None:
    method, coroutine = (revealed[checker, f"{_SEEN_AS[cls]}.{one}"] for one in (name, twin))
    if "Iterator[" in method:
        assert "AsyncIterator[" in coroutine
        assert _same_names(coroutine).replace("AsyncIterator[", "Iterator[") == _same_names(method)
        return
    assert "Coroutine" in coroutine
    assert _same_names(awaited(coroutine)) == _same_names(method)


@pytest.mark.parametrize(("cls", "twin", "name"), TWINS)
def test_an_editor_sees_of_a_twin_the_parameters_and_the_documentation_of_its_method(
    cls: type[Any], twin: str, name: str
) -> None:
    found = _public(cls)
    method, given = inspect.signature(found[name]), inspect.signature(found[twin])
    assert given.parameters == method.parameters
    if "Iterator[" in str(method.return_annotation):
        assert str(given.return_annotation) == f"Async{method.return_annotation}"
        assert inspect.isasyncgenfunction(found[twin])
    else:
        assert given == method
        assert inspect.iscoroutinefunction(found[twin])
    assert found[twin].__name__ == twin
    assert (found[name].__doc__ or "?") in (found[twin].__doc__ or "")


@pytest.mark.parametrize("cls", [Engine, RunHandle])
def test_every_public_method_that_asks_the_database_has_a_twin(cls: type[Any]) -> None:
    twins = _twins(cls)
    without = set(_public(cls)) - set(twins) - set(twins.values())
    assert without == (READ_WHILE_ITERATED | ASKS_NOTHING if cls is Engine else set())
