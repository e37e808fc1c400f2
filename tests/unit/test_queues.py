"""An engine's name, its default queue, and what a broker is called."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Engine, Pipeline
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import broker_name

WHERE: dict[str, Any] = {
    "database_url": "sqlite:///unused.db",
    "broker_url": "redis://user:secret@broker/0?password=secret",
}


def test_the_default_queue_carries_the_engines_name_and_older_runs_are_served_too() -> None:
    engine = Engine("shop", [Pipeline[Any, Any]("p").stage("a", print, queue="gpu").stage("b", print)], **WHERE)
    assert engine.settings.queue == "stageflow-shop"
    assert engine.queues == ("stageflow-shop", "stageflow", "gpu")


def test_a_queue_that_is_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Engine("shop", **WHERE, queue="orders").queues == ("orders",)
    monkeypatch.setenv("STAGEFLOW_QUEUE", "theirs")
    assert Engine("shop", **WHERE).settings.queue == "theirs"


def test_a_profile_holds_no_password() -> None:
    assert Engine("shop", **WHERE).profile.broker == "redis://broker:6379/0"


@pytest.mark.parametrize("name", ["", " ", "my shop", "a,b", "-shop", "a\nb", "x" * 151, "é" * 76, "a/b", None, 7])
def test_a_name_that_no_queue_can_carry_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no name for an engine"):
        Engine(name, **WHERE)


@pytest.mark.parametrize("name", ["shop", "bestellungen-ä", "a.b_c-1", "x" * 150])
def test_other_names_are_taken(name: str) -> None:
    assert Engine(name, **WHERE).settings.queue == f"stageflow-{name}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://:p@ss/word@h:1/3?socket_timeout=1", "redis://h:1/3"),
        ("rediss://[::1]:6380/0", "rediss://[::1]:6380/0"),
        ("redis://[::1]", "redis://[::1]:6379/0"),
        ("amqp://user:secret@rabbit:5672/vhost", "amqp://rabbit:5672/vhost"),
        ("redis://b/0;redis://u:p@a/0", "redis://a:6379/0;redis://b:6379/0"),
        ("memory://", "memory://"),
    ],
)
def test_a_broker_has_one_name_for_all_who_use_it(url: str, name: str) -> None:
    assert broker_name(url) == name
