"""``celery -A shop flower``: the class that it builds serves the engine's pages, where nobody else could see them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flower")

from celery import Celery  # where Flower is installed
from flower import command  # as above
from flower.app import Flower  # as above
from flower.options import default_options  # as above
from flower.urls import settings  # as above

from stageflow_durable import Engine, Pipeline  # as above
from stageflow_durable.cli import _is_celerys_flower  # as above
from stageflow_durable.web.flower_command import FlowerOfEngine, join  # as above

PIPELINE = Pipeline("checkout").stage("charge", lambda _ctx: None)


@pytest.fixture
def shop() -> Iterator[Celery]:
    engine = Engine("shop", [PIPELINE], database_url="sqlite:////nowhere/nothing.db", broker_url="memory://")
    yield engine.celery_app
    engine.close()


def built(app: Celery, monkeypatch: pytest.MonkeyPatch, **said: Any) -> Any:
    """Flower as its command builds it, with these options."""
    options: Any = SimpleNamespace(**{name: default_options[name] for name in default_options})
    vars(options).update(said)
    monkeypatch.setattr("flower.app.Events", lambda *_given, **_options: None)
    io_loop: Any = SimpleNamespace(set_default_executor=lambda _executor: None)
    return FlowerOfEngine(options=options, capp=app, io_loop=io_loop, **settings)


def has_runs(flower: Any) -> bool:
    return "runs" in flower.wildcard_router.named_rules or any(
        "runs" in rule.target.named_rules for rule in flower.default_router.rules if hasattr(rule.target, "named_rules")
    )


@pytest.mark.parametrize(
    ("said", "serves"),
    [
        ({"address": "127.0.0.1"}, True),
        ({"address": "::1"}, True),
        ({"address": "", "basic_auth": ["ann:pw"]}, True),
        ({"address": "0.0.0.0", "auth": ".*@example.com"}, True),
        ({"unix_socket": "/run/flower.sock"}, True),
        ({"address": ""}, False),
        ({"address": "0.0.0.0"}, False),
    ],
)
def test_pages_are_served_behind_a_sign_in_or_to_this_machine(
    shop: Celery, said: dict[str, Any], serves: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert has_runs(built(shop, monkeypatch, **said)) is serves
    assert ("the pages about runs are not served" in caplog.text) is not serves


def test_an_application_without_an_engine_has_flowers_pages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_runs(built(Celery("plain", broker="memory://"), monkeypatch, address="127.0.0.1"))


def test_flowers_command_builds_it_once_it_has_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "Flower", Flower)
    join()
    assert command.Flower is FlowerOfEngine


@pytest.mark.parametrize(
    ("line", "is_it"),
    [
        ("/usr/bin/celery -A shop flower --port=1", True),
        ("/lib/celery/__main__.py -A shop flower", True),
        ("/usr/bin/celery -A shop worker", False),
        ("/usr/bin/stageflow flower", False),
        ("", False),
    ],
)
def test_it_joins_where_celery_is_to_start_flower_and_nowhere_else(line: str, is_it: bool) -> None:
    assert _is_celerys_flower(line.split()) is is_it


def test_the_sweep_is_not_among_flowers_tasks(shop: Celery) -> None:
    assert shop.tasks["stageflow.sweep"].send_events is False
    assert shop.tasks["stageflow.advance"].send_events is True
