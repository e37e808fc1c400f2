"""Each test asks the same of both kinds of servers."""

from __future__ import annotations

import pytest

from tests.unit.web.requests import Ask, FakeEngine, by_asgi, by_wsgi


@pytest.fixture(params=[by_asgi, by_wsgi], ids=["asgi", "wsgi"])
def ask(request: pytest.FixtureRequest) -> Ask:
    asked: Ask = request.param
    return asked


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()
