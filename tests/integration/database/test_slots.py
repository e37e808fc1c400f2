"""Slots under contention: threads that begin and end at the same time, on a real server."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from typing import Any

import pytest

from stageflow_durable import ConcurrencyLimit, Pipeline
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.work import Claimant, Done, Nudge, Refused, Work
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Filter, Identity
from stageflow_durable.transitions.accept import NewRun

DESK, PHONE = ConcurrencyLimit("desk", 3), ConcurrencyLimit("phone", 2)
LIMITS = {"desk": 3, "phone": 2}
PLANS = {
    "p": Pipeline("p").stage("a", print, limits=[DESK, PHONE]).stage("b", print, limits=[PHONE]).plan,
    "q": Pipeline("q").stage("a", print, limits=[PHONE]).stage("b", print, limits=[PHONE, DESK]).plan,
    "r": Pipeline("r").stage("a", print, limits=[DESK]).stage("b", print).plan,
}
RUNS, THREADS = 30, 8


class Office:
    """Who is busy with what, counted outside the engine."""

    def __init__(self, url: str) -> None:
        self.store = SqlStore(Database(url))
        self.store.register(list(PLANS.values()))
        self.messages: queue.Queue[Nudge] = queue.Queue()
        self.lock = threading.Lock()
        self.busy: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.ended = 0

    def work(self, number: int) -> None:
        try:
            owner = self.store.join(Identity("host", number, "boot"), 600.0)
            claimant = Claimant(owner, PLANS, {})
            while self.ended < RUNS:
                try:
                    nudge = self.messages.get(timeout=0.05)
                except queue.Empty:
                    continue
                self.carry(nudge, claimant)
        except BaseException as error:  # noqa: BLE001  # the test tells of it
            self.errors.append(error)

    def carry(self, nudge: Nudge, claimant: Claimant) -> None:
        work: Any = self.store.begin(nudge, claimant)
        if isinstance(work, Refused):
            self.publish(work.nudges)
            return
        while isinstance(work, Work):
            needs = [limit.name for limit in work.plan.by_name[work.stage].limits]
            with self.lock:
                self.busy.update(needs)
                for name in needs:
                    self.most[name] = max(self.most[name], self.busy[name])
            time.sleep(0.02)
            with self.lock:
                self.busy.subtract(needs)
            done = self.store.succeed(work, claimant, "1", go_on=True)
            assert isinstance(done, Done)
            self.publish(done.nudges)
            with self.lock:
                self.ended += done.ended
            work = done.granted

    def publish(self, nudges: tuple[Nudge, ...]) -> None:
        for nudge in nudges:
            self.messages.put(nudge)


@pytest.mark.timeout(60)
def test_two_limits_in_opposite_orders_never_pass_their_numbers_and_never_block_each_other(
    migrated_postgres_url: str,
) -> None:
    office = Office(migrated_postgres_url)
    for number in range(RUNS):
        plan = PLANS["pqr"[number % 3]]
        office.publish(office.store.create(NewRun(f"R{number}", "c", plan, None, "f", "{}", "{}", "q")).nudges)
    threads = [threading.Thread(target=office.work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 40
    while any(thread.is_alive() for thread in threads) and time.monotonic() < until and not office.errors:
        for pool in office.store.untended():
            office.publish(office.store.tend(pool))
        due = office.store.overdue(0.1).due  # whom nobody woke, because two wanted to lock the same runs
        office.publish(tuple(nudge for nudges in office.store.wake(due) for nudge in nudges) if due else ())
        time.sleep(0.05)
    office.ended = RUNS if office.errors else office.ended
    for thread in threads:
        thread.join(timeout=5)
    assert office.errors == []
    assert all(office.most[name] <= limit for name, limit in LIMITS.items()), office.most
    assert office.most["phone"] == LIMITS["phone"]
    assert [run.status for run in office.store.summaries(Filter())] == [RunStatus.SUCCEEDED] * RUNS
    with office.store.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM stageflow_slots").scalar_one() == 0
    office.store.close()
