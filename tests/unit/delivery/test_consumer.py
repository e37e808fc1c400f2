"""Our consumer, at the moment in which its connection is lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery
from celery.exceptions import WorkerLostError
from kombu import common
from kombu.message import Message
from redis.exceptions import ConnectionError as RedisLost

from stageflow_durable.delivery.consumer import ChildWatch, SturdyConsumer


def lose(connection: Any) -> Any:
    """A consumer after the loss of its connection."""
    app = Celery("lost", set_as_current=False)
    app.conf.update(
        worker_cancel_long_running_tasks_on_connection_loss=True, worker_enable_prefetch_count_reduction=False
    )
    consumer: Any = object.__new__(SturdyConsumer)
    vars(consumer).update(app=app, connection=connection, connection_errors=(RedisLost,), channel_errors=(KeyError,))
    consumer.on_connection_error_after_connected(RedisLost("closed by server"))
    return consumer


def test_steps_that_close_channels_of_the_lost_connection_are_not_told_by_a_traceback() -> None:
    consumer = lose(SimpleNamespace(collect=Mock(), close=Mock(), connection_errors=(RedisLost,), channel_errors=()))
    gossips_channel = SimpleNamespace(close=Mock(side_effect=RedisLost("connection refused")))
    kombu: Any = common  # it has no types
    kombu.ignore_errors(consumer.connection, gossips_channel.close)
    gossips_channel.close.assert_called_once()
    assert not consumer.connection  # so that Celery makes a new one


def test_a_close_that_fails_does_not_end_the_worker() -> None:
    close = Mock(side_effect=AttributeError("'NoneType' object has no attribute 'hostname'"))
    assert not lose(
        SimpleNamespace(collect=Mock(), close=close, connection_errors=(RedisLost,), channel_errors=())
    ).connection
    close.assert_called_once()


def test_a_message_that_cannot_be_acknowledged_is_a_lost_connection() -> None:
    consumer: Any = object.__new__(SturdyConsumer)
    vars(consumer).update(hub=SimpleNamespace(call_soon=lambda told: told()))
    lost = RedisLost("refused")
    untyped: Any = Message
    message = untyped(channel=Mock(no_ack_consumers=None, basic_ack=Mock(side_effect=[lost, None])), delivery_tag="1")
    with pytest.raises(ConnectionResetError, match="could not be acknowledged"):
        consumer.call_soon_ack(message.ack_log_error, Mock(), (RedisLost,))
    consumer.call_soon_ack(message.ack_log_error, Mock(), (RedisLost,))
    assert message.acknowledged


def test_an_end_that_celery_missed_is_seen_at_the_next_look_and_reported() -> None:
    alive, gone = (SimpleNamespace(pid=pid, is_alive=Mock(return_value=True)) for pid in (1, 2))
    children = [alive, gone]
    maintain = Mock(side_effect=lambda: children.remove(gone))
    pool = SimpleNamespace(_pool=SimpleNamespace(_pool=children), maintain_pool=maintain)
    watch: Any = ChildWatch(Mock())
    watch._report = Mock()
    watch._look(pool)
    maintain.assert_not_called()
    gone.is_alive.return_value = False
    watch._look(pool)
    maintain.assert_called_once()
    watch._report.assert_called_once_with(2)


class Pool:
    """A pool of billiard's, as its parent sees it: processes by number, each with the next process id."""

    def __init__(self, *pids: int) -> None:
        self.children = [SimpleNamespace(pid=pid, is_alive=lambda: True) for pid in pids]
        self.made = max(pids)
        self._pool: Any = SimpleNamespace(_pool=self.children, _create_worker_process=self._create)
        self.maintain_pool = Mock()

    def _create(self, _number: int) -> Any:
        self.made += 1
        self.children.append(SimpleNamespace(pid=self.made, is_alive=lambda: True))
        return self.children[-1]

    def replaced(self, pid: int) -> None:
        """That child has died, and Celery has made another."""
        self.children[:] = [child for child in self.children if child.pid != pid]
        self._pool._create_worker_process(0)


@pytest.fixture
def watching() -> tuple[Any, Pool]:
    """A watch that was started, and has not looked yet."""
    pool = Pool(1, 2)
    watch: Any = ChildWatch(Mock())
    watch._report = Mock()
    watch.start(SimpleNamespace(timer=Mock(), pool=pool))
    return watch, pool


def test_a_child_that_dies_before_the_first_look_is_reported(watching: tuple[Any, Pool]) -> None:
    watch, pool = watching
    pool.replaced(2)
    watch._look(pool)
    watch._report.assert_called_once_with(2)


@pytest.mark.parametrize("reconnected", [False, True])
def test_a_child_that_begins_and_dies_between_two_looks_is_reported(
    watching: tuple[Any, Pool], reconnected: bool
) -> None:
    watch, pool = watching
    watch._look(pool)
    if reconnected:
        watch.start(SimpleNamespace(timer=Mock(), pool=pool))
    pool.replaced(2)  # by 3
    pool.replaced(3)  # by 4
    watch._look(pool)
    assert {call.args for call in watch._report.call_args_list} == {(2,), (3,)}
    assert pool._pool._create_worker_process(0).pid == 5


def held(task: str, tag: str) -> Any:
    return tag, SimpleNamespace(headers={"task": task}, delivery_tag=tag)


def reading(error: Exception) -> tuple[Any, Mock]:
    """A consumer whose event loop raises that, with a message of ours and one of theirs in hand."""
    consumer: Any = object.__new__(SturdyConsumer)
    qos = SimpleNamespace(_delivered=dict([held("stageflow.advance", "ours"), held("theirs", "theirs")]), ack=Mock())
    vars(consumer).update(
        connection_errors=(RedisLost, KeyError),
        channel_errors=(),
        task_consumer=SimpleNamespace(channel=SimpleNamespace(qos=qos)),
        _read=Mock(side_effect=error),
    )
    return consumer, qos.ack


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RuntimeError("x"), RecursionError("x"), AssertionError()]
)
def test_an_error_in_the_event_loop_is_told_and_the_worker_goes_on_without_what_it_had_taken_of_ours(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    consumer, let_go = reading(error)
    with pytest.raises(ConnectionResetError, match=type(error).__name__):
        consumer._read_on()
    let_go.assert_called_once_with("ours")
    assert "an error in the worker's event loop" in caplog.text
    assert "no message" not in caplog.text, "nothing says that a message had to do with it"


@pytest.mark.parametrize("error", [RedisLost("closed"), WorkerLostError("no children"), MemoryError()])
def test_what_is_no_error_of_the_loop_goes_on_to_whom_it_concerns(error: Exception) -> None:
    consumer, let_go = reading(error)
    with pytest.raises(type(error)):
        consumer._read_on()
    let_go.assert_not_called()
