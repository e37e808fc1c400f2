"""Who is next where a slot comes free, and who is let past."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow_durable.model.limits import PoolId
from stageflow_durable.transitions.rows import Pool, SlotRow
from stageflow_durable.transitions.slots import ANSWER_SECONDS, PASSED_OVER_SECONDS, Pools, offers

NOW = 1000.0
BANK, PHONE = PoolId("bank"), PoolId("phone")


def waits(run: str, *, since: float = NOW - 1, rank: int = 0, pool: PoolId = BANK, short: bool = True) -> SlotRow:
    return SlotRow(pool.name, pool.key, run, "a", "a", 0, 0, None, rank, since, short=short, behind=pool.text)


def held(run: str, *, turn: str = "", pool: PoolId = BANK) -> SlotRow:
    return waits(run, pool=pool)._replace(attempt=1, turn=turn, short=False)


def pool(limit: int, rows: Sequence[SlotRow]) -> Pool:
    counts: dict[str, int] = {}
    for row in rows:
        if row.attempt:
            counts[row.turn] = counts.get(row.turn, 0) + 1
    return Pool(limit, counts, tuple(rows))


def woken(limit: int, *rows: SlotRow) -> list[str]:
    """To whom slots are offered, in order."""
    change = offers({BANK: pool(limit, rows)}, NOW)
    return [] if change is None else [row.run for row in change.woken]


def has_room(limit: int, newcomer: SlotRow, *rows: SlotRow) -> bool:
    return Pools({BANK: pool(limit, rows)}, NOW).has_room(newcomer)


def test_as_many_are_offered_as_are_free_the_oldest_first() -> None:
    queue = [waits("young", since=3), waits("old", since=1), waits("middle", since=2)]
    assert woken(3, held("x"), *queue) == ["old", "middle"]
    assert woken(1, held("x"), *queue) == []


def test_the_lower_rank_goes_before_the_older() -> None:
    assert woken(1, waits("old", since=1, rank=5), waits("urgent", since=2, rank=0)) == ["urgent"]


def test_who_was_passed_over_for_long_goes_before_all_younger_ones_whatever_their_rank() -> None:
    passed = waits("old", since=1, rank=9)._replace(passed_at=NOW - PASSED_OVER_SECONDS)
    assert woken(1, passed, waits("urgent", since=2, rank=0)) == ["old"]
    just = passed._replace(passed_at=NOW - PASSED_OVER_SECONDS + 1)
    assert woken(1, just, waits("urgent", since=2, rank=0)) == ["urgent"]


def test_keys_take_turns_the_one_with_the_fewest_bodies_is_next() -> None:
    noisy = [waits(f"noisy{n}", since=n)._replace(turn="noisy") for n in range(5)]
    quiet = waits("quiet", since=50)._replace(turn="quiet")
    assert woken(3, held("x", turn="noisy"), *noisy, quiet) == ["quiet", "noisy0"]


def test_a_newcomer_does_not_take_what_was_offered_to_another() -> None:
    offered = waits("old", since=1)._replace(offered_at=NOW - 1)
    assert not has_room(1, waits("new", since=NOW), offered)
    assert has_room(2, waits("new", since=NOW), offered)
    assert has_room(1, waits("urgent", since=NOW), offered._replace(rank=5))


def test_an_offer_that_nobody_takes_counts_no_more() -> None:
    offered = waits("old", since=1)._replace(offered_at=NOW - ANSWER_SECONDS)
    assert has_room(1, waits("new", since=NOW), offered)


def test_who_waits_for_another_limit_is_let_past_but_not_for_ever() -> None:
    other = waits("old", since=1, short=False)._replace(behind="phone")
    newcomer = waits("new", since=NOW)
    assert has_room(1, newcomer, other)
    assert not has_room(1, newcomer, other._replace(passed_at=NOW - PASSED_OVER_SECONDS))
    assert has_room(1, waits("older", since=0), other._replace(passed_at=NOW - PASSED_OVER_SECONDS))


def test_one_slot_is_kept_for_all_that_wait_behind_the_same() -> None:
    """Else the thousand of a noisy client would keep every slot from the others."""
    noisy = [
        waits(f"n{n}", since=n, short=False)._replace(behind="noisy", passed_at=NOW - PASSED_OVER_SECONDS)
        for n in range(1000)
    ]
    assert has_room(2, waits("quiet", since=NOW), *noisy)
    assert not has_room(1, waits("quiet", since=NOW), *noisy)


def test_whoever_takes_a_slot_passes_over_those_that_are_older() -> None:
    old, young = waits("old", since=1, short=False), waits("young", since=NOW + 1, short=False)
    pools = Pools({BANK: pool(2, [old, young])}, NOW)
    pools.take(waits("new", since=NOW)._replace(attempt=1))
    change = pools.offered()
    assert change is not None
    assert {row.run: row.passed_at for row in change.put if not row.attempt} == {"old": NOW}


def test_a_lost_slot_stays_taken_and_is_not_lost_twice() -> None:
    mine = held("x")
    pools = Pools({BANK: pool(1, [mine, waits("next")])}, NOW)
    pools.free(mine, NOW + 5)
    pools.free(mine._replace(until=NOW + 5), None)
    change = pools.offered()
    assert change is not None
    assert [row.until for row in change.put] == [NOW + 5]
    assert change.woken == ()
    assert change.gone == ()


def test_each_pool_is_offered_for_itself() -> None:
    change = offers({BANK: pool(1, [waits("a")]), PHONE: pool(1, [held("x", pool=PHONE), waits("b", pool=PHONE)])}, NOW)
    assert change is not None
    assert [row.run for row in change.woken] == ["a"]
