"""One process with several owners: what one of them meets stays its own."""

from __future__ import annotations

from threading import Event, Lock, Thread, Timer
from time import monotonic
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from stageflow_durable.delivery.process import Process


def test_given_an_owner_whose_beat_fails_then_the_others_beat_and_it_is_told() -> None:
    process: Any = object.__new__(Process)
    first, second = Mock(), Mock()
    first.beat.side_effect = ValueError("no such thing")
    told = SimpleNamespace(set=Mock())
    vars(process).update(_owners=[first, second], _joined=True, _tried=told, _reached=told)
    with pytest.raises(ValueError, match="no such thing"):
        process._beat()
    second.beat.assert_called_once_with()


class Sweeps:
    """A sweeper that notes what it is asked for; ``turns``: whether it is this process's turn, one after another."""

    def __init__(self, *turns: bool, waits: float | None) -> None:
        self.turns, self.waits = list(turns), waits
        self.asked: list[str] = []

    def sweep_in_turn(self, _every: float) -> object:
        self.asked.append("sweep")
        return object() if self.turns.pop(0) else None

    def next_wait(self) -> float | None:
        return self.waits

    def wake_on_time(self) -> float | None:
        self.asked.append("wake")
        return self.waits


def sweeping(sweeper: Sweeps) -> tuple[Any, Mock]:
    """A process with that sweeper, and its clock, which stands still."""
    process, clock = object.__new__(Process), Mock()
    clock.monotonic.return_value = 100.0
    told = Event()
    told.set()
    vars(process).update(_joined=True, _tried=told, _sweeper=sweeper, _clock=clock, _sweep_seconds=1.0)
    vars(process).update(_sweeps_at=float("-inf"), _wakes=False)
    return process, clock


def test_given_a_wait_that_is_due_before_the_next_sweep_when_it_swept_then_it_looks_again_at_that_time() -> None:
    sweeper = Sweeps(True, True, waits=0.3)
    process, clock = sweeping(sweeper)
    assert process._sweep_in_turn() == 0.3
    clock.monotonic.return_value = 100.3
    assert process._sweep_in_turn() == 0.3
    clock.monotonic.return_value = 100.9
    assert process._sweep_in_turn() == pytest.approx(0.1), "the next sweep is due before the next wait"
    clock.monotonic.return_value = 101.0
    process._sweep_in_turn()
    assert sweeper.asked == ["sweep", "wake", "wake", "sweep"]


@pytest.mark.parametrize(("turn", "waits"), [(False, 0.3), (True, None)], ids=["not its turn", "nothing waits"])
def test_given_another_process_that_sweeps_or_nothing_that_waits_then_it_does_not_look_before_the_next_sweep(
    turn: bool, waits: float | None
) -> None:
    process, _clock = sweeping(Sweeps(turn, waits=waits))
    assert process._sweep_in_turn() == 1.0


def test_given_a_database_that_is_away_when_messages_come_then_each_is_held_longer_until_a_beat_reaches_it() -> None:
    process: Any = object.__new__(Process)
    reached = Mock()
    vars(process).update(_away=0, _reached=reached)
    for _message in range(7):
        process.hold_back()
    waited = [waiting.args[0] for waiting in reached.wait.call_args_list]
    assert waited == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert reached.method_calls[0] == call.clear(), "what a beat reached before the outage says nothing"


def test_given_a_message_that_is_held_when_a_beat_reaches_the_database_then_it_goes_on_at_once() -> None:
    process: Any = object.__new__(Process)
    vars(process).update(_away=4, _reached=Event(), _owners=[], _joined=True, _tried=Event())
    vars(process).update(_clock=Mock(monotonic=monotonic), _lease=10.0, _looked_at=float("inf"))
    beats = Timer(0.2, process._beat)
    beats.start()
    began = monotonic()
    process.hold_back()
    assert monotonic() - began < 4
    beats.join()


def test_given_a_sweep_that_begins_before_the_first_beat_has_joined_then_it_waits_for_that_and_sweeps() -> None:
    process: Any = object.__new__(Process)
    sweeper = Mock(next_wait=Mock(return_value=None))
    vars(process).update(_joined=False, _joining=Lock(), _owners=[], _tried=Event(), _reached=Event())
    vars(process).update(_register=Mock(), _sweeper=sweeper, _sweep_seconds=1.0, _sweeps_at=float("-inf"))
    vars(process).update(_clock=Mock(monotonic=monotonic), _lease=10.0, _looked_at=float("inf"))
    process._owners.append(Mock())
    sweep = Thread(target=process._sweep_in_turn)
    sweep.start()
    sweep.join(0.2)
    assert sweep.is_alive(), "a child that is replaced before the next interval has no other sweep"
    process._beat()
    sweep.join(5)
    sweeper.sweep_in_turn.assert_called_once_with(0.9)


def test_given_a_first_beat_that_cannot_join_then_nothing_is_swept() -> None:
    process: Any = object.__new__(Process)
    sweeper, tried = Mock(), Event()
    tried.set()
    vars(process).update(_joined=False, _tried=tried, _sweeper=sweeper, _sweep_seconds=1.0)
    process._sweep_in_turn()
    sweeper.sweep_in_turn.assert_not_called()
