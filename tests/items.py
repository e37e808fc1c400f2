"""Stages with items, as tests have them until there is a public verb: some stages are carried out once for each of some
inputs, which the test says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from stageflow_durable.codec import decode, encode
from stageflow_durable.engine.executor import Executor
from stageflow_durable.model.work import Work

Inputs = Callable[[Work], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Over:
    """What a stage is carried out for. ``collects``: an item that fails leaves the others alone."""

    inputs: Inputs
    collects: bool = False


def over(*inputs: Any, collects: bool = False) -> Over:
    """The same inputs in each run."""
    return Over(lambda _work: inputs, collects)


def item_of(ctx: Any) -> int:
    """The number of the item that a body is called for."""
    work: Work = ctx.services.work
    return work.item


def input_of(ctx: Any) -> Any:
    """What that item was given."""
    work: Work = ctx.services.work
    assert work.given is not None
    return decode(work.given.input)


@contextmanager
def items_for(stages: Mapping[tuple[str, str], Over]) -> Iterator[None]:
    """Meanwhile these stages (by pipeline and name) have items, whoever carries them."""
    carry: Any = Executor._stage

    def stage(self: Any, work: Work, outputs: Any, go_on: Any) -> Any:
        what = stages.get((work.run.pipeline, work.stage))
        if what is None or work.item:
            return carry(self, work, outputs, go_on)
        inputs = [encode(value) for value in what.inputs(work)]
        return self._saving.commit(work, lambda: self._store.open_items(work, inputs, collects=what.collects))

    with patch.object(Executor, "_stage", stage):
        yield
