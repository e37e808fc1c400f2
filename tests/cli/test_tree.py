"""The picture that ``stageflow show`` draws."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.cli.branches import ASCII, placed
from stageflow_durable.cli.tree import draw
from stageflow_durable.model.run import Event, Run
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, RunStatus, StageState, StepState, WaitingFor
from tests.cli.fakes import NOW, RUN_ID, ago, attempt, parked_unknown, run, stage, undo


def drawn(of: Run, width: int = 120) -> str:
    return "\n".join(line.plain for line in draw(of, now=NOW, width=width, shown_id=RUN_ID[:12]))


def test_a_run_parked_because_an_outcome_is_unknown_is_drawn_with_what_died_its_key_and_the_decision() -> None:
    assert (
        drawn(parked_unknown())
        == """\
checkout v1  01J9F2QZ7KXV  client web  key order-A-1    PARKED 14m ago, after 2.5 min: charge outcome unknown
  worker pay-7 (pid 812) died 03:02:11 UTC after charge began; on_unknown="park"
├─ validate  ok       1/1    4 ms
├─ reserve   ok       2/5  310 ms  #1 503 → +1.2s  undo: release
├─ charge    UNKNOWN  1/5   9.8 s  lease lost      undo: refund
│     key sf_01J9F2QZ7KXV3M5N8P0R2T4W6Y_charge: look this up at the remote system
└─ ship      not started (pivot)
Decide: stageflow settle 01J9F2QZ7KXV charge --done '{…}' --reason …   (it happened: its output)
        stageflow settle 01J9F2QZ7KXV charge --not-done --reason …     (it did not: it is tried again)
        stageflow compensate 01J9F2QZ7KXV --reason …                   (refund, release)"""
    )


def test_in_a_narrow_terminal_notes_and_undos_stand_below_their_stage_and_no_line_of_the_tree_is_too_long() -> None:
    assert (
        drawn(parked_unknown(), width=60)
        == """\
checkout v1  01J9F2QZ7KXV  client web  key order-A-1
  PARKED 14m ago, after 2.5 min: charge outcome unknown
  worker pay-7 (pid 812) died 03:02:11 UTC after charge
  began; on_unknown="park"
├─ validate  ok       1/1    4 ms
├─ reserve   ok       2/5  310 ms
│     #1 503 → +1.2s
│     undo: release
├─ charge    UNKNOWN  1/5   9.8 s
│     lease lost
│     undo: refund
│     key sf_01J9F2QZ7KXV3M5N8P0R2T4W6Y_charge: look this up
│     at the remote system
└─ ship      not started (pivot)
Decide: stageflow settle 01J9F2QZ7KXV charge --done '{…}' --reason …
          (it happened: its output)
        stageflow settle 01J9F2QZ7KXV charge --not-done --reason …
          (it did not: it is tried again)
        stageflow compensate 01J9F2QZ7KXV --reason …
          (refund, release)"""
    )


def test_a_running_stage_shows_its_owner_its_progress_and_how_long_it_has_been_at_it() -> None:
    running = run(
        RunStatus.RUNNING,
        stage("pay", StageState.RUNNING, attempt(1, AttemptState.RUNNING, began=ago(12)), most=3, progress=0.4),
    )
    assert (
        drawn(running)
        == """\
