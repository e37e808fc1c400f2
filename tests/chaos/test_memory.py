"""Memory runs out: the kernel kills who took it, an allocation fails, or Celery replaces a child that has grown."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.model.status import ParkReason
from tests.chaos.site import APP, ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Worker
from tests.services.memory import MemoryLimit

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY, max_recoveries=3)]

MEGABYTES = 300


@pytest.fixture
def limit() -> Iterator[MemoryLimit]:
    """Of memory, that of all who are held to it together."""
    made = MemoryLimit(MEGABYTES)
    yield made
    made.close()


@pytest.fixture
def worker(mended: ChaosSite) -> Iterator[Worker]:
    """One of two children, on a queue of its own."""
    started = mended.worker(queue="memory")
    mended.ready(started)
    yield started
    mended.forget(started)


def test_given_a_stage_that_takes_all_memory_when_the_kernel_kills_it_then_it_is_done_again_or_in_the_end_parked(
    mended: ChaosSite, limit: MemoryLimit, worker: Worker
) -> None:
    for pid in (worker.process.pid, *worker.children()):
        limit.hold(pid)
    client = mended.client(queue="memory")
    once = client.enqueue("five", {"die": {"do:s2": ["hog", "after"], "do:s4": ["hog", "before"]}})
    always = client.enqueue("five", {"die": {"do:s3": ["hogs", "after"]}})
    beside = mended.load(3, queue="memory")
    mended.survived([once, *beside], within=90)
    mended.at_rest([always], within=60)
    assert (always.status(), always.describe().park_reason) == (RunStatus.PARKED, ParkReason.POISON)
    assert mended.trace(always).done == ["s1", "s2", "s3"]
    assert limit.kills >= 5
    assert worker.lives
    worker.kill()


def test_given_an_allocation_that_fails_when_a_stage_raises_it_then_the_stage_fails_and_its_process_goes_on(
    mended: ChaosSite, worker: Worker
) -> None:
    before = worker.children()
    for pid in before:
        resource.prlimit(pid, resource.RLIMIT_AS, (MEGABYTES << 21, MEGABYTES << 21))
    client = mended.client(queue="memory")
    once = client.enqueue("five", {"die": {"do:s2": ["hog", "after"]}})
    always = client.enqueue("five", {"die": {"do:s3": ["hogs", "after"]}, "fail": {}})
    mended.survived([once])
    mended.at_rest([always])
    assert (always.status(), always.describe().error) == (RunStatus.COMPENSATED, "MemoryError")
    assert mended.problems([always]) == {}
    assert worker.children() == before


def test_given_children_that_are_replaced_for_their_memory_after_each_message_then_each_stage_ran_once(
    mended: ChaosSite,
) -> None:
    small = mended.worker(APP, "--max-memory-per-child", "1", queue="small", in_place_stages=2)
    mended.ready(small)
    before = set(small.children())
    runs = mended.load(6, queue="small", in_place_stages=2)
    mended.survived(runs)
    assert not before & set(small.children())
    bodies = mended.ledger.bodies([run.run_id for run in runs])
    assert set(bodies.values()) == {1}
    mended.forget(small)
