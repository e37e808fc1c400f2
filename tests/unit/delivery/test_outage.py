"""While the broker is away one caller at a time finds that out; the others are told at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from redis.exceptions import ConnectionError as RedisConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from stageflow_durable.delivery.publish import AGAIN_SECONDS, TRY_SECONDS, CeleryPublisher, Outage
from stageflow_durable.errors import BrokerUnavailable, PublishingFailed
from stageflow_durable.model.work import Nudge


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage(clock)


Fails = Callable[[], None]


@pytest.fixture
def away(clock: Clock) -> Fails:
    """What a try comes to that waits for a broker in vain."""

    def fails() -> None:
        clock.now += 2.0
        raise BrokerUnavailable("connection refused") from ConnectionRefusedError()

    return fails


def tried(outage: Outage, action: Callable[[], None] = lambda: None) -> bool:
    """Whether the broker was tried at all."""
    begun = False
    try:
        with outage.attempt():
            begun = True
            action()
    except (BrokerUnavailable, PublishingFailed, KeyboardInterrupt):
        pass
    return begun


def test_after_a_failure_nobody_tries_for_a_second_and_each_is_told_why(
    outage: Outage, clock: Clock, away: Fails
) -> None:
    assert tried(outage, away)
    clock.now += AGAIN_SECONDS - 0.01
    with pytest.raises(BrokerUnavailable, match="connection refused"), outage.attempt():
        raise AssertionError("it is tried")
    clock.now += 0.02
    assert tried(outage)


def test_once_it_is_back_everybody_publishes(outage: Outage, clock: Clock, away: Fails) -> None:
    tried(outage, away)
    clock.now += AGAIN_SECONDS
    assert [tried(outage) for _ in range(3)] == [True, True, True]


def test_while_one_tries_again_the_others_are_told_at_once(outage: Outage, clock: Clock, away: Fails) -> None:
    tried(outage, away)
    clock.now += AGAIN_SECONDS
    with outage.attempt():
        assert not tried(outage)
        clock.now += TRY_SECONDS  # as long as nobody knows what became of it
        assert tried(outage)


def test_what_says_nothing_about_the_broker_holds_nobody_up(outage: Outage, clock: Clock, away: Fails) -> None:
    def another_error() -> None:
        raise PublishingFailed("a router")

    def stopped() -> None:
        raise KeyboardInterrupt

    assert tried(outage, another_error)
    assert tried(outage, away)
    clock.now += AGAIN_SECONDS
    assert tried(outage, another_error)
    assert tried(outage, stopped)
    assert tried(outage)


def test_what_is_refused_at_once_may_be_tried_at_once(outage: Outage) -> None:
    def refuses() -> None:
        raise BrokerUnavailable("OOM command not allowed")

    assert [tried(outage, refuses) for _ in range(3)] == [True, True, True]


@pytest.mark.parametrize("why", [ChannelError("PRECONDITION_FAILED"), ResponseError("WRONGTYPE"), None])
def test_what_one_queue_is_refused_holds_up_no_other(outage: Outage, clock: Clock, why: Exception | None) -> None:
    def refuses() -> None:
        clock.now += 2.0  # it was tried again and again
        raise BrokerUnavailable("refused") from why

    assert [tried(outage, refuses) for _ in range(3)] == [True, True, True]


@pytest.mark.parametrize("why", [ConnectionError(), TimeoutError(), OSError(), RedisTimeout(), RedisConnection()])
@pytest.mark.parametrize("wrapped", [False, True])
def test_whatever_says_that_nobody_answers_is_remembered(
    outage: Outage, clock: Clock, why: Exception, wrapped: bool
) -> None:
    def fails() -> None:
        clock.now += 2.0
        cause = OperationalError("kombu's") if wrapped else why
        if wrapped:
            cause.__cause__ = why
        raise BrokerUnavailable("away") from cause

    assert [tried(outage, fails), tried(outage)] == [True, False]


def test_a_failure_of_before_the_broker_answered_is_not_remembered(outage: Outage, clock: Clock, away: Fails) -> None:
    def answered_meanwhile_and_failed() -> None:
        clock.now += 1.0
        assert tried(outage)
        away()

    assert tried(outage, answered_meanwhile_and_failed)
    assert tried(outage)


def test_before_any_failure_all_try_at_once(outage: Outage) -> None:
    with outage.attempt():
        assert tried(outage)


@pytest.mark.parametrize("templates", [True, False], ids=["templates", "celery"])
def test_many_messages_to_a_broker_that_is_away_take_as_long_as_one(templates: bool) -> None:
    app = Celery("app", broker="redis://127.0.0.1:1/0")
    publisher = CeleryPublisher(app, 50, templates=templates)
    began = time.monotonic()
    for number in range(50):
        with pytest.raises(BrokerUnavailable, match="Connection refused"):
            publisher.publish((Nudge(f"{number:026}", "main", 1, "q", links=1),))
    assert time.monotonic() - began < 10
