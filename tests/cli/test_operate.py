from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable import Credential
from stageflow_durable.errors import NotAllowed, StoreUnavailable
from stageflow_durable.model.run import ApprovalView, Run
from stageflow_durable.model.status import ParkReason, RunStatus, StageState, WaitingFor
from stageflow_durable.store.values import Seen
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, RUN_ID, FakeApplication, attempt, parked_unknown, run, stage, undo


def running(number: int, **more: Any) -> Run:
    return run(
        RunStatus.RUNNING,
        stage("reserve", StageState.OK, attempt(), undo=undo("release")),
        stage("charge", StageState.RUNNING),
        run_id=f"01J9F2QZ7KXV3M5N8P0R2T4W{number:02}",
        **more,
    )


def bugs(number: int) -> list[Run]:
    return [
        run(
            RunStatus.PARKED,
            stage("mail", StageState.FAILED, attempt()),
            run_id=f"01J9F2BUG{n:017}",
            park_reason=ParkReason.BUG,
        )
        for n in range(number)
    ]


# --- one run ----------------------------------------------------------------------------------------------------------


def test_cancel_says_what_it_did_and_carries_reason_actor_and_the_version_it_read(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [running(1)]
    result = invoke("cancel", "01J9F2QZ7KXV", "--reason", "duplicate", "--actor", "ann@ops")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "01J9F2QZ7KXV  running → cancelled (undo: release)\n"
    assert engine.calls[0].given == {"reason": "duplicate", "actor": "ann@ops", "op_version": 3}


def test_a_run_that_is_named_twice_in_two_ways_is_cancelled_once(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [running(1)]
    result = invoke("cancel", "01J9F2QZ7KXV", engine.held[0].run_id, "--reason", "duplicate")
    assert (result.exit_code, result.stdout) == (0, "01J9F2QZ7KXV  running → cancelled (undo: release)\n")
    assert len(engine.calls) == 1


def test_the_actor_is_user_at_host_unless_said(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    monkeypatch.setattr("socket.gethostname", lambda: "ops-1")
    engine.held = [running(1)]
    invoke("cancel", "01J9F2", "--reason", "duplicate")
    assert engine.calls[0].given["actor"] == "ann@ops-1"


@pytest.mark.parametrize("reason", [[], ["--reason", "  "]])
def test_without_a_reason_nothing_is_done(invoke: Invoke, engine: FakeApplication, reason: list[str]) -> None:
    engine.held = [running(1)]
    result = invoke("cancel", "01J9F2", *reason)
    assert (result.exit_code, engine.calls) == (2, [])
    assert "--reason" in result.stderr


def test_a_verb_that_is_not_allowed_is_refused_with_the_way_out_and_exit_1(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [parked_unknown()]
    result = invoke("resume", "01J9F2", "--reason", "again")
    assert (result.exit_code, engine.calls) == (1, [])
    assert "the outcome of charge is unknown" in result.stderr
    assert f"stageflow settle {RUN_ID} charge --done" in result.stderr


def test_past_the_pivot_compensate_wants_to_be_told(invoke: Invoke, engine: FakeApplication) -> None:
    shipped = stage("ship", StageState.FAILED, attempt(), pivot=True)
    engine.held = [
        run(
            RunStatus.FAILED,
            stage("reserve", StageState.OK, attempt(), undo=undo("release")),
            shipped,
            pivot_passed=True,
        )
    ]
    assert "--past-pivot" in invoke("compensate", "01J9F2", "--reason", "r").stderr
    done = invoke("compensate", "01J9F2", "--past-pivot", "--reason", "r")
    assert done.stdout == "01J9F2QZ7KXV  failed → compensating (undo: release)\n"
    assert engine.calls[0].given["past_pivot"] is True


def test_a_run_changed_by_somebody_else_meanwhile_is_a_conflict_not_a_race(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [running(1)]
    look = engine.standings

    def change_after_looking(run_ids: Sequence[str]) -> Iterable[Seen]:
        seen = look(run_ids)
        engine.held = [replace(run, op_version=run.op_version + 1) for run in engine.held]
        return seen

    engine.standings = change_after_looking  # type: ignore[method-assign]  # somebody else
    result = invoke("cancel", "01J9F2", "--reason", "r")
    assert (result.exit_code, engine.calls) == (1, [])
    assert "changed by somebody else" in result.stderr


# --- several ----------------------------------------------------------------------------------------------------------


def test_of_several_named_runs_each_is_told_and_one_refusal_is_exit_1(invoke: Invoke, engine: FakeApplication) -> None:
    ended = run(RunStatus.SUCCEEDED, run_id="01J9F2ZZZZZZZZZZZZZZZZZZZZ")
    engine.held = [running(1), ended, running(2)]
    result = invoke("cancel", *(one.run_id for one in engine.held), "--reason", "r")
    assert result.exit_code == 1
    assert result.stdout.count("running → cancelled") == 2
    assert "it has succeeded, and nothing leaves that" in result.stderr
    assert result.stderr.endswith("cancel: 2 runs, 1 refused\n")


def test_by_filter_without_yes_and_without_a_terminal_nothing_is_done(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = bugs(3)
    result = invoke("resume", "--status", "parked", "--reason", "fixed")
    assert (result.exit_code, engine.calls) == (2, [])
    assert "resume would change 3 runs; say --yes" in result.stderr


def test_by_filter_only_runs_that_permit_the_verb_and_fit_are_changed(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [*bugs(3), parked_unknown(), run(RunStatus.SUCCEEDED, run_id="01J9F2ZZZZZZZZZZZZZZZZZZZZ")]
    result = invoke("resume", "--pipeline", "checkout", "--park-reason", "bug", "--reason", "fixed", "--yes")
    assert result.exit_code == 0, result.output
    assert [call.run_id for call in engine.calls] == [one.run_id for one in bugs(3)]
    assert result.stderr == "resume: 3 runs\n"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [running(1), running(2)]
    result = invoke("cancel", "--pipeline", "checkout", "--dry-run", "--reason", "r")
    assert (result.exit_code, engine.calls) == (0, [])
    assert result.stdout.splitlines()[0].endswith("running → would cancel (undo: release)")
    assert result.stderr == "cancel: 2 runs (dry run)\n"


def test_a_limit_bounds_how_many_are_changed(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = bugs(5)
    invoke("resume", "--status", "parked", "--reason", "fixed", "--limit", "2", "--yes")
    assert len(engine.calls) == 2


def test_a_rate_paces_the_changes(invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("threading.Event.wait", lambda _self, seconds=None: waited.append(seconds))
    engine.held = bugs(3)
    invoke("resume", "--status", "parked", "--reason", "fixed", "--rate", "4", "--yes")
    assert waited == [0.25, 0.25]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name the runs to cancel, or filter them"),
        (["01J9F2", "--pipeline", "checkout"], "not both"),
        (["--status", "succeeded"], "cancel does nothing for runs that are succeeded"),
        (["01J9"], "too short"),
    ],
)
def test_a_selection_that_cannot_be_meant_is_wrong_usage(
    invoke: Invoke, engine: FakeApplication, arguments: list[str], says: str
) -> None:
    engine.held = [running(1)]
    result = invoke("cancel", *arguments, "--reason", "r", "--yes")
    assert (result.exit_code, engine.calls) == (2, [])
    assert says in result.stderr


def test_as_json_each_outcome_is_a_record(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [running(1), run(RunStatus.SUCCEEDED, run_id="01J9F2ZZZZZZZZZZZZZZZZZZZZ")]
    result = invoke("cancel", *(one.run_id for one in engine.held), "--reason", "r", "--json")
    first, second = json.loads(result.stdout)
    assert first == {
        "run_id": running(1).run_id,
        "ok": True,
        "before": "running",
        "after": "cancelled",
        "undoes": ["release"],
        "error": None,
    }
    assert (second["ok"], second["before"], result.exit_code) == (False, "succeeded", 1)


def test_when_the_database_goes_away_half_way_what_was_done_is_told_and_the_rest_left(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = bugs(3)
    act = engine.resume

    def once(*given: object, **named: object) -> object:
        if engine.calls:
            raise StoreUnavailable("the database did not answer")
        return act(*given, **named)  # type: ignore[arg-type]  # passed on as it came

    engine.resume = once  # type: ignore[method-assign,assignment]  # goes away after the first
    result = invoke("resume", "--status", "parked", "--reason", "fixed", "--yes")
    assert result.exit_code == 1
    assert result.stdout == "01J9F2BUG000  parked → running\n"
    assert result.stderr == "stageflow: the database did not answer\n"


# --- settle -----------------------------------------------------------------------------------------------------------


def test_settle_done_records_the_output_and_says_where_the_run_goes(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [parked_unknown()]
    result = invoke("settle", "01J9F2", "charge", "--done", '{"payment_id": "p-1"}', "--reason", "seen at the bank")
    assert (result.exit_code, result.stdout) == (0, "01J9F2QZ7KXV  charge is done: parked → running\n")
    given = engine.calls[0].given
    assert (given["done"], given["not_done"], given["op_version"]) == ({"payment_id": "p-1"}, False, 3)


def test_settle_not_done_has_the_stage_tried_again(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [parked_unknown()]
    result = invoke("settle", "01J9F2", "charge", "--not-done", "--reason", "not at the bank")
    assert result.stdout == "01J9F2QZ7KXV  charge did not happen: parked → running\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["charge"], 2, "--done JSON"),
        (["charge", "--done", "{}", "--not-done"], 2, "--done JSON"),
        (["charge", "--done", "{payment}"], 2, "--done is not JSON"),
        (["charge", "--done", "NaN"], 2, "NaN is not JSON"),
        (["charge", "--done", "@missing.json"], 2, "No such file"),
        (["chrage", "--not-done"], 2, "has no stage 'chrage'; it has: validate, reserve, charge, ship"),
        (["reserve", "--not-done"], 1, "the outcome of reserve is not unknown; unknown are: charge"),
    ],
)
def test_a_wrong_settlement_changes_nothing_and_says_why(
    invoke: Invoke, engine: FakeApplication, arguments: list[str], code: int, says: str
) -> None:
    engine.held = [parked_unknown()]
    result = invoke("settle", "01J9F2", *arguments, "--reason", "r")
    assert (result.exit_code, engine.calls) == (code, [])
    assert says in result.stderr


# --- signal -----------------------------------------------------------------------------------------------------------


def waiting() -> Run:
    word = stage("word", StageState.WAITING, kind="wait", waiting_for=WaitingFor.SIGNAL, wake_at=None)
    return run(RunStatus.WAITING, word)


def test_a_signal_carries_its_payload_key_reason_and_sender_and_says_that_it_was_received(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [waiting()]
    given = ("--payload", '{"approved": true}', "--idempotency-key", "k", "--reason", "by phone", "--actor", "ann")
    result = invoke("signal", "01J9F2", "word", *given)
    assert (result.exit_code, result.stdout) == (0, "01J9F2QZ7KXV  word received\n")
    (call,) = engine.calls
    assert (call.verb, call.run_id) == ("signal", RUN_ID)
    assert call.given == {
        "name": "word",
        "payload": {"approved": True},
        "idempotency_key": "k",
        "reason": "by phone",
        "actor": "ann",
    }


def test_a_signal_that_had_come_before_is_said_to_and_programs_get_its_receipt(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held, engine.replays = [waiting()], True
    assert "there already under its key" in invoke("signal", "01J9F2", "word", "--reason", "r").stdout
    receipt = json.loads(invoke("signal", "01J9F2", "word", "--reason", "r", "--json").stdout)
    assert (receipt["run_id"], receipt["number"], receipt["replayed"]) == (RUN_ID, 1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--payload", "{approved}", "--reason", "r"], 2, "--payload is not JSON"),
        (["--payload", "1"], 2, "--reason"),
        (["--reason", "r"], 1, "its wait 'word' is over"),
    ],
)
def test_a_signal_that_is_refused_says_why_on_one_line(
    invoke: Invoke, engine: FakeApplication, arguments: list[str], code: int, says: str
) -> None:
    def over(*_given: Any, **_options: Any) -> Any:
        raise NotAllowed(RUN_ID, "signal", "its wait 'word' is over")

    engine.held = [waiting()]
    engine.signal = over  # type: ignore[method-assign]  # the run has moved on
    result = invoke("signal", "01J9F2", "word", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_show_says_what_a_run_waits_for_and_the_line_that_answers(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [waiting()]
    text = invoke("show", RUN_ID).stdout
    assert "for a signal" in text
    assert "stageflow signal 01J9F2QZ7KXV word --payload '{…}' --reason …" in text


# --- approvals --------------------------------------------------------------------------------------------------------

DIGEST = "0123456789abcdef" * 4


def asking(number: int = 1, **decided: Any) -> Run:
    content = {"order": "A-1", "amount_cents": 4200, "note": "\x1b[2J"}
    view = ApprovalView("release", 1, content, DIGEST, ("ann", "max"), NOW, **decided)
    release = stage("release", StageState.WAITING, kind="approval", waiting_for=WaitingFor.APPROVAL, wake_at=None)
    asked = replace(release, approval=view)
    return replace(run(RunStatus.WAITING, asked, run_id=f"01J9F2QZ7KXV3M5N8P0R2T4W{number:02}"), approval=view)


def test_show_has_what_is_to_be_approved_by_whom_and_the_lines_that_decide(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [asking()]
    text = invoke("show", engine.held[0].run_id).stdout
    assert 'asks for: {"order": "A-1", "amount_cents": 4200' in text
    assert "\x1b" not in text
    assert "digest 0123456789ab, by one of: ann, max" in text
    for verb in ("approve", "deny"):
        assert f"stageflow {verb} 01J9F2QZ7KXV release --digest 0123456789ab --reason …" in text


def test_show_says_who_decided_and_whether_that_name_was_only_typed(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [asking(decision="approved", actor="ann", reason="it is right", decided_at=NOW)]
    assert "approved by ann (as typed): it is right" in invoke("show", engine.held[0].run_id).stdout


def test_attention_has_what_is_to_be_approved_and_the_line_that_approves(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [asking()]
    text = invoke("runs", "--attention").stdout
    assert "waits for an approval" in text
    assert 'asks for: {"order": "A-1"' in text
    assert f"next: stageflow approve {engine.held[0].run_id} release --digest 0123456789ab --reason …" in text
    group = json.loads(invoke("runs", "--attention", "--json").stdout)[0]
    assert group["approval"]["content"]["amount_cents"] == 4200


@pytest.mark.parametrize(("verb", "became"), [("approve", "approved"), ("deny", "denied")])
def test_a_decision_carries_digest_reason_and_the_version_that_was_read(
    invoke: Invoke, engine: FakeApplication, verb: str, became: str
) -> None:
    engine.held = [asking()]
    result = invoke(verb, "01J9F2", "release", "--digest", "0123", "--reason", "r", "--actor", "ann")
    assert (result.exit_code, result.stdout) == (0, f"01J9F2QZ7KXV  release {became}: waiting → running\n")
    (call,) = engine.calls
    assert (call.verb, call.given) == (
        verb,
        {"stage": "release", "digest": "0123", "reason": "r", "actor": "ann", "op_version": 3},
    )


def test_a_decision_that_is_refused_says_why_on_one_line(invoke: Invoke, engine: FakeApplication) -> None:
    def refused(*_given: Any, **_options: Any) -> Any:
        raise NotAllowed(RUN_ID, "approve", "ann is not authenticated")

    engine.held = [asking()]
    engine.approve = refused  # type: ignore[method-assign]  # a typed name proves nothing
    result = invoke("approve", "01J9F2", "release", "--reason", "r")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "ann is not authenticated" in result.stderr
    assert invoke("deny", "01J9F2", "release").exit_code == 2


def test_a_credential_comes_from_a_file_or_from_standard_input_and_is_never_shown(
    invoke: Invoke, engine: FakeApplication, tmp_path: Path
) -> None:
    engine.held = [asking()]
    (tmp_path / "token").write_text("token-of-ann\n")
    for source, given in ((f"@{tmp_path / 'token'}", None), ("@-", "token-of-ann\n")):
        engine.calls.clear()
        result = invoke("approve", engine.held[0].run_id, "release", "--reason", "r", "--actor", source, stdin=given)
        assert result.exit_code == 0
        assert engine.calls[0].given["actor"] == Credential("token-of-ann")
        assert "token-of-ann" not in result.stdout + result.stderr


@pytest.mark.parametrize("source", ["@", "@/nowhere", "empty"])
def test_a_credential_that_is_not_there_is_refused_before_anything_is_done(
    invoke: Invoke, engine: FakeApplication, tmp_path: Path, source: str
) -> None:
    engine.held = [asking()]
    (tmp_path / "empty").write_text("\n")
    given = f"@{tmp_path / 'empty'}" if source == "empty" else source
    result = invoke("deny", engine.held[0].run_id, "release", "--reason", "r", "--actor", given)
    assert (result.exit_code, engine.calls) == (2, [])
    assert "--actor" in result.stderr


# --- reveal -----------------------------------------------------------------------------------------------------------


def test_values_are_revealed_as_they_are_for_a_reason(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.SUCCEEDED)]
    result = invoke("reveal", "01J9F2", "--reason", "complaint 812", "--actor", "ann", "--json")
    assert json.loads(result.stdout) == {
        "run_id": RUN_ID,
        "input": {"password": "hunter2"},
        "metadata": {},
        "outputs": {"charge": {"token": "t-1"}},
    }
    assert [(call.verb, call.given) for call in engine.calls] == [
        ("reveal", {"reason": "complaint 812", "actor": "ann"})
    ]


def test_for_people_each_value_is_a_line(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.SUCCEEDED)]
    assert invoke("reveal", "01J9F2", "--reason", "r").stdout.splitlines() == [
        'input             {"password": "hunter2"}',
        "metadata          {}",
        'output of charge  {"token": "t-1"}',
    ]


def test_without_a_reason_nothing_is_revealed(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.SUCCEEDED)]
    result = invoke("reveal", "01J9F2")
    assert (result.exit_code, result.stdout, engine.calls) == (2, "", [])
    assert "--reason" in result.stderr


# --- erase ------------------------------------------------------------------------------------------------------------


def test_runs_that_have_ended_are_erased_by_a_filter_for_a_reason(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [run(RunStatus.SUCCEEDED)]
    result = invoke("erase", "--pipeline", "checkout", "--reason", "request 7", "--actor", "dpo", "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("succeeded → erased\n")
    assert [(call.verb, call.given["reason"]) for call in engine.calls] == [("erase", "request 7")]
    assert "does nothing for runs that are parked" in invoke("erase", "--status", "parked", "--reason", "r").stderr


def test_a_run_that_goes_on_is_not_erased(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [running(1)]
    result = invoke("erase", engine.held[0].run_id, "--reason", "request 7")
    assert result.exit_code == 1
    assert "erase refused: it is running, and its stages need its values" in result.stderr
    assert engine.calls == []
