from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import SchemaBehind, StoreUnavailable
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeApplication, FakeHandle

GOOD = '{"order_id": "A-1", "amount_cents": 4200}'


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stageflow_durable.cli.lines.PATIENCE", (0.0, 0.0))


# --- one run ----------------------------------------------------------------------------------------------------------


def test_the_id_stands_alone_on_stdout_so_that_a_script_can_take_it(invoke: Invoke, engine: FakeApplication) -> None:
    result = invoke("enqueue", "checkout", "--input", GOOD, "--client-id", "web", "--idempotency-key", "order-A-1")
    assert (result.exit_code, result.stdout) == (0, "01J9F2QZ7KXV00000000000000\n")
    assert result.stderr == "started; stageflow show 01J9F2QZ7KXV00000000000000\n"
    assert engine.started == [({"order_id": "A-1", "amount_cents": 4200}, "order-A-1", "web")]


def test_a_key_used_before_answers_with_the_run_of_then(invoke: Invoke) -> None:
    first = invoke("enqueue", "checkout", "--input", GOOD, "--idempotency-key", "k")
    again = invoke("enqueue", "checkout", "--input", GOOD, "--idempotency-key", "k")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "used before" in again.stderr
    as_json = invoke("enqueue", "checkout", "--input", GOOD, "--idempotency-key", "k", "--json")
    assert json.loads(as_json.stdout) == {"run_id": "01J9F2QZ7KXV00000000000000", "replayed": True}


def test_input_comes_from_a_file_or_from_standard_input(invoke: Invoke, engine: FakeApplication) -> None:
    Path("order.json").write_text(GOOD)
    assert invoke("enqueue", "checkout", "--input", "@order.json").exit_code == 0
    assert invoke("enqueue", "checkout", "--input", "@-", stdin=json.dumps(json.loads(GOOD), indent=2)).exit_code == 0
    assert [value for value, _key, _client in engine.started] == [json.loads(GOOD)] * 2


def test_the_key_may_come_from_a_field_of_the_input(invoke: Invoke, engine: FakeApplication) -> None:
    invoke("enqueue", "checkout", "--input", GOOD, "--key-field", "order_id")
    assert engine.started[0][1] == "A-1"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["checkout", "--input", "{"], 2, "--input is not JSON"),
        (["checkout", "--input", "[" * 50_000], 2, "--input is not JSON: nested too deep"),
        (["checkout", "--input", "\udcff"], 2, "argument 4 is not UTF-8 at character 1"),
        (["checkout", "--input", "@none.json"], 2, "@none.json: No such file"),
        (["checkout", "--input", "@none.jsonl"], 2, "@none.jsonl: No such file"),
        (["checkout"], 2, "--input"),
        (["checkout", "--input", GOOD, "--attribute", "order"], 2, "--attribute 'order' is not NAME=VALUE"),
        (["checkout", "--input", GOOD, "--attribute", "a=1", "--attribute", "a=2"], 2, "a is given twice"),
        (["checkout", "--input", GOOD, "--key-field", "nope"], 2, "no field 'nope'"),
        (["checkout", "--input", GOOD, "--key-field", "a", "--idempotency-key", "b"], 2, "not both"),
        (["checkout", "--input", "{}"], 1, "amount_cents: input should be a valid integer"),
        (["chekout", "--input", GOOD], 1, "no pipeline 'chekout' in this engine; it knows: checkout"),
    ],
)
def test_bad_input_starts_nothing_and_is_one_line_that_names_the_field(
    invoke: Invoke, engine: FakeApplication, arguments: list[str], code: int, says: str
) -> None:
    result = invoke("enqueue", *arguments)
    assert (result.exit_code, result.stdout, engine.started) == (code, "", [])
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_attributes_go_with_each_run(invoke: Invoke, engine: FakeApplication) -> None:
    invoke("enqueue", "checkout", "--input", GOOD, "--attribute", "order=A-1", "--attribute", "region=eu")
    invoke("enqueue", "checkout", "--lines", "--input", f"{GOOD}\n{GOOD}", "--attribute", "order=A-2")
    assert engine.described == [{"order": "A-1", "region": "eu"}, {"order": "A-2"}, {"order": "A-2"}]


