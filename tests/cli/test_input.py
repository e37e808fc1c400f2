"""What a person hands in, from files and standard input alike: encodings, emptiness, ages and times."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from stageflow_durable.cli import celery_group
from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.reading import MOST_BYTES, Lines, decoded
from stageflow_durable.cli.session import Session
from stageflow_durable.cli.times import Seconds
from stageflow_durable.model.status import RunStatus
from stageflow_durable.moments import age_of, moment_of
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, RUN_ID, FakeApplication, run

OTHER = f"01J9F1{RUN_ID[6:]}"

TEXT = '{"order_id": "Ä-1 🚲", "amount_cents": 1}'
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
FROM = ["file", "stdin"]


def given(invoke: Invoke, where: str, raw: bytes, *more: str, name: str = "order.json") -> tuple[int, str]:
    """``enqueue`` of these bytes; exit code and what was said."""
    Path(name).write_bytes(raw)
    source = f"@{name}" if where == "file" else "@-"
    result = invoke("enqueue", "checkout", "--input", source, *more, stdin=raw if where == "stdin" else None)
    return result.exit_code, result.stderr


@pytest.mark.parametrize("where", FROM)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_document_may_be_in_any_unicode_encoding_with_its_mark_or_without(
    invoke: Invoke, engine: FakeApplication, where: str, encoding: str
) -> None:
    code, said = given(invoke, where, f"{TEXT}\r\n".encode(encoding))
    assert (code, [value for value, _key, _client in engine.started]) == (0, [json.loads(TEXT)]), said


@pytest.mark.parametrize("where", FROM)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lines_may_be_in_any_unicode_encoding_with_line_ends_of_either_kind(
    invoke: Invoke, engine: FakeApplication, where: str, encoding: str
) -> None:
    raw = f"{TEXT}\r\n\r\n{TEXT}\n{TEXT}".encode(encoding)
    code, said = given(invoke, where, raw, "--lines", name="orders.jsonl")
    assert (code, [value for value, _key, _client in engine.started]) == (0, [json.loads(TEXT)] * 3), said


@pytest.mark.parametrize("where", FROM)
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "it is empty"),
        (b" \r\n", "it is empty"),
        (b"\xef\xbb\xbf", "it is empty"),
        (b"\0\0\0\0", "it is empty"),
        ('{"a": "ä"}'.encode("latin-1"), "not UTF-8 at byte 8; convert it: iconv"),
        ('{"a": "ä"}'.encode("utf-16")[:-1], "not UTF-16 at byte"),
        (b'{"a": "\0"}', "invalid control character at column 8"),
        (b'{"a": 1, "a": 2}', "the name 'a' stands twice in one object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_bytes_that_are_no_document_are_one_line_that_says_why(
    invoke: Invoke, engine: FakeApplication, where: str, raw: bytes, says: str
) -> None:
    code, said = given(invoke, where, raw)
    assert (code, engine.started) == (2, [])
    assert says in said
    assert said.count("\n") == 1


def test_a_file_that_cannot_be_read_is_one_line(invoke: Invoke) -> None:
    Path("folder").mkdir()
    for source in ("@missing", "@folder", "@", "@missing.jsonl", "@folder/x.jsonl"):
        result = invoke("enqueue", "checkout", "--input", source)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr


def test_a_line_that_ends_within_a_character_refuses_itself_only(invoke: Invoke, engine: FakeApplication) -> None:
    code, said = given(invoke, "file", f"{TEXT}\n{TEXT}\n{{".encode("utf-16")[:-1], name="orders.jsonl")
    assert (code, len(engine.started)) == (1, 2)
    assert "orders.jsonl:3: refused" in said


def test_the_name_that_stands_twice_refuses_its_line_only(invoke: Invoke, engine: FakeApplication) -> None:
    code, said = given(invoke, "file", b'{"a": {"b": 1, "b": 2}}\n{"amount_cents": 1}\n', name="orders.jsonl")
    assert (code, len(engine.started)) == (1, 1)
    assert "orders.jsonl:1: refused: the name 'b' stands twice in one object" in said


class Endless:
    """A stream of one line that never ends, until so much was read."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readline(self, most: int) -> bytes:
        part = b"x" * min(most, self.left)
        self.left -= len(part)
        return part


def test_a_line_longer_than_any_input_is_read_to_its_end_and_kept_to_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stageflow_durable.cli.reading.MOST_BYTES", 1000)
    stream = Endless(10_500)
    assert [len(line) for line in Lines(stream)] == [1000]  # type: ignore[arg-type]  # all that is asked of it
    assert stream.left == 0
    assert MOST_BYTES >= 256 * 1024 * 1024  # the largest max_payload_bytes


def test_a_heads_file_written_by_another_system_is_read(invoke: Invoke) -> None:
    Path("heads").write_bytes('{"run_id": "R", "seq": 1, "head": "x"}\r\n'.encode("utf-16"))
    assert "not a line of" not in invoke("audit", "verify", "--heads", "heads").stderr
    Path("heads").write_bytes("ä".encode("latin-1"))
    assert "not UTF-8 at byte 1" in invoke("audit", "verify", "--heads", "heads").stderr


def test_an_utf16_text_without_a_mark_is_told_by_its_first_characters() -> None:
    assert decoded(b"[\x001\x00]\x00", "it") == "[1]"
    with pytest.raises(Misuse, match="not UTF-8"):
        decoded(b"\xe4", "it")


