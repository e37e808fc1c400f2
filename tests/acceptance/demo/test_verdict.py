"""From lines to runs, and from the evidence to the last sentence."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from stageflow_durable.demo.evidence import Evidence
from stageflow_durable.demo.intake import Intake, order_of, take_in
from stageflow_durable.demo.ledger import Effect
from stageflow_durable.demo.orders import Accepted, Item, Order, Refused
from stageflow_durable.demo.progress import Progress
from stageflow_durable.demo.reconcile import Expected, RunRow
from stageflow_durable.demo.verdict import SHOWN_DIFFERENCES, announce
from stageflow_durable.errors import IdempotencyParamMismatch


def an_order(order_id: str, cents: int = 100) -> Order:
    item = Item(sku="PEN", quantity=2, unit_cents=50)
    return Order(
        order_id=order_id, customer="a@example.org", currency="EUR", amount_cents=cents, card="tok", items=[item]
    )


class Shop:
    """Answers as the engine does: one run a key, other parameters refused."""

    def __init__(self) -> None:
        self.runs: dict[str, Order] = {}

    def enqueue(self, order: Order, key: str) -> bool:
        known = self.runs.setdefault(key, order)
        if known != order:
            raise IdempotencyParamMismatch(key, ["amount_cents"])
        return known is not order


LINES: list[Accepted | Refused] = [
    Accepted(1, an_order("A-1")),
    Refused(2, "card: Field required [x]"),
    Accepted(3, an_order("A-1")),
    Accepted(4, an_order("A-1", cents=99)),
    Accepted(5, an_order("A-2")),
]


@pytest.fixture
def intake() -> Intake:
    return take_in(LINES, Shop().enqueue)


@pytest.fixture
def evidence(intake: Intake) -> Evidence:
    reserve = Effect("r", "reserve", "A-1", 2, "pieces")
    effects = [reserve, replace(reserve, key="s", kind="ship"), Effect("c", "charge", "A-1", 100, "EUR")]
    runs = [RunRow("1", "A-1", "succeeded"), RunRow("2", "A-2", "cancelled")]
    progress = Progress(2, {"succeeded": 1, "cancelled": 1}, ("Valkey",), 1, 12.0)
    return Evidence(5, intake, runs, effects, ["A-1"], {"500": 3}, {"work.retry_attempt": 4}, progress, 2)


def test_given_repeated_and_changed_orders_when_taken_in_then_one_run_each_and_every_line_has_an_outcome(
    intake: Intake,
) -> None:
    assert [line.line for line in intake.accepted] == [1, 5]
    assert [line.line for line in intake.repeated] == [3]
    assert [line.line for line in intake.refused] == [2, 4]
    assert "amount_cents" in intake.refused[1].reason
    assert sorted(number for number, _ in intake.outcomes()) == [1, 2, 3, 4, 5]
    assert intake.expected() == [Expected("A-1", 100, "EUR", 2), Expected("A-2", 100, "EUR", 2)]


def test_given_a_key_then_the_order_is_read_back_from_it() -> None:
    assert order_of("order-A-1") == "A-1"
    assert order_of(None) == ""


def test_given_books_that_agree_when_announced_then_refused_lines_counts_and_verdict_are_printed(
    evidence: Evidence,
) -> None:
    console = Console(file=io.StringIO(), width=160)
    assert announce(console, evidence)
    text = _text(console)
    assert "line   2 refused: card: Field required [x]" in text
    assert "The books agree: each of 2 orders" in text
    assert "1 of 2" in text
    assert "attempts retried" in text
    assert "12 s" in text
    assert "DIFFERENCE" not in text


def failed_runs(evidence: Evidence) -> Evidence:
    return replace(evidence, runs=[evidence.runs[0], RunRow("2", "A-2", "failed")])


def test_given_failed_runs_without_effects_when_announced_then_the_output_says_why_the_books_agree(
    evidence: Evidence,
) -> None:
    console = Console(file=io.StringIO(), width=160)
    assert announce(console, failed_runs(evidence))
    text = _text(console)
    assert "Failed runs are orders that were refused before anything was done" in text
    assert text.index("Failed runs are") < text.index("The books agree")


def test_given_no_failed_run_or_one_with_an_effect_when_announced_then_nothing_is_said_of_failed_runs(
    evidence: Evidence,
) -> None:
    touched = [*evidence.effects, Effect("k", "charge", "A-2", 100, "EUR")]
    for given in (evidence, replace(failed_runs(evidence), effects=touched)):
        console = Console(file=io.StringIO(), width=160)
        announce(console, given)
        assert "Failed runs" not in _text(console)


def test_given_a_lost_line_when_announced_then_it_is_a_difference(evidence: Evidence) -> None:
    console = Console(file=io.StringIO(), width=160)
    assert not announce(console, replace(evidence, lines=6))
    assert "DIFFERENCE line 6: is accounted for 0 times" in _text(console)


def test_given_a_double_charge_when_announced_then_the_books_do_not_agree(evidence: Evidence) -> None:
    console = Console(file=io.StringIO(), width=160)
    twice = [*evidence.effects, replace(evidence.effects[2], key="again")]
    assert not announce(console, replace(evidence, effects=twice))
    assert "DIFFERENCE A-1: delivered, with 2 x charge instead of 1" in _text(console)
    assert "The books do not agree: 1 differences" in _text(console)


def test_given_many_differences_when_announced_then_the_rest_is_counted(evidence: Evidence) -> None:
    console = Console(file=io.StringIO(), width=160)
    assert not announce(console, replace(evidence, lines=5 + SHOWN_DIFFERENCES + 7))
    assert "… and 7 more" in _text(console)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
