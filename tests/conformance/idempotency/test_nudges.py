"""The gate for duplicates of Celery messages (``idempotency/nudges.py``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from stageflow_durable.embedded.ports import free_port
from stageflow_durable.idempotency.nudges import NudgeGate
from tests.conformance.idempotency.backends import Clock
from tests.services.broker import BrokerService


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def gate_at(clock: Clock) -> Iterator[Callable[..., NudgeGate]]:
    """Makes gates that are closed when the test ends."""
    with ExitStack() as gates:

        def make(source: str | None, **options: Any) -> NudgeGate:
            gate = NudgeGate(source, clock=clock, **options)
            gates.callback(gate.close)
            return gate

        yield make


@pytest.fixture(params=[True, False], ids=["lean", "by the client"])
def gate(request: pytest.FixtureRequest, fresh_broker_db: str, gate_at: Callable[..., NudgeGate]) -> NudgeGate:
    return gate_at(fresh_broker_db, timeout_seconds=2, lean=request.param)


def test_given_equal_nudges_then_the_first_passes_and_the_rest_are_dropped(gate: NudgeGate) -> None:
    assert gate.claim("run:strand:1", "a", 60_000)
    assert not gate.claim("run:strand:1", "b", 60_000)
    assert gate.claim("run:strand:2", "b", 60_000)


def test_given_a_nudge_of_ours_when_we_ask_again_then_it_passes_again(gate: NudgeGate) -> None:
    assert gate.claim("n", "a", 60_000)
    assert gate.claim("n", "a", 60_000)


def test_given_a_released_nudge_then_an_equal_one_passes(gate: NudgeGate) -> None:
    gate.claim("n", "a", 60_000)
    gate.release("n", "b")
    assert not gate.claim("n", "b", 60_000)
    gate.release("n", "a")
    assert gate.claim("n", "b", 60_000)


def test_given_a_nudge_whose_time_has_passed_then_an_equal_one_passes(gate: NudgeGate) -> None:
    gate.claim("n", "a", 50)
    time.sleep(0.1)
    assert gate.claim("n", "b", 50)


def test_given_many_equal_nudges_at_once_then_one_passes(gate: NudgeGate) -> None:
    with ThreadPoolExecutor(50) as pool:
        passed = list(pool.map(lambda owner: gate.claim("n", str(owner), 60_000), range(300)))
    assert passed.count(True) == 1


def test_given_no_redis_then_everything_passes(gate_at: Callable[..., NudgeGate]) -> None:
    gate = gate_at(None)
    gate.release("n", "a")
    assert gate.claim("n", "a", 1000)
    assert gate.claim("n", "b", 1000)


def test_given_redis_killed_then_all_pass_soon_and_it_is_left_alone_for_a_while(
    valkey: BrokerService, valkey_url: str, clock: Clock, gate_at: Callable[..., NudgeGate]
) -> None:
    gate = gate_at(valkey_url, pause_seconds=1, timeout_seconds=1)
    gate.claim("n", "a", 60_000)
    valkey.kill()
    began = time.monotonic()
    assert gate.claim("n", "b", 60_000)
    assert time.monotonic() - began < 5
    valkey.start()  # from its append-only file, or empty: "n" is a duplicate as soon as it is asked again
    clock.advance(0.99)
    assert gate.claim("n", "c", 60_000)
    clock.advance(0.01)
    gate.claim("n", "d", 60_000)
    assert not gate.claim("n", "e", 60_000)


def test_given_a_paused_redis_then_only_the_first_nudge_in_a_while_waits_for_it(
    valkey: BrokerService, valkey_url: str, clock: Clock, gate_at: Callable[..., NudgeGate]
) -> None:
    gate = gate_at(valkey_url, timeout_seconds=0.1)
    gate.claim("n", "a", 60_000)
    valkey.pause()
    began = time.monotonic()
    assert all(gate.claim("n", str(owner), 60_000) for owner in range(1000))
    assert time.monotonic() - began < 2
    valkey.resume()


def test_given_a_redis_that_never_was_then_making_the_gate_costs_nothing_and_all_pass(
    gate_at: Callable[..., NudgeGate],
) -> None:
    gate = gate_at(f"redis://127.0.0.1:{free_port()}/0")
    assert gate.claim("n", "a", 1000)