# --- ages and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30s", timedelta(seconds=30)),
        ("2h30m", timedelta(hours=2, minutes=30)),
        (" 1d 12h ", timedelta(days=1.5)),
        ("2 hours ago", timedelta(hours=2)),
        ("1 day, 6 hours", timedelta(hours=30)),
        ("1.5h", timedelta(hours=1.5)),
        ("10MIN", timedelta(minutes=10)),
        ("2", None),
        ("", None),
        ("ago", None),
        ("h", None),
        ("-2h", None),
        ("2h!", None),
        ("2 fortnights", None),
        ("٢h", None),
    ],
)
def test_an_age_may_have_several_parts_and_whole_words(text: str, age: timedelta | None) -> None:
    assert age_of(text) == age


@pytest.fixture
def _in_new_york(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()


@pytest.mark.usefixtures("_in_new_york")
@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("yesterday", "2026-02-27T05:00"),
        ("today", "2026-02-28T05:00"),
        ("2026-02-26", "2026-02-26T05:00"),
        ("2026-02-26 14:00", "2026-02-26T19:00"),
        ("2025-07-01 14:00", "2025-07-01T18:00"),  # summer time, then
        ("14:00", "2026-02-28T19:00"),
        ("9:05", "2026-02-28T14:05"),
        ("2026-02-26T14:00:00Z", "2026-02-26T14:00"),
        ("2026-02-26 14:00 UTC", "2026-02-26T14:00"),
        ("2026-02-26T14:00:00+02:00", "2026-02-26T12:00"),
        ("now", "2026-03-01T03:16:20"),
    ],
)
def test_a_time_without_a_zone_is_this_machines(text: str, utc: str) -> None:
    # It is 03:16 UTC on the first of March: in New York the last evening of February.
    found = moment_of(text, NOW)
    assert found is not None
    assert found[0].astimezone(UTC) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.usefixtures("_in_new_york")
def test_a_zone_that_was_assumed_is_said(invoke: Invoke, engine: FakeApplication) -> None:
    said = invoke("runs", "--since", "yesterday").stderr
    assert "since 2026-02-27 00:00:00 EST (2026-02-27T05:00:00Z)\n" in said
    assert engine.asked["since"] == datetime(2026, 2, 27, 5, tzinfo=UTC)
    assert "since" not in invoke("runs", "--since", "2026-02-26T14:00:00Z").stderr


def test_seconds_may_be_an_age_and_are_finite(invoke: Invoke) -> None:
    convert = Seconds(1).convert
    assert [convert(text, None, None) for text in ("30", "1.5", "2m", "1m30s")] == [30, 1.5, 120, 90]
    for text in ("nan", "inf", "-1", "0.5", "1e999", "soon"):
        result = invoke("show", "01J9F2QZ7KXV", "--watch", "--every", text if text != "0.5" else "0.05")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), text
    for option in ("--rate=nan", "--rate=inf", "--limit=99999999999999999999"):
        assert invoke("cancel", "01J9F2QZ7KXV", option, "--reason", "x").exit_code == 2, option


# --- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "begun", "offered"),
    [
        ([], "aud", ["audit"]),
        (["runs", "--status"], "comp", ["compensating", "compensated", "compensation_failed"]),
        (["runs", "--pipeline"], "ch", ["checkout"]),
        (["enqueue"], "ch", ["checkout"]),
        (["enqueue"], "x", []),
        (["show"], "", [RUN_ID, OTHER]),
        (["history"], RUN_ID[:20].lower(), [RUN_ID]),
        (["runs", "--after"], OTHER[:8], [OTHER]),
        (["resume"], "", [OTHER]),  # the other one runs
        (["cancel", RUN_ID], "", []),  # it is named already
        (["fork"], "zzz", []),
    ],
)
def test_a_shell_completes_commands_statuses_pipelines_and_runs(
    engine: FakeApplication, arguments: list[str], begun: str, offered: list[str]
) -> None:
    engine.pipelines["checkout"] = None
    engine.held = [run(RunStatus.RUNNING, key="a\x1b[2J"), run(RunStatus.FAILED, run_id=OTHER)]
    session = Session(operations=engine, application=engine)
    completion = ShellComplete(celery_group, {"obj": session}, "stageflow", "_STAGEFLOW_COMPLETE")
    found = completion.get_completions(arguments, begun)
    assert [one.value for one in found] == offered
    assert "\x1b" not in "".join(str(one.help) for one in found)


def test_without_an_application_pipelines_of_runs_and_workers_are_completed(engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.RUNNING, pipeline="billing"), run(RunStatus.RUNNING, pipeline="b\x1b[2J")]
    completion = ShellComplete(celery_group, {"obj": Session(operations=engine)}, "stageflow", "_X")
    assert [one.value for one in completion.get_completions(["runs", "--pipeline"], "b")] == ["billing"]


def test_a_database_that_takes_its_time_completes_nothing(
    engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stageflow_durable.cli.completion.PATIENCE_SECONDS", 0.05)
    answers = threading.Event()
    monkeypatch.setattr(engine, "runs", lambda **_given: answers.wait(10) and [])
    completion = ShellComplete(celery_group, {"obj": Session(operations=engine)}, "stageflow", "_X")
    assert completion.get_completions(["show"], "") == []
    answers.set()


def test_where_the_application_cannot_be_asked_nothing_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    completion = ShellComplete(celery_group, {"obj": Session(reference="nowhere:engine")}, "stageflow", "_X")
    assert completion.get_completions(["enqueue"], "c") == []
