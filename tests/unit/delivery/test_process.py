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
    sweeper = Mock()
    vars(process).update(_joined=False, _joining=Lock(), _owners=[], _tried=Event(), _reached=Event())
    vars(process).update(_register=Mock(), _sweeper=sweeper, _sweep_seconds=1.0)
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
