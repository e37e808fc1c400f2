from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stageflow_durable.cli import celery_group
from stageflow_durable.cli.session import Session
from stageflow_durable.settings import load_settings
from tests.cli.fakes import NOW, FakeApplication

Invoke = Callable[..., Result]


@pytest.fixture
def engine() -> FakeApplication:
    """The engine that the command is given."""
    return FakeApplication()


@pytest.fixture
def invoke(engine: FakeApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """``invoke("runs", "--json")``: the command with the fake engine, in an empty directory, at a fixed time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
        session = Session(operations=engine, application=engine, settings=load_settings(), now=lambda: NOW)
        return CliRunner().invoke(celery_group, [*arguments], obj=session, input=stdin, prog_name="stageflow")

    return call
