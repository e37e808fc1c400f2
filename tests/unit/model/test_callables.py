"""What is called with one context is looked at when it is defined."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from stageflow_durable import Pipeline, SchemaMigration, Undo
from stageflow_durable.errors import DefinitionError


def plain(ctx: Any) -> int:
    return 1


async def asynchronous(ctx: Any) -> int:
    return 1


def two(ctx: Any, order: Any) -> int:
    return 1


def yields(ctx: Any) -> Iterator[int]:
    yield 1


async def yields_later(ctx: Any) -> AsyncIterator[int]:
    yield 1


class Service:
    def method(self, ctx: Any) -> int:
        return 1

    def nothing(self) -> int:
        return 1

    def execute(self, ctx: Any) -> int:
        return 1


class Calling:
    def __call__(self, ctx: Any) -> int:
        return 1


class Blind:
    def execute(self) -> int:
        return 1


def logged(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    return inner


GOOD = [
    plain,
    asynchronous,
    lambda ctx: 1,
    lambda *args: 1,
    lambda ctx, *, timeout=3: 1,
    lambda ctx, order=None: 1,
    functools.partial(two, order=1),
    functools.partial(two, 1),
    Service().method,
    Service(),
    Calling(),
    logged(plain),
    str,
    len,
    dict.fromkeys,
    functools.cache(plain),
]
BAD = [
    (lambda: 1, "<lambda> takes (); it is called with one argument, the context"),
    (two, "two takes (ctx: 'Any', order: 'Any') -> 'int'"),
    (lambda ctx, *, order: 1, "<lambda> takes (ctx, *, order)"),
    (functools.partial(plain, 1), "takes () -> 'int'"),
    (Service().nothing, "nothing takes ()"),
    (Blind(), "execute takes ()"),
    (logged(two), "two takes"),
    (yields, "yields yields; it has to return its value"),
    (yields_later, "yields_later yields"),
    (Calling, "Calling is a class; give an instance of it"),
    (3, "runner 3 is not a function"),
]


@pytest.mark.parametrize("runner", [one for one in GOOD if one is not str], ids=range(len(GOOD) - 1))
def test_what_takes_a_context_is_a_stage_an_undo_and_a_key(runner: Any) -> None:
    undo = runner if callable(runner) else None
    assert Pipeline("p").stage("s", runner, compensate=undo, key=undo).plan.stages


@pytest.mark.parametrize(("runner", "says"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_called_with_a_context_is_refused_at_definition(runner: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as why:
        _ = Pipeline("p").stage("s", runner).plan
    assert f"stage 's': {says}" in str(why.value) or says in str(why.value)


def test_undos_keys_and_migrations_are_looked_at_too() -> None:
    takes_nothing: Any = lambda: 1  # noqa: E731  # its name is what is told
    takes_two: Any = two
    with pytest.raises(DefinitionError) as why:
        _ = (
            Pipeline("p", schema=2, migrations={1: SchemaMigration(input=takes_nothing, outputs={"s": takes_two})})
            .stage("s", plain, compensate=Undo(takes_nothing), key=takes_nothing)
            .plan
        )
    said = str(why.value)
    assert "stage 's': key: <lambda> takes ()" in said
    assert "stage 's': compensate: <lambda> takes ()" in said
    assert "migrations[1].input: <lambda> takes (); it is called with one argument, the value" in said
    assert "migrations[1].outputs['s']: two takes" in said
