"""Who is told of events, as the command and doctor say it."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from stageflow_durable.cli import checks
from stageflow_durable.cli.checks import Level
from stageflow_durable.model.sinks import SinkView
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, FakeApplication, ago

FINE = SinkView("log", 0, None, "app-1:871", 0, None, None, ago(5), ago(1000))
REFUSES = SinkView(
    "hook", 510, ago(780), None, 8, "answered 503\x1b[2J", NOW + timedelta(seconds=120), ago(840), ago(9999)
)
ALONE = SinkView("gone", 10_000, ago(7200), None, 0, None, None, None, ago(9999))


def test_each_sink_is_a_line_with_how_far_it_is_behind_and_what_it_refused(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.known_sinks += [FINE, REFUSES, ALONE]
    result = invoke("sinks")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    said = " ".join(result.stdout.split())
    assert "log 0" in said
    assert "app-1:871" in said
    assert "hook 510" in said
    assert "8 times: answered 503\\x1b[2J" in said
    assert "gone 10000+" in said
    assert "never" in said


def test_programs_get_them_in_full(invoke: Invoke, engine: FakeApplication) -> None:
    engine.known_sinks.append(REFUSES)
    (found,) = json.loads(invoke("sinks", "--json").stdout)
    assert (found["name"], found["behind"], found["tries"], found["told_by"]) == ("hook", 510, 8, None)


def test_without_any_it_says_what_makes_some(invoke: Invoke) -> None:
    assert "Engine(sinks=[…])" in invoke("sinks").stdout


def test_one_is_forgotten_by_name(invoke: Invoke, engine: FakeApplication) -> None:
    result = invoke("sinks", "--forget", "gone")
    assert (result.exit_code, result.stdout) == (0, "gone is forgotten\n")
    assert [(call.verb, call.given) for call in engine.calls] == [("forget", {"name": "gone"})]


@pytest.mark.parametrize(
    ("view", "level", "message", "fix"),
    [
        (FINE, Level.OK, "told of everything", None),
        (REFUSES, Level.WARN, "510 events behind, for 13m; refused 8 times", "stageflow sinks"),
        (
            ALONE,
            Level.WARN,
            "no process tells it",
            "start a worker whose engine has it, or: stageflow sinks --forget gone",
        ),
    ],
)
def test_doctor_warns_of_one_that_is_late_or_refuses(
    view: SinkView, level: Level, message: str, fix: str | None
) -> None:
    (check,) = checks.sinks([view], NOW)
    assert (check.name, check.level, check.fix) == (f"sink {view.name}", level, fix)
    assert message in check.message