def test_the_same_key_with_other_input_is_refused_and_names_the_field(invoke: Invoke) -> None:
    invoke("enqueue", "checkout", "--input", GOOD, "--idempotency-key", "k")
    result = invoke("enqueue", "checkout", "--input", '{"amount_cents": 1}', "--idempotency-key", "k")
    assert result.exit_code == 1
    assert "differing: amount_cents" in result.stderr


def test_waiting_prints_the_result_and_a_run_that_fails_is_exit_1(invoke: Invoke) -> None:
    done = invoke("enqueue", "checkout", "--input", GOOD, "--wait")
    run_id, document = done.stdout.split("\n", 1)
    assert (done.exit_code, run_id, json.loads(document)) == (0, "01J9F2QZ7KXV00000000000000", {"amount": 4200})
    failed = invoke("enqueue", "checkout", "--input", '{"amount_cents": -1}', "--wait")
    assert failed.exit_code == 1
    assert "failed at stage charge: card declined" in failed.stderr


def test_whoever_stops_waiting_has_the_id_and_is_told_that_the_run_goes_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: FakeHandle, timeout: float | None = None, *, for_people: bool = False) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeHandle, "result", interrupted)
    run_id = "01J9F2QZ7KXV00000000000000"
    result = invoke("enqueue", "checkout", "--input", GOOD, "--wait")
    assert (result.exit_code, result.stdout) == (130, f"{run_id}\n")
    assert f"run {run_id} goes on: stageflow show {run_id} --watch" in result.stderr
    as_json = invoke("enqueue", "checkout", "--input", GOOD, "--wait", "--json")
    assert (as_json.exit_code, as_json.stdout) == (130, "")
    assert "goes on" in as_json.stderr


def test_a_run_that_was_waited_for_and_failed_has_its_id_first(invoke: Invoke) -> None:
    result = invoke("enqueue", "checkout", "--input", '{"amount_cents": -1}', "--wait")
    assert result.stdout == "01J9F2QZ7KXV00000000000000\n"


def test_waiting_too_long_says_that_the_run_goes_on(invoke: Invoke) -> None:
    result = invoke("enqueue", "checkout", "--input", GOOD, "--wait", "--timeout", "0", "--json")
    assert result.exit_code == 1
    assert "it goes on; stageflow show" in json.loads(result.stdout)["error"]


# --- a file of lines --------------------------------------------------------------------------------------------------

LINES = """\
{"order_id": "A-1", "amount_cents": 1}

{"order_id": "A-2", "amount_cents": "two"}
{"order_id": "A-3",
{"order_id": "A-1", "amount_cents": 1}
[1, 2]
{"order_id": "A-1", "amount_cents": 2}
{"amount_cents": 8}
{"order_id": null, "amount_cents": 9}
{"order_id": "A-10", "amount_cents": 10}"""


def test_every_line_is_started_or_refused_with_its_number_and_reason(invoke: Invoke, engine: FakeApplication) -> None:
    Path("orders.jsonl").write_text(LINES)
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--key-field", "order_id")
    assert result.exit_code == 1
    assert result.stdout == "3 lines accepted, 1 of them had been before, 6 refused\n"
    assert [line.partition(". ")[0] for line in result.stderr.splitlines()] == [
        "orders.jsonl:3: refused: input of checkout: amount_cents: input should be a valid integer",
        "orders.jsonl:4: refused: expecting property name enclosed in double quotes at column 20",
        "orders.jsonl:6: refused: no field 'order_id' to take the key from",
        "orders.jsonl:7: refused: idempotency key 'A-1' was used before with other parameters; differing: amount_cents",
        "orders.jsonl:8: refused: no field 'order_id' to take the key from",
        "orders.jsonl:9: refused: field 'order_id' is NoneType, a key is text or a whole number",
    ]
    assert [key for _value, key, _client in engine.started] == ["A-1", "A-10"]


