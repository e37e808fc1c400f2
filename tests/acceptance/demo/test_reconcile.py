"""The judge of the demo: books that agree pass, and every kind of difference is seen and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from stageflow_durable.demo.ledger import Effect
from stageflow_durable.demo.reconcile import Difference, Expected, RunRow, account_for_lines, reconcile


@dataclass(frozen=True)
class Books:
    """Everything the judge is given."""

    orders: tuple[Expected, ...]
    runs: tuple[RunRow, ...]
    effects: tuple[Effect, ...]
    letters: tuple[str, ...]

    def judge(self) -> list[Difference]:
        return reconcile(self.orders, self.runs, self.effects, self.letters)


RESERVE = Effect("k1-reserve", "reserve", "A-1", 3, "pieces")
CHARGE = Effect("k1-charge", "charge", "A-1", 4200, "EUR")
SHIP = Effect("k1-ship", "ship", "A-1", 3, "pieces")
TAKEN = Effect("k2-reserve", "reserve", "A-2", 1, "pieces")
PAID = Effect("k2-charge", "charge", "A-2", 900, "USD")
RETURNED = Effect("k2-refund", "refund", "A-2", 900, "USD", of="k2-charge")
PUT_BACK = Effect("k2-release", "release", "A-2", 1, "pieces", of="k2-reserve")

# A-1 was delivered, A-2 was charged and then wholly undone, A-3 never touched the world.
HONEST = Books(
    orders=(Expected("A-1", 4200, "EUR", 3), Expected("A-2", 900, "USD", 1), Expected("A-3", 100, "GBP", 2)),
    runs=(RunRow("r1", "A-1", "succeeded"), RunRow("r2", "A-2", "compensated"), RunRow("r3", "A-3", "cancelled")),
    effects=(RESERVE, CHARGE, SHIP, TAKEN, PAID, RETURNED, PUT_BACK),
    letters=("A-1",),
)


def without(effect: Effect) -> Callable[[Books], Books]:
    return lambda books: replace(books, effects=tuple(other for other in books.effects if other != effect))


def with_effect(effect: Effect) -> Callable[[Books], Books]:
    return lambda books: replace(books, effects=(*books.effects, effect))


def instead(old: Effect, new: Effect) -> Callable[[Books], Books]:
    return lambda books: with_effect(new)(without(old)(books))


def with_status(run_id: str, status: str) -> Callable[[Books], Books]:
    return lambda books: replace(
        books, runs=tuple(replace(run, status=status) if run.run_id == run_id else run for run in books.runs)
    )


def test_given_books_that_agree_then_there_is_no_difference() -> None:
    assert HONEST.judge() == []


SEEDED: dict[str, tuple[Callable[[Books], Books], str, str]] = {
    "double charge": (with_effect(replace(CHARGE, key="again")), "A-1", "2 x charge"),
    "charge missing": (without(CHARGE), "A-1", "0 x charge"),
    "double shipment": (with_effect(replace(SHIP, key="again")), "A-1", "2 x ship"),
    "shipment missing": (without(SHIP), "A-1", "0 x ship"),
    "reservation missing": (without(RESERVE), "A-1", "0 x reserve"),
    "shipped but refunded": (with_effect(replace(CHARGE, key="r", kind="refund", of=CHARGE.key)), "A-1", "1 x refund"),
    "shipped but released": (
        with_effect(replace(RESERVE, key="r", kind="release", of=RESERVE.key)),
        "A-1",
        "1 x release",
    ),
    "wrong amount": (instead(CHARGE, replace(CHARGE, amount=4100)), "A-1", "not what was ordered"),
    "wrong currency": (instead(CHARGE, replace(CHARGE, unit="USD")), "A-1", "not what was ordered"),
    "too few pieces": (instead(SHIP, replace(SHIP, amount=2)), "A-1", "not what was ordered"),
    "letter missing": (lambda books: replace(books, letters=()), "A-1", "0 x letter"),
    "letter twice": (lambda books: replace(books, letters=("A-1", "A-1")), "A-1", "2 x letter"),
    "letter for an undone order": (lambda books: replace(books, letters=("A-1", "A-2")), "A-2", "1 x letter"),
    "charge without refund": (without(RETURNED), "A-2", "1 x charge and 0 x refund"),
    "refund without charge": (without(PAID), "A-2", "0 x charge and 1 x refund"),
    "reserved, neither shipped nor released": (without(PUT_BACK), "A-2", "1 x reserve and 0 x release"),
    "undone but shipped": (with_effect(replace(TAKEN, key="s", kind="ship")), "A-2", "1 x ship"),
    "charged twice, refunded twice": (
        lambda books: with_effect(replace(RETURNED, key="p2r", of="p2"))(with_effect(replace(PAID, key="p2"))(books)),
        "A-2",
        "2 x charge",
    ),
    "one charge refunded twice": (with_effect(replace(RETURNED, key="r2")), "A-2", "was undone 2 times"),
    "refund of another amount": (instead(RETURNED, replace(RETURNED, amount=899)), "A-2", "does not fit"),
    "refund in another currency": (instead(RETURNED, replace(RETURNED, unit="EUR")), "A-2", "does not fit"),
    "refund of a reservation": (instead(RETURNED, replace(RETURNED, of=TAKEN.key)), "A-2", "does not fit"),
    "refund that names nothing": (instead(RETURNED, replace(RETURNED, of=None)), "A-2", "does not fit"),
    "undo of an order that has none": (
        with_effect(Effect("x", "refund", "A-3", 100, "GBP", of="never")),
        "A-3",
        "0 x charge and 1 x refund",
    ),
    "cancelled, but charged": (
        with_effect(Effect("x", "charge", "A-3", 100, "GBP")),
        "A-3",
        "cancelled, with 1 x charge",
    ),
    "claimed success, nothing done": (with_status("r3", "succeeded"), "A-3", "0 x charge"),
    "failed after shipping": (with_status("r1", "failed"), "A-1", "failed, with 1 x ship"),
    "still running": (with_status("r1", "running"), "A-1", "run is running"),
    "parked": (with_status("r2", "parked"), "A-2", "run is parked"),
    "undo failed": (with_status("r2", "compensation_failed"), "A-2", "run is compensation_failed"),
    "order without a run": (lambda books: replace(books, runs=books.runs[1:]), "A-1", "has 0 runs"),
    "order with two runs": (
        lambda books: replace(books, runs=(*books.runs, RunRow("r9", "A-1", "succeeded"))),
        "A-1",
        "has 2 runs",
    ),
    "run without an order": (
        lambda books: replace(books, runs=(*books.runs, RunRow("r9", "A-9", "cancelled"))),
        "A-9",
        "run r9",
    ),
    "effect without a run": (with_effect(replace(CHARGE, key="x", order_id="A-9")), "A-9", "charge x"),
    "letter without a run": (lambda books: replace(books, letters=("A-1", "A-9")), "A-9", "a letter"),
    "one order accepted twice": (
        lambda books: replace(books, orders=(*books.orders, books.orders[2])),
        "A-3",
        "accepted 2 times",
    ),
    "an unheard-of effect": (with_effect(Effect("x", "gift", "A-1", 1, "pieces")), "A-1", "not what was ordered"),
}


@pytest.mark.parametrize(("spoil", "subject", "words"), SEEDED.values(), ids=SEEDED.keys())
def test_given_a_seeded_difference_when_judged_then_it_is_named(
    spoil: Callable[[Books], Books], subject: str, words: str
) -> None:
    found = spoil(HONEST).judge()
    assert any(difference.subject == subject and words in difference.what for difference in found), found
    assert {difference.subject for difference in found} == {subject}, "innocent orders must not be accused"


def test_given_lines_with_one_outcome_each_then_all_are_accounted_for() -> None:
    assert account_for_lines(3, [(1, "accepted"), (3, "refused: no card"), (2, "accepted")]) == []


@pytest.mark.parametrize(
    ("outcomes", "difference"),
    [
        ([(1, "accepted")], Difference("line 2", "is accounted for 0 times")),
        ([(1, "accepted"), (2, "refused"), (2, "accepted")], Difference("line 2", "is accounted for 2 times")),
        ([(1, "accepted"), (2, " ")], Difference("line 2", "has no reason")),
        ([(1, "accepted"), (2, "accepted"), (3, "accepted")], Difference("line 3", "is not in the file")),
    ],
)
def test_given_a_line_lost_doubled_blank_or_invented_then_it_is_named(
    outcomes: list[tuple[int, str]], difference: Difference
) -> None:
    assert account_for_lines(2, outcomes) == [difference]
