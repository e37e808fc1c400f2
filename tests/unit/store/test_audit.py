"""The sum of the codes by which a group's items ended."""

from __future__ import annotations

import pytest

from stageflow_durable.store.audit import NOTHING, sum_of_codes

CODES = ["0f" * 32, "ff" * 32, "01" * 32]


def test_it_is_the_same_in_whichever_order_and_by_whichever_parts() -> None:
    whole = sum_of_codes(CODES)
    assert whole == sum_of_codes(reversed(CODES)) == sum_of_codes((CODES[2], sum_of_codes(CODES[:2])))
    assert len(whole) == len(NOTHING) == 64
    assert sum_of_codes(()) == NOTHING


@pytest.mark.parametrize("stranger", ["x", "", CODES[0] + "x", "\x00", "é"])
def test_what_is_no_code_counts_nothing_and_stops_nobody(stranger: str) -> None:
    assert sum_of_codes((*CODES, stranger)) == sum_of_codes(CODES)
