"""A message of ours is noted in the worker alone; of any other a worker notes, and takes off, what kombu would; or
kombu does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.transport import redis as transport
from redis import Connection, Redis
from redis.exceptions import ResponseError

from stageflow_durable.delivery.acknowledge import QuickAcks, quicken
from stageflow_durable.delivery.configure import ADVANCE, SWEEP
from stageflow_durable.errors import ConfigurationError
from tests.services.broker import BrokerService

pytestmark = pytest.mark.redis

MESSAGE: Any = SimpleNamespace(
    headers={"task": "theirs"},
    delivery_info={"exchange": "", "routing_key": "lane"},
    _raw={"body": 'é"\\', "headers": {}, "properties": {"priority": 0, "delivery_info": {}}},
)
OURS = [ADVANCE, SWEEP]


@pytest.fixture
def make_channel(valkey_url: str) -> Iterator[Callable[..., Any]]:
    """Channels to a broker of this test's."""
    connections: list[Any] = []

    def make(url: str = valkey_url, **options: Any) -> Any:
        app = Celery("unacked", broker=url, set_as_current=False)
        connections.append(app.connection_for_read(transport_options=options))
        return connections[-1].channel()

    yield make
    for connection in connections:
        connection.release()


def kept(url: str) -> dict[str, Any]:
    """Everything in the broker; of a sorted set its members, since scores are times."""
    with Redis.from_url(url, protocol=2, decode_responses=True) as client:
        untyped: Any = client
        read = {"hash": untyped.hgetall, "zset": lambda key: untyped.zrange(key, 0, -1)}
        read |= {"list": lambda key: untyped.lrange(key, 0, -1), "set": untyped.smembers}
        return {key: read[untyped.type(key)](key) for key in sorted(untyped.keys("*"))}


def empty(url: str) -> None:
    with Redis.from_url(url) as client:
        client.flushdb()


def taken(channel: Any, task: str) -> Any:
    """A message of that task's, sent by Celery, as a worker gets it."""
    channel.queue_declare("lane")
    with Celery("sender", broker=channel.connection.client.as_uri(include_password=True)) as app:
        app.send_task(task, args=("a run",), queue="lane")
    message = channel.basic_get("lane", no_ack=True)
    assert message.headers["task"] == task
    return message


@pytest.mark.parametrize("task", OURS)
def test_given_a_message_of_ours_when_it_is_noted_then_nothing_is_written_and_it_fills_the_window(
    make_channel: Callable[..., Any], valkey_url: str, task: str
) -> None:
    channel = make_channel()
    assert quicken(channel)
    channel.basic_qos(0, 1, False)
    message = taken(channel, task)
    before = kept(valkey_url)
    channel.qos.append(message, message.delivery_tag)
    assert not channel.qos.can_consume()
    message.ack()
    assert channel.qos.can_consume()
    assert kept(valkey_url) == before
    assert "unacked" not in before


@pytest.mark.parametrize("task", [*OURS, "theirs"])
def test_given_a_noted_message_when_it_is_refused_for_another_worker_then_it_is_in_its_queue_once(
    make_channel: Callable[..., Any], valkey_url: str, task: str
) -> None:
    channel = make_channel()
    assert quicken(channel)
    message = taken(channel, task)
    channel.qos.append(message, message.delivery_tag)
    message.reject(requeue=True)
    again = channel.basic_get("lane", no_ack=True)
    assert (again.headers["task"], again.payload) == (task, message.payload)
    assert channel.basic_get("lane", no_ack=True) is None
    assert channel.qos.can_consume()
    assert "unacked" not in kept(valkey_url)


def test_given_a_message_of_ours_when_it_is_refused_for_good_then_it_is_gone(
    make_channel: Callable[..., Any], valkey_url: str
) -> None:
    channel = make_channel()
    assert quicken(channel)
    message = taken(channel, ADVANCE)
    channel.qos.append(message, message.delivery_tag)
    message.reject()
    channel.close()
    assert not {"lane", "unacked"} & kept(valkey_url).keys()


def test_given_noted_messages_when_the_worker_stops_then_those_that_are_not_acknowledged_are_back_in_their_queue(
    make_channel: Callable[..., Any], valkey_url: str
) -> None:
    channel = make_channel()
    assert quicken(channel)
    messages = [taken(channel, task) for task in (ADVANCE, "theirs", ADVANCE, SWEEP)]
    for message in messages:
        channel.qos.append(message, message.delivery_tag)
    messages[0].ack()
    channel.close()
    other = make_channel()
    back = [other.basic_get("lane", no_ack=True) for _ in range(3)]
    assert sorted(message.headers["task"] for message in back) == sorted([ADVANCE, SWEEP, "theirs"])
    assert all(message.headers["redelivered"] for message in back)
    assert other.basic_get("lane", no_ack=True) is None
    assert "unacked" not in kept(valkey_url)


def test_given_a_backlog_when_a_worker_stops_then_what_it_had_taken_is_taken_first_and_in_its_order(
    make_channel: Callable[..., Any],
) -> None:
    channel = make_channel()
    assert quicken(channel)
    channel.queue_declare("lane")
    with Celery("sender", broker=channel.connection.client.as_uri(include_password=True)) as app:
        for number in range(5):
            app.send_task(ADVANCE, args=(number,), queue="lane")
    for message in [channel.basic_get("lane", no_ack=True) for _ in range(3)]:
        channel.qos.append(message, message.delivery_tag)
    channel.close()
    other = make_channel()
    assert [other.basic_get("lane", no_ack=True).payload[0][0] for _ in range(5)] == [0, 1, 2, 3, 4]


