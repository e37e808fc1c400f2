"""A run drawn as a tree: stages with attempts, delays, owners, undos and keys; at the end what is allowed. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from stageflow_durable.cli.branches import Guides, Placed, placed
from stageflow_durable.cli.why import (
    approval_lines,
    attempt_phrase,
    awaiting,
    losses,
    orders,
    undone_for,
    way_out,
    who,
    why_in_full,
)
from stageflow_durable.cli.words import (
    STAGE_STYLE,
    STATUS_STYLE,
    STEP_STYLE,
    STEP_WORD,
    age,
    clipped,
    duration,
    progress,
)
from stageflow_durable.legible import for_people, jsonable
from stageflow_durable.model.plan import APPROVAL, SLEEP, WAIT
from stageflow_durable.model.run import AttemptView, Event, Run, StageView, StepView
from stageflow_durable.model.status import AT_REST, AttemptState, RunStatus, StageState, StepState, WaitingFor
from stageflow_durable.model.verbs import Verb, allowed_verbs, unknown_stages
from stageflow_durable.model.waits import WAITING_WORDS

INLINE = 36
"""The longest note that stands beside its stage; a longer one, or a second, gets a line below it."""

LONGEST_WRAPPED = 20_000
"""A longer text is left to the terminal: to wrap a megabyte takes seconds."""

SHOWN_ATTEMPTS = 6
NEEDS_A_PERSON = frozenset({RunStatus.PARKED, RunStatus.FAILED, RunStatus.COMPENSATION_FAILED})
_LOUD = frozenset({StageState.FAILED, StageState.UNKNOWN})
_DULL = frozenset(
    {
        AttemptState.OK,
        AttemptState.SKIPPED,
        AttemptState.VOID,
        AttemptState.SETTLED,
        AttemptState.RUNNING,
        AttemptState.WAITING,
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """One stage as columns, and the lines below it, each with its style; ``guide``: what stands in front of it."""

    name: str
    word: str
    style: str
    tries: str
    took: str
    note: str
    undo: str
    below: tuple[tuple[str, str], ...]
    undo_style: str = "dim"
    note_style: str = ""
    guide: str = ""
    guide_below: str = ""


def draw(
    run: Run,
    *,
    now: datetime,
    width: int,
    shown_id: str,
    history: Sequence[Event] = (),
    guides: Guides | None = None,
    values: int | None = None,
) -> list[Text]:
    """The whole picture, line by line, for a terminal of ``width`` columns; ``history`` tells what people did to it.
    ``values``: how many characters of the input and of each output are shown; 0: all; None: none of them.
    """
    guides = guides or Guides()
    run, history = for_people(run), for_people(history)
    rows = [_row(run, place, now, values) for place in placed(run.stages, guides)]
    said = [*way_out(run), *undone_for(run), *awaiting(run), *losses(run, now), *orders(history, now)]
    return [
        *_header(run, now, width, shown_id),
        *_indented([str(run.erased)] if run.erased else [], width),
        *_indented([] if run.erased else _value("input", run.input, values), width, "dim"),
        *_indented(said, width),
        *_stages(rows, width),
        *_commands(run, allowed_verbs(run, shown_id=shown_id), width),
    ]


# --- the header -----------------------------------------------------------------------------------------------------


def _header(run: Run, now: datetime, width: int, shown_id: str) -> Iterator[Text]:
    left = Text.assemble(
        (f"{run.pipeline} v{run.version}", "bold"),
        f"  {shown_id}  client {run.client_id}",
        f"  key {run.key}" if run.key else "",
    )
    phrase = why_in_full(run)
    status = f"{_status(run)} {_when(run, now)}{': ' if phrase else ''}{phrase}"
    if len(left) + 4 + len(status) <= width:
        yield left.append("    ").append(status, STATUS_STYLE[run.status])
    else:
        yield left
        yield from _indented([status], width, STATUS_STYLE[run.status])
    if run.attributes:
        yield from _indented(["  ".join(f"{name}={value}" for name, value in run.attributes.items())], width, "dim")


def _value(what: str, value: Any, most: int | None) -> list[str]:
    """A value as JSON on one line, if it says anything and values are wanted."""
    if most is None or value in (None, {}):
        return []
    text = json.dumps(jsonable(value), ensure_ascii=False)
    return [f"{what} {clipped(text, most) if most else text}"]


def _when(run: Run, now: datetime) -> str:
    """How long ago it came to rest, and after how long; or for how long it has been under way."""
    if run.status not in AT_REST:
        return f"for {age(run.created_at, now)}"
    ended = run.finished_at or run.updated_at
    return f"{age(ended, now)} ago, after {duration((ended - run.created_at).total_seconds())}"


def _indented(said: Iterable[str], width: int, style: str = "") -> Iterator[Text]:
    return (Text("  " + line, style) for one in said for line in _wrapped(one, width - 2))


def _status(run: Run) -> str:
    word = run.status.replace("_", " ")
    return word.upper() if run.status in NEEDS_A_PERSON else word


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) > LONGEST_WRAPPED:  # the terminal breaks it
        return [text]
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)


# --- one stage ------------------------------------------------------------------------------------------------------


def _row(run: Run, place: Placed, now: datetime, values: int | None) -> Row:
    stage = place.stage
    notes = _notes(place, now)
    phrases = _phrases(stage)
    inline = phrases if len(phrases) == 1 and len(phrases[0][0]) <= INLINE else []
    return Row(
        stage.name,
        _word(stage),
        STAGE_STYLE[stage.state],
        _tries(stage),
        _took(stage, now),
        "  ".join([*(phrase for phrase, _style in inline), *notes]),
        _undo(stage),
        (
            *([] if inline else _few(phrases)),
            *((line, "dim") for line in (_traces(stage) if values == 0 else ())),
            *((line, "") for line in approval_lines(stage.approval)),
            *_few([(_step(step, values), "") for step in stage.steps]),
            *_undo_details(stage),
            *((line, "") for line in _keys(run, stage)),
            *((line, "") for line in _value("output", None if stage.approval else stage.output, values)),
        ),
        STEP_STYLE.get(stage.undo.state, "dim") if stage.undo else "dim",
        inline[0][1] if inline else "",
        place.guide,
        place.below,
    )


def _phrases(stage: StageView) -> list[tuple[str, str]]:
    """What is said of attempts that did not end well, each with its style."""
    told = _told(stage.attempts)
    if stage.state is StageState.UNKNOWN and len(told) == 1 and told[0].state is AttemptState.UNKNOWN:
        what = "lease lost" if (told[0].error or "lease").startswith("lease") else "process lost"
        return [(what, STAGE_STYLE[StageState.UNKNOWN])]
    return _each(told, "", numbered=len(stage.attempts) > 1)


def _each(told: Sequence[AttemptView], lead: str, *, numbered: bool = True) -> list[tuple[str, str]]:
    """A line for each attempt; red where it ended the stage."""
    failed = (AttemptState.FAILED, AttemptState.REJECTED)
    return [(f"{lead}{attempt_phrase(one, numbered=numbered)}", "red" if one.state in failed else "") for one in told]


def _traces(stage: StageView) -> Iterator[str]:
    """Where attempts of the stage and of its undo raised and what they logged, in full."""
    for what, attempts in (("", stage.attempts), ("undo ", stage.undo.attempts if stage.undo else ())):
        for attempt in attempts:
            if attempt.traceback:
                yield f"{what}#{attempt.n} raised:"
                yield from attempt.traceback
            if attempt.log:
                yield f"{what}#{attempt.n} logged:"
                yield from attempt.log


def _word(stage: StageView) -> str:
    if stage.state is StageState.PENDING:
        return "not started"
    return stage.state.upper() if stage.state in _LOUD else str(stage.state)


def _tries(stage: StageView) -> str:
    if not stage.attempts:
        return ""
    # A lost worker consumes no try; while nobody knows, the try that it was at is shown.
    at = stage.tries + (stage.attempts[-1].state is AttemptState.UNKNOWN)
    return f"{at}/{stage.max_attempts}" if stage.max_attempts else str(at)


def _took(stage: StageView, now: datetime) -> str:
    spent = [
        ((attempt.ended_at or now) - attempt.began_at).total_seconds()
        for attempt in stage.attempts
        if attempt.state is not AttemptState.VOID
    ]
    return duration(sum(spent)) if spent else ""


def _told(attempts: Sequence[AttemptView]) -> list[AttemptView]:
    return [attempt for attempt in attempts if attempt.state not in _DULL]


def _few(phrases: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if len(phrases) <= SHOWN_ATTEMPTS:
        return phrases
    left_out = len(phrases) - SHOWN_ATTEMPTS + 1
    return [*phrases[:2], (f"… {left_out} more …", ""), *phrases[2 + left_out :]]


def _notes(place: Placed, now: datetime) -> list[str]:
    stage = place.stage
    found = [
        _owner(stage),
        _waits(stage, now),
        f"lost {stage.lost}×" if stage.lost > 1 else "",
        f"progress {progress(stage.progress)}"
        if stage.progress is not None and stage.state is StageState.RUNNING
        else "",
        place.note,
        "(pivot)" if stage.pivot else "",
    ]
    return [note for note in found if note]


def _owner(stage: StageView) -> str:
    running = next((attempt for attempt in stage.attempts if attempt.state is AttemptState.RUNNING), None)
    return f"on {who(running)}" if running else ""


def _waits(stage: StageView, now: datetime) -> str:
    """What it waits for, and until when where that is a time."""
    if stage.state is not StageState.WAITING or stage.waiting_for is None:
        return ""
    what = WAITING_WORDS.get(stage.waiting_for)
    if stage.waiting_for is WaitingFor.WORKER or stage.wake_at is None:
        return what or ""
    then = {SLEEP: "wakes", WAIT: "times out", APPROVAL: "times out"}.get(stage.kind, "again")
    then = "times out" if stage.waiting_for is WaitingFor.CALLBACK else then
    return ", ".join(filter(None, (what, _due(then, stage.wake_at, now))))


def _due(what: str, at: datetime, now: datetime) -> str:
    return f"{what} in {age(now, at)}" if at > now else f"due {age(at, now)} ago"


def _undo(stage: StageView) -> str:
    if stage.undo is None or stage.state is StageState.PENDING:
        return ""
    return f"undo: {stage.undo.name} {STEP_WORD[stage.undo.state]}".rstrip()


def _undo_details(stage: StageView) -> list[tuple[str, str]]:
    if stage.undo is None:
        return []
    told = _few(_each(_told(stage.undo.attempts), "undo "))
    failed = stage.undo.state is StepState.COMPENSATION_FAILED
    return [*told, *([(f"undo key {stage.undo.key}: look this up at the remote system", "")] if failed else [])]


def _step(step: StepView, values: int | None) -> str:
    """One saved step on one line."""
    kind, key = "tool" if step.tool else "step", f" key {step.key}" if step.key else ""
    state = "undone" if step.undone_at else "saved" if step.saved_at else "begun, not known to have been done"
    result = _value("->", step.result, values) if step.saved_at else []
    return " ".join([f"{kind} {step.number} {step.name}{key} {state}", *_value("", step.arguments, values), *result])


def _keys(run: Run, stage: StageView) -> list[str]:
    return [f"key {stage.key}: look this up at the remote system"] if stage.name in unknown_stages(run) else []


# --- the tree -------------------------------------------------------------------------------------------------------


def _stages(rows: list[Row], width: int) -> Iterator[Text]:
    columns = _columns(rows)
    for row in rows:
        yield from _lines(row, columns, width)


def _columns(rows: list[Row]) -> Row:
    """The longest text of each column."""
    begun = [row for row in rows if row.tries]  # "not started" stands across the columns
    word, tries, took, note = (
        max((getattr(row, column) for row in begun), key=len, default="")
        for column in ("word", "tries", "took", "note")
    )
    name = max((row.guide + row.name for row in rows), key=len, default="")
    return Row(name, word, "", tries, took, note, "", ())


def _lines(row: Row, longest: Row, width: int) -> Iterator[Text]:
    """The row on one line where that fits, else its note and its undo below it."""
    head = Text.assemble(
        (row.guide, "dim"),
        row.name.ljust(len(longest.name) - len(row.guide)),
        "  ",
        (row.word.ljust(len(longest.word)), row.style),
    )
    if row.tries:
        head.append(f"  {row.tries.ljust(len(longest.tries))}  {row.took.rjust(len(longest.took))}")
    note = f"  {row.note.ljust(len(longest.note))}" if row.tries else f" {row.note}"
    whole = head.copy().append(note, row.note_style)
    whole.append(f"  {row.undo}" if row.undo else "", row.undo_style)
    fits = len(whole) <= width
    yield _stripped(whole if fits else head)
    under = () if fits else ((row.note, row.note_style), (row.undo, row.undo_style))
    below = row.guide_below
    for detail, style in (*under, *row.below):
        wrapped = _wrapped(detail, width - len(below) - 3)
        yield from (Text.assemble((below, "dim"), "   ", (line, style)) for line in wrapped)


def _stripped(line: Text) -> Text:
    line.rstrip()
    return line


# --- the commands ---------------------------------------------------------------------------------------------------


def _commands(run: Run, verbs: tuple[Verb, ...], width: int) -> Iterator[Text]:
    label = "Decide: " if run.status in NEEDS_A_PERSON else "If need be: "
    longest = max([len(verb.command) for verb in verbs], default=0)
    for verb in verbs:
        lead = label if verb is verbs[0] else " " * len(label)
        beside = len(label) + longest + 5 + len(verb.effect) <= width
        yield Text.assemble(
            (lead, "bold"),
            verb.command.ljust(longest) if beside else verb.command,
            (f"   ({verb.effect})" if beside else "", "dim"),
        )
        if not beside:
            yield Text(f"{' ' * len(label)}  ({verb.effect})", "dim")
