"""Orders as they arrive: one JSON object a line, and each line either an order or a reason why not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SHOWN_PROBLEMS = 3

Text = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    # Money is not coerced: "42.00" where cents are expected is refused, not guessed at.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Item(_Strict):
    """One position of an order: ``quantity`` pieces of ``sku`` at ``unit_cents`` each."""

    sku: Text
    quantity: Count
    unit_cents: Count


class Order(_Strict):
    """One order; amounts are hundredths of ``currency``. ``withdrawn``: the customer changed their mind."""

    order_id: Text
    customer: Text
    currency: Literal["EUR", "USD", "GBP", "CHF", "SEK"]
    amount_cents: Count
    card: Text
    items: Annotated[list[Item], Field(min_length=1)]
    withdrawn: bool = False

    @property
    def total_cents(self) -> int:
        """What the items cost together."""
        return sum(item.quantity * item.unit_cents for item in self.items)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A line that is an order; ``line`` counts from 1."""

    line: int
    order: Order


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that is not; ``reason`` names the field where there is one."""

    line: int
    reason: str


def read_orders(lines: Iterable[str]) -> list[Accepted | Refused]:
    """Each line as an order or a refusal, in order; nothing is skipped, blank lines included."""
    return [read_line(number, text) for number, text in enumerate(lines, start=1)]


def read_line(number: int, text: str) -> Accepted | Refused:
    """One line of the file."""
    if not text.strip():
        return Refused(number, "the line is empty")
    try:
        return Accepted(number, Order.model_validate_json(text))
    except ValidationError as error:
        return Refused(number, "; ".join(_problems(error)))


def _problems(error: ValidationError) -> list[str]:
    found = [_problem(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors(include_url=False)]
    more = len(found) - SHOWN_PROBLEMS
    return found[:SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])


def _problem(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message


def example_lines(limit: int) -> list[str]:
    """The first ``limit`` lines of the orders shipped with the package (the same as ``docs/examples/orders.jsonl``).

    Raises ValueError when the file has fewer.
    """
    lines = files("stageflow_durable.demo").joinpath("orders.jsonl").read_text(encoding="utf-8").splitlines()
    if not 0 < limit <= len(lines):
        raise ValueError(f"the demo has {len(lines)} orders; ask for 1 to {len(lines)}, not {limit}")
    return lines[:limit]
