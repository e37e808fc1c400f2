"""A limit over two workers of which one is killed again and again: judged by what the bodies wrote down themselves."""

from __future__ import annotations

import time

import pytest

from stageflow_durable.model.status import RunStatus
from tests.integration.engine.pairs import POSTGRES_REDIS, on
from tests.integration.engine.site import QUIET, Site

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.slow, on(POSTGRES_REDIS, max_recoveries=50)]

BODIES, LIMIT, KILLS = 100, 10, 2


def test_never_more_than_ten_of_a_hundred_bodies_run_and_no_slot_is_left(bare_site: Site) -> None:
    site, threads = bare_site, (*QUIET, "-P", "threads")
    workers = [site.worker(children=12, flags=threads) for _worker in range(2)]
    for worker in workers:
        site.ready(worker)
    runs = [site.engine.enqueue("crowded", {}) for _run in range(BODIES)]
    ends: dict[int, float] = {}
    for kill in range(KILLS):
        wanted = 12 + 25 * kill
        site.until(lambda: sum(one.kind == "out" for one in site.ledger.entries()) >= wanted, "some went")  # noqa: B023  # called now
        workers[0].kill()
        ends[workers[0].process.pid] = time.monotonic()
        workers[0].revive()
    assert site.at_rest(runs, within=90) == {RunStatus.SUCCEEDED: BODIES}
    assert LIMIT // 2 < _most_inside(site, ends) <= LIMIT  # a slow machine may not come to all of them
    site.until(lambda: _slots(site) == 0, "no slot is left")


def _most_inside(site: Site, ends: dict[int, float]) -> int:
    """How many bodies ran at the same time at the most. One that was killed ended with its process, and the body that
    came after it has the same number: a lost attempt is none of those that are counted.
    """
    entries = site.ledger.entries()
    out = {(one.run, one.pid): float(one.token) for one in entries if one.kind == "out"}
    steps: list[tuple[float, int]] = []
    for one in entries:
        if one.kind == "in":
            end = out.get((one.run, one.pid), ends.get(one.pid, float("inf")))
            steps += [(float(one.token), 1), (end, -1)]
    inside = most = 0
    for _at, step in sorted(steps):
        inside += step
        most = max(most, inside)
    return most


def _slots(site: Site) -> int:
    with site.engine.store.database.read() as connection:  # type: ignore[attr-defined]  # it is on PostgreSQL
        return int(connection.exec_driver_sql("SELECT count(*) FROM stageflow_slots").scalar_one())