checkout v1  01J9F2QZ7KXV  client web  key order-A-1    running for 16m: pay
└─ pay  running  1/3  12.0 s  on pay-7 (pid 812)  progress 40 %
If need be: stageflow cancel 01J9F2QZ7KXV --reason …   (stops it; nothing to undo)"""
    )


def test_a_waiting_stage_shows_when_it_is_tried_again_and_every_attempt_below() -> None:
    failed = [attempt(n, AttemptState.RETRY, error="503 Service Unavailable", delay=2.0**n) for n in (1, 2)]
    waiting = run(
        RunStatus.WAITING, stage("pay", StageState.WAITING, *failed, most=5, wake_at=NOW + timedelta(seconds=3))
    )
    assert drawn(waiting).splitlines()[1:4] == [
        "└─ pay  waiting  2/5  20 ms  again in 3s",
        "      #1 503 Service Unavailable → +2s",
        "      #2 503 Service Unavailable → +4s",
    ]


@pytest.mark.parametrize(
    ("what", "wake_at", "note"),
    [
        (WaitingFor.WORKER, NOW + timedelta(minutes=1), "for a worker"),
        (WaitingFor.LIMIT, NOW + timedelta(seconds=3), "for its turn, again in 3s"),
        (WaitingFor.SIGNAL, None, "for a signal"),
        (WaitingFor.APPROVAL, None, "for an approval"),
        (WaitingFor.CHILD, None, "for a run that it started"),
    ],
)
def test_a_waiting_stage_says_what_it_waits_for(what: WaitingFor, wake_at: datetime | None, note: str) -> None:
    waiting = run(RunStatus.WAITING, stage("pay", StageState.WAITING, waiting_for=what, wake_at=wake_at))
    assert drawn(waiting).splitlines()[1] == f"└─ pay  waiting {note}"


def test_a_sleep_says_when_it_wakes() -> None:
    asleep = run(RunStatus.WAITING, stage("nap", StageState.WAITING, kind="sleep", wake_at=NOW + timedelta(days=2)))
    assert drawn(asleep).splitlines()[1] == "└─ nap  waiting wakes in 2d"


def test_a_wait_says_when_its_time_is_over() -> None:
    word = stage(
        "word",
        StageState.WAITING,
        kind="wait",
        waiting_for=WaitingFor.SIGNAL,
        wake_at=NOW + timedelta(days=2),
    )
    assert drawn(run(RunStatus.WAITING, word)).splitlines()[1] == "└─ word  waiting for a signal, times out in 2d"


def test_many_attempts_show_the_first_the_last_and_how_many_between() -> None:
    attempts = [attempt(n, AttemptState.RETRY, error="503", delay=1.0) for n in range(1, 21)]
    lines = drawn(run(RunStatus.WAITING, stage("pay", StageState.WAITING, *attempts, most=50))).splitlines()
    assert [line.strip() for line in lines[2:8]] == [
        "#1 503 → +1s",
        "#2 503 → +1s",
        "… 15 more …",
        "#18 503 → +1s",
        "#19 503 → +1s",
        "#20 503 → +1s",
    ]


def test_a_long_error_stands_below_its_stage_on_lines_that_keep_the_guide() -> None:
    error = "the bank answered 400: " + "amount is not a number " * 8
    failed = run(
        RunStatus.FAILED,
        stage("pay", StageState.FAILED, attempt(1, AttemptState.FAILED, error=error)),
        stage("ship", StageState.PENDING),
        error="400",
        error_stage="pay",
        cause=Cause.FAILED,
    )
    lines = drawn(failed, width=80).splitlines()
    assert lines[1] == "  FAILED 1m ago, after 15.7 min: pay: 400"
    assert lines[3:5] == [
        "│     the bank answered 400: amount is not a number amount is not a number",
        "│     amount is not a number amount is not a number amount is not a number",
    ]


def test_an_undo_that_failed_for_good_shows_its_attempts_and_its_key() -> None:
    refund = undo(
        "refund", StepState.COMPENSATION_FAILED, attempt(1, AttemptState.FAILED, error="410 gone"), error="410 gone"
    )
    broken = run(
        RunStatus.COMPENSATION_FAILED,
        stage("reserve", StageState.UNDONE, attempt(), undo=undo("release", StepState.COMPENSATED)),
        stage("charge", StageState.OK, attempt(), undo=refund),
        stage("ship", StageState.FAILED, attempt(1, AttemptState.FAILED, error="no stock")),
        key=None,
        error="no stock",
        error_stage="ship",
    )
    assert (
        drawn(broken)
        == f"""\
checkout v1  01J9F2QZ7KXV  client web
  COMPENSATION FAILED 1m ago, after 15.7 min: undo refund of charge failed: 410 gone
  it was to be undone because: ship: no stock
