"""An engine's name, its default queue, and what a broker is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import Engine, Pipeline, Submission
from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.roles import queue_options
from stageflow_durable.errors import ConfigurationError, StageflowError
from stageflow_durable.settings import broker_name
from stageflow_durable.settings.queues import QUEUE_NAME
from stageflow_durable.testing import engine_for_tests

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


NO_QUEUES = [
    "",
    "  ",
    "a b",
    "a,b",
    "a\nb",
    "a\x1b[2J",
    "a\x06\x169",
    "a\u00a0b",
    "\ud800",
    "q" * 201,
    "é" * 101,
    7,
    True,
]
QUEUES = ["q", "team/orders:high", "bestellungen-ä", "{orders}", "100%", "q" * 200]

PIPELINE = Pipeline[Any, Any]("p").stage("a", print)


def as_setting(name: Any) -> None:
    assert Engine("shop", **WHERE, queue=name).settings.queue == name


def of_a_stage(name: Any) -> None:
    assert name in Engine("shop", [Pipeline[Any, Any]("p").stage("a", print, queue=name)], **WHERE).queues


def of_a_run(name: Any) -> None:
    with engine_for_tests([PIPELINE]) as engine:
        engine.enqueue(PIPELINE, {}, queue=name)
        assert engine.messages.depth(name) == 1


def of_one_of_many(name: Any) -> None:
    with engine_for_tests([PIPELINE]) as engine:
        engine.enqueue_many(PIPELINE, [Submission({}, queue=name)])
        assert engine.messages.depth(name) == 1


def as_option(name: Any) -> None:
    if not isinstance(name, str):
        raise Misuse(QUEUE_NAME)  # nothing else can be typed
    assert queue_options(["-Q", name], lambda: pytest.fail("it is said which")) == ()


ENTRIES = [as_setting, of_a_stage, of_a_run, of_one_of_many, as_option]
ELSEWHERE = {(as_setting, "  "), (as_option, "a,b")}
"""A setting that is blank is not set, and a comma in an option parts two names."""


@pytest.mark.parametrize(
    ("enter", "name"), [pair for pair in itertools.product(ENTRIES, NO_QUEUES) if pair not in ELSEWHERE]
)
def test_a_name_that_is_no_queues_is_refused_wherever_one_is_named_with_the_same_rule(
    enter: Callable[[Any], None], name: Any
) -> None:
    with pytest.raises((StageflowError, Misuse)) as refused:
        enter(name)
    assert QUEUE_NAME in str(refused.value)


@pytest.mark.parametrize("enter", ENTRIES)
@pytest.mark.parametrize("name", QUEUES)
def test_other_queues_are_taken_wherever_one_is_named(enter: Callable[[Any], None], name: str) -> None:
    enter(name)


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