def test_given_a_broker_that_is_away_when_a_worker_stops_with_a_message_of_ours_then_it_says_so_and_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = BrokerService.valkey()
    service.start()
    try:
        with Celery("gone", broker=service.url_of(0)).connection_for_read() as connection:
            channel = connection.channel()
            assert quicken(channel)
            message = taken(channel, ADVANCE)
            channel.qos.append(message, message.delivery_tag)
            service.kill()
            with caplog.at_level("INFO", "stageflow.worker"):
                channel.qos.reject(message.delivery_tag, requeue=True)
            assert "a sweep publishes them again" in caplog.text
            assert channel.qos.can_consume()
    finally:
        service.close()


@pytest.mark.parametrize("headers", [None, [], "task", {"task": ["stageflow.advance"]}, {}])
def test_given_something_that_is_no_message_of_ours_when_it_is_noted_then_it_goes_the_usual_way(
    make_channel: Callable[..., Any], valkey_url: str, headers: object
) -> None:
    channel = make_channel()
    assert quicken(channel)
    strange: Any = SimpleNamespace(**{**vars(MESSAGE), "headers": headers})
    channel.qos.append(strange, "tag")
    assert "unacked" in kept(valkey_url)


@pytest.mark.parametrize("prefix", ["", "theirs:"])
def test_given_a_message_when_it_is_noted_then_the_broker_keeps_what_kombu_would_have_written(
    make_channel: Callable[..., Any], valkey_url: str, prefix: str
) -> None:
    options = {"global_keyprefix": prefix} if prefix else {}
    make_channel(**options).qos.append(MESSAGE, "tag")
    usual = kept(valkey_url)
    empty(valkey_url)
    channel = make_channel(**options)
    assert quicken(channel)
    channel.qos.append(MESSAGE, "tag")
    assert usual
    assert kept(valkey_url) == usual
    channel.qos.ack("tag")
    assert kept(valkey_url) == {}
    assert channel.qos.can_consume()


def test_given_a_noted_message_when_it_is_given_back_then_kombu_puts_it_into_its_queue(
    make_channel: Callable[..., Any], valkey_url: str
) -> None:
    channel = make_channel()
    channel.queue_declare("lane")
    assert quicken(channel)
    channel.qos.append(MESSAGE, "tag")
    channel.qos.reject("tag", requeue=True)
    assert len(kept(valkey_url)["lane"]) == 1
    assert "unacked" not in kept(valkey_url)


def test_given_connections_that_were_cut_when_a_message_is_acknowledged_then_it_goes_over_a_new_one(
    make_channel: Callable[..., Any], valkey_url: str
) -> None:
    channel = make_channel()
    assert quicken(channel)
    channel.qos.append(MESSAGE, "tag")
    with Redis.from_url(valkey_url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    channel.qos.ack("tag")
    assert "unacked" not in kept(valkey_url)


def test_given_a_broker_that_refuses_when_a_message_is_noted_then_it_says_why_and_is_asked_again() -> None:
    service = BrokerService.valkey()
    service.start()
    try:
        url = service.url_of(0)
        with Redis.from_url(url) as client, Celery("full", broker=url).connection_for_read() as connection:
            channel = connection.channel()
            assert quicken(channel)
            client.config_set("maxmemory", "1")
            with pytest.raises(ResponseError, match="OOM|maxmemory"):
                channel.qos.append(MESSAGE, "tag")
            assert kept(url) == {}
            client.config_set("maxmemory", "0")
            channel.qos.append(MESSAGE, "tag")
            assert "unacked" in kept(url)
    finally:
        service.close()


@pytest.mark.parametrize("seconds", [None, 77.0])
def test_given_an_application_with_its_own_timeouts_when_a_message_is_noted_then_it_is_waited_for_as_long_as_before(
    make_channel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    waited: list[object] = []
    usual: Any = Connection.send_packed_command
    channel = make_channel(**({"socket_timeout": seconds} if seconds else {}))
    assert quicken(channel)

    def send(connection: Any, command: object, check_health: bool = True) -> None:
        waited.append(connection.socket_timeout)
        usual(connection, command, check_health)

    monkeypatch.setattr(channel.pool.connection_class, "send_packed_command", send)
    channel.qos.append(MESSAGE, "tag")
    assert waited
    assert {*waited} == {channel.pool.connection_kwargs.get("socket_timeout")} == {seconds}


class _OtherChannel(transport.Channel):
    """Of an application that has its own."""


class _OtherBooks(transport.QoS):
    """Of a kombu that writes something else."""

    def append(self, message: Any, delivery_tag: str) -> None:
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: 1.0}, nx=True).execute()


def test_given_another_transport_or_a_kombu_that_writes_otherwise_then_it_is_left_alone(
    make_channel: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not quicken(make_channel("memory://"))
    channel = make_channel()
    other = make_channel()
    other.__class__ = _OtherChannel
    assert not quicken(other)
    monkeypatch.setattr(transport.QoS, "append", _OtherBooks.append)
    assert not quicken(channel)
    assert not {"pipe_or_acquire", "append", "ack", "reject", "restore_unacked"} & vars(channel.qos).keys()


def _misset() -> bool:
    raise ConfigurationError("a setting is wrong")


@pytest.mark.parametrize(("wanted", "quick"), [(lambda: True, True), (lambda: False, False), (_misset, False)])
def test_given_a_worker_that_connects_then_its_channel_is_quick_where_the_settings_say_so(
    make_channel: Callable[..., Any], wanted: Callable[[], bool], quick: bool
) -> None:
    step = type("Step", (QuickAcks,), {"wanted": staticmethod(wanted)})
    channel = make_channel()
    step(None).start(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))
    assert ("pipe_or_acquire" in vars(channel.qos)) is quick