├─ reserve  undone  1/1  10 ms            undo: release done
├─ charge   ok      1/1  10 ms            undo: refund FAILED
│     undo #1 410 gone
│     undo key sf_{RUN_ID}_undo_refund: look this up at the remote system
└─ ship     FAILED  1/1  10 ms  no stock
Decide: stageflow compensate 01J9F2QZ7KXV --reason …                 (tries again: refund)
        stageflow compensate 01J9F2QZ7KXV --skip charge --reason …   (gives the undo of charge up, with your reason)"""
    )


def test_branches_stand_below_the_stage_where_they_part() -> None:
    lines = drawn(
        run(
            RunStatus.RUNNING,
            stage("a", StageState.OK, attempt()),
            stage("b", StageState.OK, attempt(), after=("a",)),
            stage("c", StageState.PENDING, after=("a",)),
            stage("d", StageState.PENDING, after=("b", "c")),
        )
    ).splitlines()
    assert lines[1:5] == [
        "├─ a     ok  1/1  10 ms",
        "│  ├─ b  ok  1/1  10 ms",
        "│  └─ c  not started",
        "└─ d     not started after b, c",
    ]


def test_a_branch_of_several_stages_has_one_mark_and_may_part_again() -> None:
    def shape(*stages: tuple[str, tuple[str, ...]]) -> list[str]:
        made = [stage(name, StageState.PENDING) for name, _after in stages]
        linked = [replace(one, after=after) for one, (_name, after) in zip(made, stages, strict=True)]
        of = replace(run(RunStatus.PENDING), stages=tuple(linked))
        lines = [line.replace(" not started", "").rstrip() for line in drawn(of).splitlines()[1:-1]]
        return [re.sub(" +after", " after", line) for line in lines]

    assert shape(
        ("a", ()), ("b", ("a",)), ("c", ("a",)), ("b2", ("b",)), ("c2", ("c",)), ("x", ("c2",)), ("y", ("c2",)),
        ("z", ("x", "y")), ("end", ("b2", "z")), ("out", ("end",)),
    ) == [
        "├─ a",
        "│  ├─ b",
        "│  │  b2",
        "│  └─ c",
        "│     c2",
        "│     ├─ x",
        "│     └─ y",
        "│     z after x, y",
        "├─ end after b2, z",
        "└─ out",
    ]  # fmt: skip
    assert shape(("a", ()), ("b", ()), ("b2", ("b",)), ("c", ("a", "b2"))) == [
        "├─ a",
        "├─ b",
        "│  b2",
        "└─ c after a, b2",
    ]
    assert shape(("a", ()), ("b", ("a",)), ("c", ("a", "b"))) == ["├─ a", "│  └─ b", "└─ c after a, b"]
    assert shape(("a", ()), ("b", ("a",)), ("c", ("b",))) == ["├─ a", "├─ b", "└─ c"]


def test_branches_inside_branches_without_end_stand_below_one_another() -> None:
    stages = [stage("s0", StageState.PENDING)]
    for n in range(1, 2000, 2):  # each second one parts again
        before = stages[-1].name
        stages += [stage(f"s{n + one}", StageState.PENDING, after=(before,)) for one in (0, 1)]
    lines = placed(stages, ASCII)
    assert (len(lines), max(len(line.guide) for line in lines)) == (len(stages), 27)


@given(st.data())
def test_every_stage_of_any_graph_is_drawn_once(data: st.DataObject) -> None:
    names = [f"s{n}" for n in range(data.draw(st.integers(1, 9)))]
    stages = [
        stage(
            name,
            StageState.PENDING,
            after=tuple(data.draw(st.lists(st.sampled_from(names[:n]), unique=True))) if n else (),
        )
        for n, name in enumerate(names)
    ]
    assert sorted(one.stage.name for one in placed(stages, ASCII)) == names


def test_an_attempt_that_failed_is_red() -> None:
    failed = stage("pay", StageState.FAILED, attempt(1, AttemptState.FAILED, error="card declined, " * 4))
    lines = draw(run(RunStatus.FAILED, failed), now=NOW, width=120, shown_id=RUN_ID[:12])
    [told] = [line for line in lines if "card declined" in line.plain]
    assert [str(span.style) for span in told.spans][-1] == "red"


def test_poison_says_how_many_processes_it_has_killed() -> None:
    lost = [attempt(n, AttemptState.UNKNOWN, began=ago(100)) for n in (1, 2, 3)]
    text = drawn(
        run(
            RunStatus.PARKED,
            stage("pay", StageState.UNKNOWN, *lost, lost=3, most=5),
            park_reason=ParkReason.POISON,
            error_stage="pay",
        )
    )
    assert "PARKED 1m ago, after 15.7 min: pay kills its worker each time" in text
    assert "after pay began; 3 times so far" in text
    assert "lost 3×" in text


def test_what_people_did_to_the_run_is_shown_with_who_when_and_why() -> None:
    history = [
        Event(RUN_ID, n, kind, ago(90), {"actor": "ann@ops", "reason": "duplicate"})
        for n, kind in enumerate(("run.accepted", "operator.cancel"))
    ]
    lines = draw(run(RunStatus.CANCELLED), now=NOW, width=120, shown_id="01J9F2", history=history)
    assert lines[1].plain == "  ann@ops 1m ago: cancel, duplicate"


def test_without_utf8_the_tree_is_drawn_in_ascii() -> None:
    lines = draw(parked_unknown(), now=NOW, width=120, shown_id="01J9F2", guides=ASCII)
    assert [line.plain[:3] for line in lines[2:7]] == ["|- ", "|- ", "|- ", "|  ", "`- "]


def test_a_succeeded_run_says_how_long_it_took_and_ends_with_how_to_fork_it() -> None:
    done = run(RunStatus.SUCCEEDED, *(stage(name, StageState.OK, attempt()) for name in "ab"), finished_at=ago(5))
    lines = drawn(done).splitlines()
    assert lines[0].endswith("succeeded 5s ago, after 16.6 min")
    assert lines[-1] == "If need be: stageflow fork 01J9F2QZ7KXV --from b --reason …   (a new run from b on)"
    assert sum("stageflow" in line for line in lines) == 1


def test_an_undo_that_failed_is_red_and_one_that_is_done_is_not() -> None:
    broken = run(
        RunStatus.COMPENSATION_FAILED,
        stage("a", StageState.UNDONE, attempt(), undo=undo("give", StepState.COMPENSATED)),
        stage("b", StageState.OK, attempt(), undo=undo("refund", StepState.COMPENSATION_FAILED)),
    )
    for width in (120, 40):
        styles = {
            line.plain[span.start : span.end].strip(): str(span.style)
            for line in draw(broken, now=NOW, width=width, shown_id=RUN_ID[:12])
            for span in line.spans
        }
        assert (styles["undo: refund FAILED"], styles["undo: give done"]) == ("bold red", "dim")


# --- values -----------------------------------------------------------------------------------------------------------


def with_values(values: int | None, width: int = 100) -> list[str]:
    """A run whose input and outputs are short, long, absent and hostile."""
    stages = (
        stage("a", StageState.OK, attempt(), output={"n": 1, "text": "x" * 500}),
        stage("b", StageState.OK, attempt(), output=None),
        stage("c", StageState.OK, attempt(), output="\x1b[2J\u202e"),
    )
    seen = run(RunStatus.SUCCEEDED, *stages)
    lines = draw(seen, now=NOW, width=width, shown_id=RUN_ID[:12], values=values)
    return [line.plain for line in lines]


def test_the_input_and_each_output_are_shown_with_as_many_characters_as_are_wanted() -> None:
    lines = with_values(30)
    assert lines[1:6] == [
        '  input {"order_id": "A-1"}',
        "├─ a  ok  1/1  10 ms",
        '│     output {"n": 1, "text": "xxxxxxxxxxx…',
        "├─ b  ok  1/1  10 ms",
        "└─ c  ok  1/1  10 ms",
    ]
    assert lines[6].startswith("      output")
    assert not {"\x1b", "\u202e"} & set("".join(lines))


def test_in_full_a_value_is_whole_and_unwanted_it_is_not_there() -> None:
    assert "x" * 500 in "".join(with_values(0, width=2000))
    assert not [line for line in with_values(None) if "put " in line]
