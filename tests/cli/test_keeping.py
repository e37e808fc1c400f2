"""``fork``, ``check``, ``audit`` and the ways to compensate again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.run import Run
from stageflow_durable.model.status import RunStatus, StageState, StepState
from stageflow_durable.store.values import Checked
from tests.cli.conftest import Invoke
from tests.cli.fakes import RUN_ID, FakeApplication, attempt, run, stage, summary, undo

OTHER = "01J9F3QZ7KXV3M5N8P0R2T4W6Z"


def failed(run_id: str = RUN_ID) -> Run:
    stuck = undo("release", StepState.COMPENSATION_FAILED, attempt(), error="stuck")
    return run(RunStatus.COMPENSATION_FAILED, stage("reserve", StageState.OK, attempt(), undo=stuck), run_id=run_id)


class TestFork:
    def test_it_says_which_run_is_new(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held = [run(RunStatus.FAILED)]
        result = invoke("fork", "01J9F2", "--from", "charge", "--reason", "fixed", "--actor", "ann")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == f"{RUN_ID[:-1]}F  from charge of {RUN_ID[:12]}\n"
        assert engine.calls[0].run_id == RUN_ID
        assert engine.calls[0].given == {
            "from_stage": "charge",
            "reason": "fixed",
            "actor": "ann",
            "idempotency_key": None,
        }

    def test_under_a_key_it_says_that_it_was_there(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held, engine.replays = [run(RunStatus.FAILED)], True
        result = invoke("fork", RUN_ID, "--from", "a", "--reason", "x", "--idempotency-key", "k", "--json")
        assert json.loads(result.stdout)["replayed"] is True

    def test_a_refusal_is_one_line_and_exit_1(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held, engine.fails = [], NotAllowed(RUN_ID, "fork", "it has no stage 'x'; it has: a, b")
        result = invoke("fork", RUN_ID, "--from", "x", "--reason", "y")
        assert result.exit_code == 1
        assert "it has: a, b" in result.stderr

    @pytest.mark.parametrize("left_out", ["--from", "--reason"])
    def test_place_and_reason_are_needed(self, invoke: Invoke, engine: FakeApplication, left_out: str) -> None:
        given = {"--from": "a", "--reason": "why"}
        del given[left_out]
        result = invoke("fork", RUN_ID, *(word for pair in given.items() for word in pair))
        assert (result.exit_code, engine.calls) == (2, [])
        assert left_out in result.stderr


class TestCheck:
    def test_what_would_break_is_listed_with_exit_1(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.misfits = [(summary(run(RunStatus.WAITING)), "stage 'b' is gone")]
        result = invoke("check")
        assert result.exit_code == 1
        assert f"{RUN_ID[:12]}  checkout  waiting  stage 'b' is gone" in result.stdout
        assert "keep the old stages" in result.stderr

    def test_nothing_to_say_is_exit_0(self, invoke: Invoke, engine: FakeApplication) -> None:
        result = invoke("check")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "can go on" in result.stderr
        assert json.loads(invoke("check", "--json").stdout) == []


class TestAudit:
    def test_whole_histories_are_counted(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.checked = [Checked(RUN_ID, 7), Checked(OTHER, 3)]
        result = invoke("audit", "verify")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == "2 runs, 10 events: all whole\n"

    def test_what_is_wrong_is_named_with_exit_1(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.checked = [Checked(RUN_ID, 7, ("events 3 to 3 are missing",)), Checked(OTHER, 3)]
        result = invoke("audit", "verify")
        assert (result.exit_code, result.stdout) == (1, f"{RUN_ID}  events 3 to 3 are missing\n")
        assert "1 run not whole" in result.stderr
        assert json.loads(invoke("audit", "verify", "--json").stdout)["broken"][0]["run_id"] == RUN_ID

    def test_without_a_key_it_says_what_it_cannot_show(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.has_audit_key = False
        assert "STAGEFLOW_AUDIT_KEY" in invoke("audit", "verify").stderr

    def test_runs_whose_rows_no_event_vouches_for_are_counted(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.checked = [Checked(RUN_ID, 7), Checked(OTHER, 3, rows=False)]
        result = invoke("audit", "verify")
        assert result.exit_code == 0
        assert "1 run from before the history covered inputs, outputs and statuses" in result.stderr
        assert json.loads(invoke("audit", "verify", "--json").stdout)["rows_not_covered"] == 1

    def test_exported_heads_are_read_back(self, invoke: Invoke, engine: FakeApplication, tmp_path: Path) -> None:
        kept = tmp_path / "heads.jsonl"
        kept.write_text(invoke("audit", "heads").stdout)
        invoke("audit", "verify", "--heads", str(kept))
        assert engine.calls[0].given["heads"] == {RUN_ID: (7, "ab" * 32)}

    @pytest.mark.parametrize(
        "line", ['{"run_id": "x"}', '{"run_id": "x", "seq": 1e999, "head": "y"}', "[" * 50_000, "[1]"]
    )
    def test_a_file_that_is_none_names_the_line(
        self, invoke: Invoke, engine: FakeApplication, tmp_path: Path, line: str
    ) -> None:
        kept = tmp_path / "heads.jsonl"
        kept.write_text(f"{line}\n")
        result = invoke("audit", "verify", "--heads", str(kept))
        assert (result.exit_code, engine.calls) == (2, [])
        assert "line 1" in result.stderr
        assert "No such file" in invoke("audit", "verify", "--heads", str(tmp_path / "none")).stderr


class TestCompensateAgain:
    def test_retry_failed_finds_the_runs_whose_undos_failed(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held = [failed(), run(RunStatus.FAILED, run_id=OTHER)]
        result = invoke("compensate", "--retry-failed", "--yes", "--reason", "bank is back")
        assert result.exit_code == 0
        assert [call.run_id for call in engine.calls] == [RUN_ID]

    def test_retry_failed_refuses_a_run_without_a_failed_undo(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held = [run(RunStatus.FAILED, stage("a", StageState.OK, attempt(), undo=undo("release")))]
        result = invoke("compensate", RUN_ID, "--retry-failed", "--reason", "x")
        assert (result.exit_code, engine.calls) == (1, [])
        assert "leave --retry-failed out" in result.stderr

    def test_skip_names_the_undos_to_give_up(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held = [failed()]
        result = invoke("compensate", RUN_ID, "--skip", "reserve", "--reason", "refunded by hand")
        assert result.exit_code == 0
        assert engine.calls[0].given["skip"] == ("reserve",)

    def test_dry_run_changes_nothing(self, invoke: Invoke, engine: FakeApplication) -> None:
        engine.held = [failed()]
        result = invoke("compensate", "--retry-failed", "--dry-run", "--reason", "x")
        assert (result.exit_code, engine.calls) == (0, [])
        assert "would compensate" in result.stdout
