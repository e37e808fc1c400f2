"""The judge: do both ledgers say what the runs claim? Pure: rows in, differences out.

It trusts nobody's account of itself. A run that claims success needs exactly one charge of the right amount, one
reservation, one shipment and one letter, and no undo; a run that claims it was undone needs each effect taken back
exactly once; every effect needs a run; every line of the file needs an account.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stageflow_durable.demo.ledger import Effect

Item = TypeVar("Item")

DELIVERED = frozenset({"succeeded"})
UNDONE = frozenset({"compensated", "cancelled", "failed"})

ACTION_OF = {"release": "reserve", "refund": "charge"}
IF_DELIVERED = {"reserve": 1, "charge": 1, "ship": 1, "release": 0, "refund": 0, "letter": 1}
NEVER_IF_UNDONE = ("ship", "letter")


@dataclass(frozen=True, slots=True)
class Expected:
    """One accepted order: what it must cost (cents of ``currency``) and how many pieces it must ship."""

    order_id: str
    amount_cents: int
    currency: str
    pieces: int


@dataclass(frozen=True, slots=True)
class RunRow:
    """What the engine says about one run."""

    run_id: str
    order_id: str
    status: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not add up; ``subject`` is an order id or a line."""

    subject: str
    what: str


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that is known about one order."""

    order: Expected
    statuses: tuple[str, ...]
    effects: tuple[Effect, ...]
    letters: int

    def count(self, kind: str) -> int:
        """How often that happened."""
        return self.letters if kind == "letter" else sum(effect.kind == kind for effect in self.effects)


def reconcile(
    orders: Sequence[Expected], runs: Sequence[RunRow], effects: Sequence[Effect], letters: Sequence[str]
) -> list[Difference]:
    """Every difference between accepted orders, runs, both ledgers' effects and the mail (one order id a letter)."""
    cases = _cases(orders, runs, effects, letters)
    judged = [Difference(case.order.order_id, what) for case in cases for what in _judge(case)]
    return [*_doubly_accepted(orders), *_strangers(orders, runs, effects, letters), *judged]


def account_for_lines(total: int, outcomes: Iterable[tuple[int, str]]) -> list[Difference]:
    """Each of ``total`` lines must have exactly one outcome (``(number, what became of it)``), never a blank one."""
    told: dict[int, list[str]] = defaultdict(list)
    for number, outcome in outcomes:
        told[number].append(outcome)
    numbers = sorted({*range(1, total + 1), *told})
    judged = ((number, what) for number in numbers for what in _judge_line(number <= total, told[number]))
    return [Difference(f"line {number}", what) for number, what in judged]


def _judge_line(exists: bool, outcomes: Sequence[str]) -> Iterator[str]:
    if not exists:
        yield "is not in the file"
    if len(outcomes) != 1:
        yield f"is accounted for {len(outcomes)} times"
    if not all(outcome.strip() for outcome in outcomes):
        yield "has no reason"


def _doubly_accepted(orders: Sequence[Expected]) -> list[Difference]:
    counts = Counter(order.order_id for order in orders)
    return [Difference(order_id, f"was accepted {count} times") for order_id, count in counts.items() if count > 1]


def _strangers(
    orders: Sequence[Expected], runs: Sequence[RunRow], effects: Sequence[Effect], letters: Sequence[str]
) -> Iterator[Difference]:
    accepted = {order.order_id for order in orders}
    named = [(run.order_id, f"run {run.run_id}") for run in runs]
    named += [(effect.order_id, f"{effect.kind} {effect.key}") for effect in effects]
    named += [(order_id, "a letter") for order_id in letters]
    for order_id, what in named:
        if order_id not in accepted:
            yield Difference(order_id, f"{what} belongs to no accepted order")


def _cases(
    orders: Sequence[Expected], runs: Sequence[RunRow], effects: Sequence[Effect], letters: Sequence[str]
) -> Iterator[_Case]:
    statuses = _grouped((run.order_id, run.status) for run in runs)
    happened = _grouped((effect.order_id, effect) for effect in effects)
    posted = Counter(letters)
    for order in orders:
        yield _Case(order, statuses.get(order.order_id, ()), happened.get(order.order_id, ()), posted[order.order_id])


def _grouped(pairs: Iterable[tuple[str, Item]]) -> Mapping[str, tuple[Item, ...]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for name, item in pairs:
        groups[name].append(item)
    return {name: tuple(items) for name, items in groups.items()}


def _judge(case: _Case) -> Iterator[str]:
    yield from _judge_run(case)
    yield from _judge_undos(case)
    yield from _judge_amounts(case)
    if case.statuses and DELIVERED.issuperset(case.statuses):
        yield from _judge_delivered(case)
    if case.statuses and UNDONE.issuperset(case.statuses):
        yield from _judge_undone(case)


def _judge_run(case: _Case) -> Iterator[str]:
    if len(case.statuses) != 1:
        yield f"has {len(case.statuses)} runs"
    for status in case.statuses:
        if status not in DELIVERED | UNDONE:
            yield f"its run is {status}, neither delivered nor undone"


def _judge_delivered(case: _Case) -> Iterator[str]:
    for kind, wanted in IF_DELIVERED.items():
        if case.count(kind) != wanted:
            yield f"delivered, with {case.count(kind)} x {kind} instead of {wanted}"


def _judge_undone(case: _Case) -> Iterator[str]:
    for kind in NEVER_IF_UNDONE:
        if case.count(kind):
            yield f"{case.statuses[0]}, with {case.count(kind)} x {kind}"
    for undo, action in ACTION_OF.items():
        if case.count(action) > 1:
            yield f"{case.count(action)} x {action}"
        if case.count(action) != case.count(undo):
            yield f"{case.statuses[0]}, with {case.count(action)} x {action} and {case.count(undo)} x {undo}"


def _judge_undos(case: _Case) -> Iterator[str]:
    actions = {effect.key: effect for effect in case.effects if effect.kind not in ACTION_OF}
    undone = Counter(effect.of for effect in case.effects if effect.kind in ACTION_OF)
    yield from (f"{key} was undone {count} times" for key, count in undone.items() if count > 1)
    for effect in case.effects:
        if effect.kind in ACTION_OF and not _fits(effect, actions.get(effect.of or "")):
            yield f"{effect.kind} {effect.key} does not fit what it undoes ({effect.of})"


def _fits(undo: Effect, action: Effect | None) -> bool:
    wanted = (ACTION_OF[undo.kind], undo.amount, undo.unit)
    return action is not None and (action.kind, action.amount, action.unit) == wanted


def _judge_amounts(case: _Case) -> Iterator[str]:
    money, goods = (case.order.amount_cents, case.order.currency), (case.order.pieces, "pieces")
    right = {"charge": money, "refund": money, "reserve": goods, "release": goods, "ship": goods}
    for effect in case.effects:
        if right.get(effect.kind) != (effect.amount, effect.unit):
            yield f"{effect.kind} {effect.key} of {effect.amount} {effect.unit} is not what was ordered"
