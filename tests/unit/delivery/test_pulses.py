"""A pulse outlives whatever its action meets, and says so once, not at every beat."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stageflow_durable.engine.lease import Pulse
from stageflow_durable.errors import SchemaBehind, StoreUnavailable


class Scripted:
    """An action that raises what it was given, one after another, and then works."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    def __call__(self) -> None:
        error = self.errors.pop(0)
        if error is not None:
            raise error


def lines(caplog: pytest.LogCaptureFixture, *errors: Exception | None) -> list[tuple[str, str]]:
    pulse = Pulse("stageflow-sweep", 2.0, Scripted(*errors))
    with caplog.at_level(logging.INFO):
        for _ in errors:
            pulse.once()
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_an_outage_is_told_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    away = StoreUnavailable("the database did not answer")
    assert lines(caplog, None, away, away, away, None, None, away) == [
        ("WARNING", "stageflow-sweep: the database did not answer; tried again every 2.0 s"),
        ("WARNING", "stageflow-sweep works again"),
        ("WARNING", "stageflow-sweep: the database did not answer; tried again every 2.0 s"),
    ]


def test_a_schema_that_is_behind_is_one_error_with_the_command_that_mends_it(caplog: pytest.LogCaptureFixture) -> None:
    behind = SchemaBehind("no such table: stageflow_runs; run: stageflow db upgrade")
    found = lines(caplog, StoreUnavailable("away"), behind, behind, None)
    assert [level for level, _ in found] == ["WARNING", "ERROR", "WARNING"]
    assert "run: stageflow db upgrade" in found[1][1]


class Noted:
    """A flag that is waited for: how long each time; it comes after the last of ``times``."""

    def __init__(self, times: int) -> None:
        self.waited: list[float] = []
        self._times = times

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return len(self.waited) > self._times


def test_an_action_may_say_that_it_is_to_be_called_sooner_and_never_later() -> None:
    sooner = iter([0.5, None, 9.0, 0.0])
    stopped: Any = Noted(3)
    Pulse("stageflow-sweep", 2.0, lambda: next(sooner), at_once=True)._run(stopped)
    assert stopped.waited == [0.5, 2.0, 2.0, 0.0]


def test_a_surprise_is_told_in_full_and_the_pulse_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(caplog, KeyError("what"), None) == [("ERROR", "stageflow-sweep failed; it goes on")]
    assert caplog.records[0].exc_info is not None
