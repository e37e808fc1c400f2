"""A pytest fixture: ``pytest_plugins = ["stageflow_durable.testing.plugin"]`` in a ``conftest.py``, then ask for
``stageflow_engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.testing.engine import InProcessEngine, engine_for_tests

MakeEngine = Callable[..., InProcessEngine]


@pytest.fixture
def stageflow_engine() -> Iterator[MakeEngine]:
    """Makes engines of pipelines, closed when the test ends.

    ``stageflow_engine(checkout, lease_seconds=2)``: pipelines, or a list of them, and the keywords are those of
    :func:`~stageflow_durable.testing.engine_for_tests`.
    """
    with ExitStack() as stack:

        def make(*pipelines: Pipeline[Any, Any] | Iterable[Pipeline[Any, Any]], **options: Any) -> InProcessEngine:
            return stack.enter_context(engine_for_tests(*pipelines, **options))

        yield make
