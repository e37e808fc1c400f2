"""``stageflow limits``: what is taken, who waits, and what people say of a limit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable.engine.limits import LimitView
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, FakeApplication

BANK = LimitView("bank", "", 10, 10, None, 7, 3, None, None)
SMS = LimitView("sms", "acme", 100, 50, 5.0, 0, 2, NOW + timedelta(minutes=5), "ann: the gateway is down")


class FakeLimits:
    """Remembers what was said."""

    def __init__(self, *found: LimitView) -> None:
        self.found = list(found)
        self.said: list[tuple[Any, ...]] = []

    def list(self) -> list[LimitView]:
        return self.found

    def pause(self, *given: Any, **named: Any) -> None:
        self.said.append(("pause", *given, named))

    def resume(self, *given: Any, **named: Any) -> None:
        self.said.append(("resume", *given, named))

    def set(self, *given: Any, **named: Any) -> None:
        self.said.append(("set", *given, named))


@pytest.fixture
def limits(engine: FakeApplication) -> FakeLimits:
    engine.limits = FakeLimits(BANK, SMS)
    return engine.limits  # type: ignore[no-any-return]  # the one of before


def test_it_lists_what_is_taken_who_waits_and_what_is_paused(invoke: Invoke, limits: FakeLimits) -> None:
    lines = [line.split() for line in invoke("limits").output.splitlines()]
    assert lines[1] == ["bank", "7", "of", "10", "3"]
    assert lines[2][:6] == ["sms", "acme", "5/s,", "burst", "100", "2"]
    assert "paused for 5m set; 50 as declared (ann: the gateway is down)" in invoke("limits").output
    assert [row["name"] for row in json.loads(invoke("limits", "--json").output)] == ["bank", "sms"]
    limits.found.clear()
    assert "no stage with limits has run yet" in invoke("limits").output


def test_what_people_say_is_passed_on(invoke: Invoke, limits: FakeLimits) -> None:
    why = ("--reason", "down", "--actor", "ann")
    assert invoke("limits", "pause", "bank", "--key", "acme", "--for", "2m", *why).output == (
        "bank of acme is paused for 120 s\n"
    )
    assert invoke("limits", "resume", "bank", *why).output == "bank goes on\n"
    assert invoke("limits", "set", "bank", "5", *why).output == "bank is 5\n"
    assert invoke("limits", "set", "bank", "declared", *why).output == "bank is as declared\n"
    said = {"reason": "down", "actor": "ann"}
    assert limits.said == [
        ("pause", "bank", "acme", {"until": timedelta(minutes=2), **said}),
        ("resume", "bank", None, said),
        ("set", "bank", 5, said),
        ("set", "bank", None, said),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("pause", "bank", "--reason", "x"),
        ("pause", "bank", "--for", "nan", "--reason", "x"),
        ("pause", "bank", "--for", "60"),
        ("set", "bank", "-1", "--reason", "x"),
        ("set", "bank", "many", "--reason", "x"),
    ],
)
def test_what_it_cannot_read_is_a_mistake_and_changes_nothing(
    words: tuple[str, ...], invoke: Invoke, limits: FakeLimits
) -> None:
    assert invoke("limits", *words).exit_code == 2
    assert limits.said == []


def test_a_hostile_key_or_reason_is_shown_harmlessly(invoke: Invoke, limits: FakeLimits) -> None:
    limits.found[:] = [replace(SMS, key="\u202eevil", said="ann: \x1b[31mred")]
    output = invoke("limits").output
    assert "\u202e" not in output
    assert "\x1b[31m" not in output
