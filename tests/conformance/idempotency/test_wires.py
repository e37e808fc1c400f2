"""Redis connections that are kept for one command at a time (``idempotency/wires.py``)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.idempotency.nudges import NudgeGate
from stageflow_durable.idempotency.redis_link import RedisLink, WiredLink
from stageflow_durable.idempotency.script import Script
from stageflow_durable.idempotency.wires import Wires, packed, wires_to
from tests.services.broker import BrokerService


class Refusing:
    """A connection whose server refuses every command."""

    def __init__(self, refusal: ResponseError) -> None:
        self.refusal = refusal
        self.open = True

    def send_packed_command(self, command: object) -> None:
        assert self.open

    def read_response(self) -> object:
        raise self.refusal

    def disconnect(self) -> None:
        self.open = False


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("refusal", "connections"), [(ReadOnlyError("a replica"), 2), (ResponseError("full"), 1)])
def test_given_a_primary_that_became_a_replica_when_it_refuses_then_the_next_command_goes_over_a_new_connection(
    refusal: ResponseError, connections: int, together: bool
) -> None:
    made: list[Refusing] = []

    def connect() -> Refusing:
        made.append(Refusing(refusal))
        return made[-1]

    wires = Wires(connect)
    for _ in range(2):
        with pytest.raises(type(refusal)):
            wires.together([("LPUSH", "q", "m")]) if together else wires.ask("LPUSH", "q", "m")
    assert len(made) == connections
    assert [connection.open for connection in made] == [connections == 1] * connections


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "key"),
        ("LPUSH", "a queue", *(f"{number} é \r\n" * number for number in range(300))),
        ("ZADD", "key", 1764041234.123456, "member"),
        ("ZADD", "key", 1e22, ""),
        ("EVALSHA", "0a" * 20, 1, "key", -5, 10**18),
    ],
)
def test_given_a_command_then_it_is_packed_as_redis_py_packs_it(command: tuple[str | int | float, ...]) -> None:
    untyped: Any = Connection
    assert packed(command) == b"".join(untyped().pack_command(*command))


class Held:
    """A connection whose server answers once it is let."""

    def __init__(self, asked: threading.Semaphore, answers: threading.Event) -> None:
        self.asked = asked
        self.answers = answers

    def send_packed_command(self, command: object) -> None:
        self.asked.release()

    def read_response(self) -> object:
        assert self.answers.wait(10)
        return b"PONG"


def test_given_all_connections_in_use_when_one_more_asks_then_it_waits_for_one_as_long_as_it_is_told_to() -> None:
    asked, answers = threading.Semaphore(0), threading.Event()
    made: list[Held] = []

    def connect() -> Held:
        made.append(Held(asked, answers))
        return made[-1]

    hasty, patient = Wires(connect, 2, 0.0), Wires(connect, 2, 10.0)
    with ThreadPoolExecutor(5) as threads:
        asking = [threads.submit(wires.ask, "PING") for wires in (hasty, hasty, patient, patient)]
        for _ in asking:
            assert asked.acquire(timeout=10)
        with pytest.raises(RedisConnectionError, match="no connection was free within 0 s"):
            hasty.ask("PING")
        asking.append(threads.submit(patient.ask, "PING"))
        answers.set()
        assert [one.result(10) for one in asking] == [b"PONG"] * 5
    assert len(made) == 4
    assert hasty.ask("PING") == b"PONG"


def test_given_a_child_of_a_process_that_asks_when_it_asks_too_then_it_waits_for_nobody_and_has_a_connection_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answers = threading.Semaphore(0), threading.Event()
    made: list[Held] = []

    def connect() -> Held:
        made.append(Held(asked, answers))
        return made[-1]

    wires = Wires(connect, 1, 0.0)
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(wires.ask, "PING")
        assert asked.acquire(timeout=10)
        monkeypatch.setattr("stageflow_durable.idempotency.wires.os.getpid", lambda: -1)
        answers.set()
        assert wires.ask("PING") == b"PONG"
        assert asking.result(10) == b"PONG"
    assert len(made) == 2


def test_given_a_child_whose_first_look_is_under_way_when_another_thread_looks_then_it_waits_for_nobody_of_the_parents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, answers, at_once = threading.Semaphore(0), threading.Event(), threading.Event()
    at_once.set()
    made: list[Held] = []

    def connect() -> Held:
        made.append(Held(asked, at_once if made else answers))
        return made[-1]

    wires, semaphore = Wires(connect, 1, 0.0), threading.BoundedSemaphore
    others = [lambda: wires.ask("PING")]

    def another_looks(value: int) -> threading.BoundedSemaphore:
        while others:
            assert threads.submit(others.pop()).result(10) == b"PONG"
        return semaphore(value)

    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(wires.ask, "PING")
        assert asked.acquire(timeout=10)
        monkeypatch.setattr("stageflow_durable.idempotency.wires.os.getpid", lambda: -1)
        monkeypatch.setattr("stageflow_durable.idempotency.wires.threading.BoundedSemaphore", another_looks)
        try:
            assert wires.ask("PING") == b"PONG"
        finally:
            answers.set()
        assert asking.result(10) == b"PONG"
    assert others == []
    assert len(made) == 2


def test_given_a_refused_command_when_the_next_one_asks_then_its_place_is_free_again() -> None:
    wires = Wires(lambda: Refusing(ReadOnlyError("a replica")), 1, 0.0)
    for _ in range(2):
        with pytest.raises(ReadOnlyError):
            wires.ask("SET", "a", "1")


@pytest.mark.redis
def test_given_a_url_with_words_for_a_pool_then_a_connection_is_made_without_them(valkey_url: str) -> None:
    wires = wires_to(f"{valkey_url}?timeout=3&max_connections=5", 2.0)
    assert wires.ask("PING") == b"PONG"
    wires.close()


def test_given_a_store_whose_connections_are_in_use_when_one_more_asks_then_it_says_that_redis_is_unavailable() -> None:
    link = WiredLink("redis://nowhere.invalid:1", 0.01, most=0)
    with pytest.raises(StoreUnavailable, match="no connection was free"):
        link.run(Script("return 7"), "key")


@pytest.mark.redis
def test_given_commands_sent_together_when_one_fails_then_it_is_raised_and_nothing_is_left_to_read(
    valkey_url: str,
) -> None:
    wires = wires_to(valkey_url, 2.0)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        wires.together([("SET", "a", "1"), ("HSET", "a", "b", "c"), ("SET", "d", "2")])
    with pytest.raises(ResponseError, match="wrong number of arguments"):
        wires.together([("SET", "e", "3"), ("HSET", "a")])
    assert wires.together([("GET", "a"), ("GET", "d"), ("GET", "e")]) == [b"1", b"2", None]
    wires.close()


@pytest.mark.redis
def test_given_a_redis_on_a_local_socket_then_gate_and_store_reach_it(valkey: BrokerService) -> None:
    url = f"unix://:{valkey.password}@{valkey.socket}"
    gate, link = NudgeGate(url, timeout_seconds=2), RedisLink(url)
    assert gate.claim("local", "a", 60_000)
    assert not gate.claim("local", "b", 60_000)
    assert link.run(Script("return 7"), "local") == 7
    gate.close()
    link.close()


@pytest.mark.parametrize("form", ["CERT_NONE", "CERT_REQUIRED", "CERT_OPTIONAL", "none", "required", "optional"])
def test_a_url_of_tls_is_taken_in_kombus_words_and_in_redis_pys(form: str) -> None:
    wires = wires_to(f"rediss://localhost:1/0?ssl_cert_reqs={form}", 0.1)
    with pytest.raises(RedisConnectionError):  # and not: it is no flag
        wires.ask("PING")


@pytest.mark.parametrize("lean", [True, False], ids=["kept wires", "redis-py's pool"])
def test_a_url_that_redis_py_does_not_take_is_said_once_and_lets_all_messages_pass(
    caplog: pytest.LogCaptureFixture, lean: bool
) -> None:
    gate = NudgeGate("redis://:pa55word@localhost:1/0?nonsense=1", lean=lean)
    assert gate.claim("a", "me", 1000)
    assert gate.claim("a", "you", 1000)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "redis-py does not take" in said[0]
    assert "pa55word" not in said[0]
