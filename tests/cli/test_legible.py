"""What comes from elsewhere never acts on the terminal: errors, keys and names are data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.legible import for_people, harmless_json, legible
from stageflow_durable.model.run import Event, Run, WorkerView
from stageflow_durable.model.status import AttemptState, RunStatus, StageState, StepState
from tests.cli.conftest import Invoke
from tests.cli.fakes import NOW, RUN_ID, FakeApplication, ago, attempt, run, stage, undo

HOSTILE = "gone \x1b[2J\x07\x9b31m\u202etxt [bold red]x[/] :smile:\r\nsecond\tline \ud800"
SHOWN = r"gone \x1b[2J\x07\x9b31m\u202etxt [bold red]x[/] :smile: second line \ud800"


def hostile() -> Run:
    refund = undo(
        "refund", StepState.COMPENSATION_FAILED, attempt(1, AttemptState.FAILED, error=HOSTILE), error=HOSTILE
    )
    stages = (
        stage("charge", StageState.OK, attempt(host=HOSTILE), undo=refund),
        stage("ship", StageState.FAILED, attempt(1, AttemptState.FAILED, error=HOSTILE)),
    )
    return run(
        RunStatus.COMPENSATION_FAILED, *stages, client_id=HOSTILE, key=HOSTILE, error=HOSTILE, error_stage="ship"
    )


def test_controls_are_written_out_and_line_breaks_become_blanks() -> None:
    assert legible(HOSTILE) == SHOWN
    assert legible("Grüße, 東京 👩\u200d🚒 naïve") == "Grüße, 東京 👩\u200d🚒 naïve"


def test_a_record_is_made_legible_to_any_depth_and_its_statuses_stay_what_they_are() -> None:
    shown = for_people(hostile())
    assert (shown.key, shown.stages[1].attempts[0].error) == (SHOWN, SHOWN)
    assert shown.status is RunStatus.COMPENSATION_FAILED


def test_json_keeps_its_meaning_and_has_no_control_characters() -> None:
    document = json.dumps({"a": HOSTILE}, ensure_ascii=False, indent=1)
    assert json.loads(harmless_json(document)) == {"a": HOSTILE}
    assert not set(harmless_json(document)) & set("\x1b\x07\x9b\u202e\ud800")


@pytest.mark.parametrize(
    "command",
    [
        ["show", RUN_ID],
        ["history", RUN_ID],
        ["history", RUN_ID, "--full"],
        ["runs"],
        ["runs", "--attention"],
        ["workers"],
        ["cancel", RUN_ID, "--reason", "r"],
    ],
)
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_nothing_in_data_acts_on_the_terminal_or_is_taken_for_markup(
    invoke: Invoke, engine: FakeApplication, monkeypatch: pytest.MonkeyPatch, command: list[str], columns: str
) -> None:
    engine.held = [hostile()]
    engine.events = [Event(RUN_ID, 1, "operator.cancel", ago(9), {"actor": HOSTILE, "reason": HOSTILE})]
    engine.known_workers = [WorkerView("o", HOSTILE, 1, True, NOW, NOW, ())]
    monkeypatch.setenv("COLUMNS", columns)
    result = invoke(*command)
    assert not set(result.output) & set("\x1b\x07\x9b\u202e\r\t")
    if command[0] != "cancel":
        assert r"\x1b[2J" in result.stdout
        assert "[bold" in result.stdout


def test_what_was_typed_is_shown_harmlessly_in_the_line_for_the_next_page(
    invoke: Invoke, engine: FakeApplication
) -> None:
    engine.held = [replace(hostile(), client_id="a\x1b[2J\u202e", run_id=f"{RUN_ID[:-1]}{n}") for n in (2, 1)]
    said = invoke("runs", "--client-id", "a\x1b[2J\u202e", "--limit", "1").stderr
    assert r"--client-id 'a\x1b[2J\u202e'" in said
    assert "\x1b" not in said


def test_a_megabyte_is_cut_to_a_line(invoke: Invoke, engine: FakeApplication) -> None:
    big = "x" * 1_000_000
    engine.held = [run(RunStatus.FAILED, stage("a"), error=big, key=big, client_id="c", input={"a": big})]
    engine.events = [Event(RUN_ID, 1, "stage.ok", ago(9), {"output": big})]
    for command in (["runs"], ["runs", "--attention"], ["history", RUN_ID]):
        assert len(invoke(*command).output) < 1_100_000
    assert len(invoke("history", RUN_ID).stdout) < 400
    assert len(invoke("runs").stdout) < 1000


def test_show_as_json_gives_the_data_as_it_is(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [hostile()]
    assert json.loads(invoke("show", RUN_ID, "--json").stdout)["key"] == HOSTILE


def test_an_error_that_holds_escape_sequences_is_one_harmless_line(invoke: Invoke, engine: FakeApplication) -> None:
    engine.fails = StoreUnavailable(HOSTILE)
    assert invoke("show", RUN_ID).stderr == f"stageflow: {SHOWN}\n"


def test_a_name_that_looks_like_markup_is_shown_as_it_is(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [replace(run(RunStatus.FAILED, error="[red]no[/red]"), client_id="[link=x]me[/link]", key="[/]")]
    assert "[link=x]me[/link]  [/]  [red]no[/red]" in invoke("runs").stdout
