"""Ids of runs: ULIDs, as their specification has them (https://github.com/ulid/spec)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.model.keys import is_run_id, new_run_id

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LATEST, MOST = 2**48 - 1, 2**80 - 1


def read(run_id: str) -> tuple[int, int]:
    """The milliseconds and the random part."""
    number = 0
    for letter in run_id:
        number = number * 32 + ALPHABET.index(letter)
    return divmod(number, MOST + 1)


@given(st.integers(0, LATEST), st.integers(0, MOST))
def test_given_a_time_and_chance_then_the_id_says_both(milliseconds: int, entropy: int) -> None:
    made = new_run_id(milliseconds, entropy)
    assert is_run_id(made)
    assert read(made) == (milliseconds, entropy)


def test_given_the_ends_of_both_ranges_then_the_ids_are_the_first_and_the_last() -> None:
    assert new_run_id(0, 0) == "0" * 26
    assert new_run_id(LATEST, MOST) == "7" + "Z" * 25


def test_given_one_millisecond_then_ids_differ_by_chance() -> None:
    made = [read(new_run_id(1_700_000_000_000)) for _ in range(200)]
    assert {milliseconds for milliseconds, _ in made} == {1_700_000_000_000}
    assert len({entropy for _, entropy in made}) == 200
    assert 0 < sum(entropy >> 79 for _, entropy in made) < 200