def test_as_json_each_line_is_an_object_of_its_own(invoke: Invoke) -> None:
    Path("orders.jsonl").write_text(LINES)
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--key-field", "order_id", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["line"] for line in lines] == [1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert lines[0] == {"line": 1, "run_id": "01J9F2QZ7KXV00000000000000", "replayed": False}
    assert set(lines[1]) == {"line", "error"}


def test_bytes_that_are_not_utf8_refuse_their_line_only(invoke: Invoke, engine: FakeApplication) -> None:
    Path("orders.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b'\r\n{"a": "\xff"}\n' + b"[" * 100_000 + b"\n")
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl")
    assert len(engine.started) == 1
    assert "orders.jsonl:2: refused: not UTF-8 at byte 8" in result.stderr
    assert "orders.jsonl:3: refused: nested too deep" in result.stderr


def test_lines_may_come_from_standard_input(invoke: Invoke, engine: FakeApplication) -> None:
    assert invoke("enqueue", "checkout", "--input", "@-", stdin=f"{GOOD}\n{GOOD}\n").exit_code == 0
    assert invoke("enqueue", "checkout", "--input", "@-", "--lines", stdin=f"{GOOD}\n").exit_code == 0
    assert len(engine.started) == 3


def test_one_key_for_many_lines_is_wrong_usage(invoke: Invoke, engine: FakeApplication) -> None:
    Path("orders.jsonl").write_text(LINES)
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--idempotency-key", "k")
    assert (result.exit_code, engine.started) == (2, [])
    assert "--key-field" in result.stderr


def test_a_database_that_is_away_for_a_moment_loses_no_line(invoke: Invoke, engine: FakeApplication) -> None:
    engine.outages = [StoreUnavailable("gone"), StoreUnavailable("gone")]
    Path("orders.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl")
    assert (result.exit_code, len(engine.started)) == (0, 2)


def test_given_lines_that_are_tried_again_then_each_keeps_the_id_of_its_run(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("orders.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    tries: list[list[str | None]] = []
    start = engine.enqueue_many

    def answer_lost_once(pipeline: str, submissions: Sequence[Submission], **given: Any) -> Any:
        tries.append([one.run_id for one in submissions])
        answers = start(pipeline, submissions, **given)
        if len(tries) == 1:
            raise StoreUnavailable("the database did not answer")
        return answers

    monkeypatch.setattr(engine, "enqueue_many", answer_lost_once)
    assert invoke("enqueue", "checkout", "--input", "@orders.jsonl").exit_code == 0
    assert tries[0] == tries[1]
    assert len({*tries[0]} - {None}) == 2


@pytest.mark.parametrize(
    ("keys", "doubt"), [((), True), (("--key-field", "order_id"), False)], ids=["without keys", "with keys"]
)
def test_when_the_answer_may_have_been_lost_it_says_which_lines_may_be_recorded(
    invoke: Invoke, engine: FakeApplication, keys: tuple[str, ...], doubt: bool
) -> None:
    Path("orders.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    engine.outages = [StoreUnavailable("the database did not answer")] * 9
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", *keys)
    assert ("lines 1 to 2 may be recorded too" in result.stderr) is doubt


@pytest.mark.parametrize("error", [StoreUnavailable("the database did not answer"), SchemaBehind("run: db upgrade")])
def test_when_no_line_can_be_taken_it_stops_and_says_where_to_go_on(
    invoke: Invoke, engine: FakeApplication, error: StoreUnavailable | SchemaBehind
) -> None:
    Path("orders.jsonl").write_text(f"{GOOD}\n{GOOD}\n{GOOD}\n")
    invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--from-line", "3")
    engine.outages = [error] * 9
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--from-line", "2")
    assert result.exit_code == 1
    assert f"stopped at line 2: {error}; the lines before it are recorded" in result.stderr
    assert "--from-line 2" in result.stderr
    assert result.stdout.splitlines()[-1] == "0 lines accepted"


def test_waiting_for_lines_names_those_that_did_not_succeed(invoke: Invoke) -> None:
    Path("orders.jsonl").write_text('{"amount_cents": 1}\n{"amount_cents": -1}\n')
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--wait")
    assert result.exit_code == 1
    assert result.stdout == "2 lines accepted, 1 did not succeed\n"
    assert "orders.jsonl:2: run 01J9F2QZ7KXV00000000000001 failed at stage charge: card declined" in result.stderr


def test_an_unknown_pipeline_is_told_once_not_for_every_line(invoke: Invoke) -> None:
    Path("orders.jsonl").write_text(f"{GOOD}\n{GOOD}\n")
    result = invoke("enqueue", "nope", "--input", "@orders.jsonl")
    assert result.exit_code == 1
    assert result.stderr.count("no pipeline 'nope'") == 1


def test_lines_are_started_a_hundred_at_a_time(invoke: Invoke, engine: FakeApplication) -> None:
    Path("orders.jsonl").write_text("".join(f'{{"order_id": {n}, "amount_cents": {n}}}\n' for n in range(250)))
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--key-field", "order_id", "--client-id", "web")
    assert (result.exit_code, result.stdout) == (0, "250 lines accepted\n")
    assert engine.batches == [100, 100, 50]
    assert [(value["order_id"], key, client) for value, key, client in engine.started] == [
        (n, str(n), "web") for n in range(250)
    ]


def test_given_an_outage_in_a_batch_then_only_the_lines_that_still_wait_are_tried_again(
    invoke: Invoke, engine: FakeApplication
) -> None:
    Path("orders.jsonl").write_text('{"amount_cents": 1}\n{"amount_cents": "?"}\n{"amount_cents": 3}\n')
    start, gone = engine.enqueue, [StoreUnavailable("gone")]

    def gone_at_the_third(pipeline: str, value: Any, **given: Any) -> Any:
        if value["amount_cents"] == 3 and gone:
            raise gone.pop()
        return start(pipeline, value, **given)

    engine.enqueue = gone_at_the_third  # type: ignore[assignment]  # away for a moment, for one line
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--json")
    assert engine.batches == [3, 1]
    assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == [1, 2, 3]
    assert "2 lines accepted, 1 refused" in result.stderr


def interrupted_at(engine: FakeApplication, started: int) -> None:
    """Ctrl-C while the line after so many started ones is being started."""
    start = engine.enqueue

    def interrupted(*given: Any, **named: Any) -> Any:
        if len(engine.started) == started:
            os.kill(os.getpid(), signal.SIGINT)
        return start(*given, **named)

    engine.enqueue = interrupted  # type: ignore[method-assign]  # Ctrl-C in the middle of a batch


def test_interrupted_in_a_batch_it_ends_after_the_batch_and_says_how_many_and_where_to_go_on(
    invoke: Invoke, engine: FakeApplication
) -> None:
    Path("orders.jsonl").write_text(f"{GOOD}\n" * 250)
    interrupted_at(engine, 150)
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl")
    assert (result.exit_code, result.stdout) == (130, "200 lines accepted\n")
    assert len(engine.started) == 200
    assert "interrupted after line 200; go on with --from-line 201" in result.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupted_twice_it_ends_at_once_and_says_that_more_may_be_recorded(
    invoke: Invoke, engine: FakeApplication
) -> None:
    Path("orders.jsonl").write_text(f"{GOOD}\n" * 250)
    interrupted_at(engine, 150)
    interrupted_at(engine, 150)
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl")
    assert (result.exit_code, result.stdout) == (130, "100 lines accepted\n")
    assert "interrupted after line 100; some after it may be recorded too; go on with --from-line 101" in result.stderr


def test_interrupted_while_it_only_waits_it_says_that_the_runs_go_on(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: FakeHandle, timeout: float | None = None, *, for_people: bool = False) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeHandle, "result", interrupted)
    Path("orders.jsonl").write_text(f"{GOOD}\n" * 2)
    result = invoke("enqueue", "checkout", "--input", "@orders.jsonl", "--wait")
    assert (result.exit_code, result.stdout) == (130, "2 lines accepted\n")
    assert "no longer waiting; the runs go on" in result.stderr
