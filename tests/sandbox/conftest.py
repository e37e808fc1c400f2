"""Sandboxes against hostile programs: for ``make test-sandbox``, which installs what they need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageflow_durable.sandbox.backends import BACKENDS, Backend, verdict
from tests.sandbox.outside import Outside, outside

WANTED = "STAGEFLOW_TEST_SANDBOX"
"""Names of the backends that have to work here, separated by spaces."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if collection_path.name.startswith("test_") and WANTED not in os.environ else None


def wanted() -> list[Backend]:
    names = os.environ.get(WANTED, "").split()
    return [backend for backend in BACKENDS if backend.name in names]


@pytest.fixture(params=wanted(), ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that has to work; one that does not is a failure."""
    found: Backend = request.param
    assert verdict(found).works, verdict(found).reason
    return found


@pytest.fixture
def place() -> Iterator[Outside]:
    with outside() as made:
        yield made
