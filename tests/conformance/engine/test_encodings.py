"""A database whose encoding lacks what an error says: the attempt ends all the same, its text in escapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from stageflow_durable import Pipeline, RetryPolicy, StageOutput
from stageflow_durable.state.schema import upgrade
from stageflow_durable.testing import engine_for_tests
from tests.services.postgres import PostgresService

pytestmark = pytest.mark.sql

TEXT = "é \u0416 中 \U0001f600"


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def narrow_url(request: pytest.FixtureRequest, postgres: PostgresService) -> Iterator[str]:
    """A migrated database of that encoding."""
    url = postgres.create_database()
    name = url.rpartition("/")[2].partition("?")[0]
    plain = postgres.url().replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{name}"')
        options = f"ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        admin.execute(f'CREATE DATABASE "{name}" {options}')
    upgrade(url)
    yield url
    postgres.drop_database(url)


def test_each_kind_of_end_is_saved(narrow_url: str) -> None:
    def retried(ctx: Any) -> str:
        if ctx.attempt == 1:
            raise ConnectionError(TEXT)
        return TEXT

    def failed(_ctx: Any) -> StageOutput:
        return StageOutput.fail(TEXT)

    def undo(_ctx: Any) -> None:
        raise ValueError(TEXT)

    pipeline = Pipeline[Any, Any]("p").stage("a", retried, compensate=undo).stage("b", failed)
    options: Any = {"database_url": narrow_url, "retry": RetryPolicy(max_attempts=2, base_delay=0), "lease_seconds": 60}
    with engine_for_tests([pipeline], **options) as engine:
        handle = engine.enqueue("p", {"text": TEXT})
        engine.work()
        run = handle.describe()
        assert handle.outputs() == {"a": TEXT}
        assert engine.crashes == 0
        assert [attempt.state for attempt in run.stages[0].attempts][:2] == ["retry", "ok"]
        assert ascii(run.error) == ascii(TEXT) or run.error == TEXT.encode("ascii", "backslashreplace").decode()
