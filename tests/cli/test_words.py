from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.cli import words
from stageflow_durable.cli.logs import Once
from stageflow_durable.legible import jsonable
from stageflow_durable.model.run import SweepReport
from stageflow_durable.model.status import RunStatus
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, FakeApplication, ago


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-3, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86399, "23h"), (86400 * 2, "2d")],
)
def test_ages_are_whole_units_and_never_negative(seconds: float, told: str) -> None:
    assert words.age(ago(seconds), NOW) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 ms"),
        (0.004, "4 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (9.84, "9.8 s"),
        (99.96, "1.7 min"),
        (150, "2.5 min"),
        (11160, "3.1 h"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds: float, told: str) -> None:
    assert words.duration(seconds) == told


@pytest.mark.parametrize(("seconds", "told"), [(0.04, "+40ms"), (1.2, "+1.2s"), (30, "+30s"), (300, "+5m")])
def test_delays_are_short(seconds: float, told: str) -> None:
    assert words.delay(seconds) == told


def test_a_time_of_another_day_has_its_date() -> None:
    assert words.clock(ago(60), NOW) == "03:15:20 UTC"
    assert words.clock(ago(86400 * 3), NOW) == "2026-02-26 03:16:20 UTC"


@given(st.sets(st.text("01AB", min_size=26, max_size=26), max_size=20))
def test_shown_ids_always_tell_runs_apart(ids: set[str]) -> None:
    length = words.shown_length(ids)
    assert length >= words.SHORT_ID
    assert len({one[:length] for one in ids}) == len(ids)


def test_long_text_is_cut_to_one_line() -> None:
    assert words.clipped("a\n b\t" + "c" * 10, 6) == "a b c…"


@dataclass
class Point:
    at: datetime
    tags: frozenset[str]


@pytest.mark.parametrize(
    ("value", "as_json"),
    [
        (
            Point(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), frozenset({"x"})),
            {"at": "2026-01-01T00:00:00.000000Z", "tags": ["x"]},
        ),
        (RunStatus.PARKED, "parked"),
        ({RunStatus.PARKED: (1, 2.5, None, True)}, {"parked": [1, 2.5, None, True]}),
        ({1: "one", "1": "text"}, [[1, "one"], ["1", "text"]]),
        (timedelta(minutes=2), 120.0),
        (b"\x00\xff", "AP8="),
        (date(2026, 1, 1), "2026-01-01"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a"), "/a"),
    ],
)
def test_every_value_that_a_run_can_hold_has_a_json_form(value: object, as_json: object) -> None:
    assert jsonable(value) == as_json
    json.dumps(jsonable(value))


def test_a_warning_of_the_engine_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = Once()
    for text in ("away\nagain", "away again", "other"):
        handler.handle(logging.LogRecord("stageflow", logging.WARNING, "", 0, text, (), None))
    assert capsys.readouterr().err == "stageflow: away again\nstageflow: other\n"


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_a_sweep_tells_what_it_did_and_fails_when_a_run_could_not_be_handled(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.report = SweepReport(owners_dead=1, taken=2, woken=3, nudged=4)
    assert invoke("sweep").stdout == (
        "owners found dead 1, taken from them 2, woken 3, published 4, deadlines passed 0\n"
    )
    engine.report = SweepReport(problems=("01J9F2: its definition cannot be read",))
    result = invoke("sweep", "--json")
    assert (result.exit_code, json.loads(result.stdout)["problems"]) == (1, ["01J9F2: its definition cannot be read"])
    assert result.stderr == "stageflow: 01J9F2: its definition cannot be read\n"


def test_now_is_aware() -> None:
    from stageflow_durable.cli.session import utc_now

    assert utc_now().tzinfo is UTC


# --- prune ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said", "dry"),
    [((), "3 runs pruned\n", False), (("--dry-run", "--limit", "5"), "3 runs would be pruned\n", True)],
)
def test_prune_takes_an_age_and_says_how_many(
    invoke: Invoke, engine: FakeApplication, more: tuple[str, ...], said: str, dry: bool
) -> None:
    result = invoke("prune", "--older-than", "30d", *more)
    assert (result.exit_code, result.stdout) == (0, said)
    assert engine.calls[0].given == {"older_than": timedelta(days=30), "limit": 5 if dry else None, "dry_run": dry}


@pytest.mark.parametrize(
    "age", [(), ("--older-than", "soon"), ("--older-than", "0d"), ("--older-than", "9" * 30 + "d")]
)
def test_prune_without_an_age_deletes_nothing(invoke: Invoke, engine: FakeApplication, age: tuple[str, ...]) -> None:
    result = invoke("prune", *age)
    assert (result.exit_code, engine.calls) == (2, [])
    assert "--older-than" in result.stderr


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (0.7333333333333333, "73 %"),
        (0.0, "0 %"),
        (1.0, "100 %"),
        (7, "7"),
        (12.5, "12.5"),
        ({"done": 4, "of": 10}, "4 of 10"),
        ({"rows": 7, "file": "a"}, "rows 7, file a"),
        ("half way", "half way"),
        ("x" * 99, "x" * 59 + "…"),
        ([1, 2], "[1, 2]"),
        (True, "True"),
    ],
)
def test_progress_reads_as_a_share_or_a_count(given: object, shown: str) -> None:
    assert words.progress(given) == shown
