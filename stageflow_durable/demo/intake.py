"""Lines become runs: each one accepted, known already, or refused with its number and the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stageflow_durable.demo.orders import Accepted, Order, Refused
from stageflow_durable.demo.reconcile import Expected
from stageflow_durable.errors import IdempotencyParamMismatch, InvalidInput

KEY_PREFIX = "order-"

Enqueue = Callable[[Order, str], bool]
"""Takes an order and its idempotency key; whether a run of that key was there already."""


@dataclass(slots=True)
class Intake:
    """What became of each line. ``repeated``: lines whose order was accepted from an earlier line."""

    accepted: list[Accepted] = field(default_factory=list)
    repeated: list[Accepted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def outcomes(self) -> list[tuple[int, str]]:
        """``(line, what became of it)`` for every line seen."""
        told = [(line.line, "accepted") for line in self.accepted] + [(line.line, "repeated") for line in self.repeated]
        return told + [(line.line, line.reason) for line in self.refused]

    def expected(self) -> list[Expected]:
        """What the judge may hold the books against."""
        return [_expected(line.order) for line in self.accepted]


def take_in(lines: Sequence[Accepted | Refused], enqueue: Enqueue) -> Intake:
    """Enqueue every order under a key of its own, so that a repeated order is one run."""
    intake = Intake()
    for line in lines:
        _take_line(intake, line, enqueue)
    return intake


def _take_line(intake: Intake, line: Accepted | Refused, enqueue: Enqueue) -> None:
    if isinstance(line, Refused):
        intake.refused.append(line)
        return
    try:
        replayed = enqueue(line.order, f"{KEY_PREFIX}{line.order.order_id}")
        (intake.repeated if replayed else intake.accepted).append(line)
    except (IdempotencyParamMismatch, InvalidInput) as error:
        intake.refused.append(Refused(line.line, str(error)))


def order_of(key: str | None) -> str:
    """The order id in a run's idempotency key."""
    return (key or "").removeprefix(KEY_PREFIX)


def _expected(order: Order) -> Expected:
    pieces = sum(item.quantity for item in order.items)
    return Expected(order.order_id, order.amount_cents, order.currency, pieces)
