"""The example orders: what is shipped, and what becomes of each kind of line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow_durable.demo.orders import Accepted, Refused, example_lines, read_line, read_orders

DOCUMENTED = Path(__file__).parents[3] / "docs" / "examples" / "orders.jsonl"
GOOD = (
    '{"order_id": "A-1", "customer": "a@example.org", "currency": "EUR", "amount_cents": 200, "card": "tok_visa_4242",'
    ' "items": [{"sku": "PEN-110", "quantity": 2, "unit_cents": 100}]}'
)


def test_given_the_documented_file_then_the_package_ships_the_same() -> None:
    assert example_lines(300) == DOCUMENTED.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("limit", [0, -1, 301])
def test_given_more_orders_than_there_are_when_asked_then_the_bounds_are_named(limit: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 300, not {limit}"):
        example_lines(limit)


@pytest.mark.parametrize("limit", [40, 300])
def test_given_the_example_orders_when_read_then_every_kind_of_line_occurs(limit: int) -> None:
    lines = read_orders(example_lines(limit))
    accepted = [line.order for line in lines if isinstance(line, Accepted)]
    reasons = " ".join(line.reason for line in lines if isinstance(line, Refused))
    ids = [order.order_id for order in accepted]
    skus = {item.sku for order in accepted for item in order.items}
    cards = {order.card.rstrip("0123456789") for order in accepted}
    assert len(lines) == limit
    assert all(problem in reasons for problem in ("Invalid JSON", "valid integer", "currency"))
    assert len(ids) > len(set(ids)), "some come twice"
    assert {"RADIO-001", "PRINT-100"} <= skus
    assert {"tok_declined_", "tok_silent_issuer"} <= cards
    assert any(order.withdrawn for order in accepted)
    assert any(order.total_cents != order.amount_cents for order in accepted)


def test_given_a_good_line_when_read_then_it_is_an_order() -> None:
    line = read_line(7, GOOD)
    assert isinstance(line, Accepted)
    assert (line.line, line.order.order_id, line.order.total_cents) == (7, "A-1", 200)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the line is empty"),
        (GOOD[:-9], "Invalid JSON"),
        ("[]", "object"),
        (GOOD.replace("200", '"2.00"'), "amount_cents: Input should be a valid integer"),
        (GOOD.replace("200", "200.0"), "amount_cents: Input should be a valid integer"),
        (GOOD.replace("200", "true"), "amount_cents: Input should be a valid integer"),
        (GOOD.replace("200", "-200"), "amount_cents: Input should be greater than 0"),
        (GOOD.replace('"card"', '"cart"'), "card: Field required; cart: Extra inputs"),
        (GOOD.replace("EUR", "XBT"), "currency: Input should be"),
        (GOOD.replace('"quantity": 2', '"quantity": 1.5'), "items.0.quantity: Input should be a valid integer"),
        ("{}", "and 3 more"),
    ],
)
def test_given_a_bad_line_when_read_then_it_is_refused_with_number_and_field(text: str, reason: str) -> None:
    line = read_line(9, text)
    assert isinstance(line, Refused)
    assert line.line == 9
    assert reason in line.reason
