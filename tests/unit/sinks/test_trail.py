"""A history as spans."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stageflow_durable.model.run import Event
from stageflow_durable.sinks.trail import LONG_SECONDS, MOST_NOTED, Span, Trail, attempt_place, trace_place

RUN = "01RUN"

Told = tuple[str, float, dict[str, Any]]
"""An event's type, its time and its data."""


def trail(*events: Told) -> tuple[list[Span], Trail]:
    """The spans of events, and what is known at the end."""
    found, spans = Trail(RUN, "checkout"), []
    for seq, (kind, at, data) in enumerate(events, 1):
        spans += found.add(Event(RUN, seq, kind, datetime.fromtimestamp(at, UTC), data))
    return spans, found


def of(stage: str, attempt: int = 1, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "attempt": attempt, **more}


def test_a_run_is_a_trace_and_each_attempt_a_span_within_it() -> None:
    spans, _trail = trail(
        ("run.accepted", 10, {}),
        ("stage.begun", 11, of("reserve")),
        ("stage.ok", 12, of("reserve", then=of("charge"))),
        ("stage.ok", 15, of("charge")),
        ("run.succeeded", 15, {}),
    )
    assert [(span.name, span.start, span.end) for span in spans] == [
        ("reserve", 11, 12),
        ("charge", 12, 15),
        ("run checkout", 10, 15),
    ]
    whole = trace_place(RUN, 0)
    assert [span.parent for span in spans] == [whole, whole, None]
    assert {span.place.trace for span in spans} == {whole.trace}
    assert spans[1].place == attempt_place(RUN, 0, "stage", "charge", 1)
    assert [span.error for span in spans] == [None] * 3


def test_retries_failures_and_undos_are_spans_of_their_own() -> None:
    spans, _trail = trail(
        ("run.accepted", 0, {}),
        ("stage.begun", 1, of("charge")),
        ("work.retry_attempt", 2, of("charge", error="busy", category="transient", undo=False)),
        ("stage.begun", 3, of("charge", 2)),
        ("stage.failed", 4, of("charge", 2, error="declined", category="permanent")),
        ("work.compensation_started", 4, {}),
        ("undo.begun", 5, of("charge")),
        ("work.retry_attempt", 6, of("charge", error="down", undo=True)),
        ("undo.begun", 7, of("charge", 2)),
        ("work.compensation_executed", 8, of("charge", 2)),
        ("run.compensated", 8, {"error": "declined"}),
    )
    assert [(span.name, span.start, span.error) for span in spans] == [
        ("charge", 1, "busy"),
        ("charge", 3, "declined"),
        ("undo charge", 5, "down"),
        ("undo charge", 7, None),
        ("run checkout", 0, None),
    ]
    assert len({span.place.span for span in spans}) == 5
    assert spans[0].attributes["stageflow.error.category"] == "transient"
    assert ("work.compensation_started", 4.0) in spans[-1].noted


def test_a_wait_of_over_an_hour_begins_a_trace_that_is_linked_to_the_one_before() -> None:
    later = 2 + LONG_SECONDS + 1
    spans, _trail = trail(
        ("run.accepted", 0, {}),
        ("stage.asleep", 2, {"stage": "nap"}),
        ("stage.woken", later, {"stage": "nap"}),
        ("stage.begun", later, of("mail")),
        ("stage.ok", later + 1, of("mail")),
        ("run.succeeded", later + 1, {}),
    )
    first, mail, last = spans
    assert (first.start, first.end, first.attributes["stageflow.run.status"]) == (0, 2, "waiting")
    assert first.place == trace_place(RUN, 0)
    assert last.place == trace_place(RUN, 1)
    assert last.place.trace != first.place.trace
    assert last.link == first.place
    assert mail.parent == last.place


@pytest.mark.parametrize("seconds", [LONG_SECONDS, LONG_SECONDS - 1])
def test_one_of_an_hour_does_not(seconds: float) -> None:
    spans, found = trail(("run.accepted", 0, {}), ("stage.woken", seconds, {}), ("run.succeeded", seconds, {}))
    assert (len(spans), found.number) == (1, 0)


def test_a_body_that_runs_for_hours_is_no_wait() -> None:
    spans, _trail = trail(
        ("run.accepted", 0, {}),
        ("stage.begun", 0, of("render")),
        ("stage.ok", 3 * LONG_SECONDS, of("render")),
        ("run.succeeded", 3 * LONG_SECONDS, {}),
    )
    assert [span.place.trace for span in spans] == [trace_place(RUN, 0).trace] * 2


def test_what_happens_after_a_run_came_to_rest_is_a_linked_trace() -> None:
    spans, _trail = trail(
        ("run.accepted", 0, {}),
        ("run.parked", 1, {"error": "what?"}),
        ("operator.resume", 2, {}),
        ("stage.begun", 2, of("a")),
        ("stage.lost", 3, of("a")),
        ("stage.begun", 4, of("a", 2)),
        ("stage.ok", 5, of("a", 2)),
        ("run.succeeded", 5, {}),
    )
    assert [(span.name, span.error) for span in spans] == [
        ("run checkout", "what?"),
        ("a", "stage.lost"),
        ("a", None),
        ("run checkout", None),
    ]
    assert spans[-1].link == spans[0].place


def test_a_clock_that_went_back_makes_no_span_that_ends_before_it_began() -> None:
    spans, _trail = trail(
        ("run.accepted", 10, {}), ("stage.begun", 9, of("a")), ("stage.ok", 5, of("a")), ("run.succeeded", 4, {})
    )
    assert all(span.end >= span.start for span in spans)


def test_what_a_body_emits_in_the_words_of_the_engine_breaks_nothing() -> None:
    odd: list[dict[str, Any]] = [
        {"attempt": "1", "stage": 7},
        {"then": {"stage": 7}},
        {"then": "x"},
        {"attempt": 1, "stage": "never begun"},
    ]
    spans, _trail = trail(("run.accepted", 0, {}), *[("stage.ok", 1.0, data) for data in odd], ("run.succeeded", 2, {}))
    assert [span.name for span in spans] == ["run checkout"]


def test_the_span_of_a_run_notes_so_much_and_no_more() -> None:
    many: list[Told] = [("work.idempotency_hit", float(n), {}) for n in range(2 * MOST_NOTED)]
    spans, _trail = trail(("run.accepted", 0, {}), *many, ("run.succeeded", 300, {}))
    assert len(spans[0].noted) == MOST_NOTED
