"""Many messages in one go: each is a message of Celery's own, and a broker that is away is said so in bounded time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from stageflow_durable.delivery.configure import own_settings
from stageflow_durable.delivery.publish import MANY, CeleryPublisher
from stageflow_durable.embedded.ports import free_port
from stageflow_durable.errors import BrokerUnavailable
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings import load_settings

pytestmark = pytest.mark.redis


@pytest.fixture
def app(valkey_url: str) -> Iterator[Celery]:
    """An application of the engine's own on a broker of this test's."""
    made = Celery("bulk", set_as_current=False)
    made.conf.update(own_settings(load_settings(), valkey_url))
    yield made
    made.close()


def nudges(count: int, **more: Any) -> tuple[Nudge, ...]:
    return tuple(Nudge(f"01RUN{number:04}", "a", 0, "bulk", mark=number, **more) for number in range(count))


def messages(url: str, queue: str = "bulk") -> list[dict[str, object]]:
    with Redis.from_url(url, protocol=2) as client:
        return [json.loads(text) for text in client.lrange(queue, 0, -1)]


@pytest.mark.parametrize("count", [1, MANY - 1, MANY, 3 * MANY])
@pytest.mark.parametrize("batches", [True, False])
def test_each_nudge_is_one_message_whichever_way_it_goes(
    app: Celery, valkey_url: str, count: int, batches: bool
) -> None:
    CeleryPublisher(app, 50, batches=batches).publish(nudges(count))
    found = messages(valkey_url)
    assert sorted(message["headers"]["argsrepr"] for message in found) == sorted(  # type: ignore[index]  # it is JSON
        f"('01RUN{number:04}', 'a')" for number in range(count)
    )


def test_in_bulk_and_alone_a_message_is_the_same(app: Celery, valkey_url: str) -> None:
    publisher = CeleryPublisher(app, 50)
    publisher.publish(nudges(1))
    publisher.publish(nudges(MANY))
    (bulk, alone) = messages(valkey_url)[-2], messages(valkey_url)[-1]
    assert shape(bulk) == shape(alone)


def shape(value: object) -> object:
    """Names and types, without what differs from message to message."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return type(value).__name__


def test_priorities_go_where_celery_puts_them(app: Celery, valkey_url: str) -> None:
    CeleryPublisher(app, 50).publish(nudges(MANY, priority=9))
    with Redis.from_url(valkey_url, protocol=2) as client:
        (name,) = client.keys("bulk*")
        assert client.llen(name) == MANY
        assert name != b"bulk"


@pytest.mark.parametrize("count", [1, MANY])
def test_a_broker_that_is_away_is_said_so_in_bounded_time(count: int) -> None:
    app = Celery("bulk", set_as_current=False)
    app.conf.update(own_settings(load_settings(), f"redis://127.0.0.1:{free_port()}/0"))
    began = monotonic()
    with pytest.raises(BrokerUnavailable):
        CeleryPublisher(app, 50).publish(nudges(count))
    assert monotonic() - began < 20
    app.close()
