"""Many claimers at once: exactly one wins, whatever the store, from threads and from processes."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stageflow_durable.errors import FenceLost
from stageflow_durable.idempotency.store import Claimed, Done
from tests.conformance.idempotency.backends import LONG, SCOPE, SHORT, Backend
from tests.conformance.idempotency.claimant import claims
from tests.services.process import Processes, eventually

PROCESSES, CLAIMERS = 4, 300


@pytest.mark.parametrize("claimers", [50, 300])
def test_given_many_threads_when_they_claim_at_once_then_one_wins(backend: Backend, claimers: int) -> None:
    assert claims(backend, "order-1", claimers) == {"Claimed": 1, "InProgress": claimers - 1}


def test_given_a_lapsed_lease_when_many_claim_at_once_then_one_takes_it_over(backend: Backend) -> None:
    backend.fence(lease=SHORT)
    backend.advance(SHORT * 1.5)
    assert claims(backend, "order-1", 50) == {"Claimed": 1, "InProgress": 49}


def test_given_a_released_or_expired_key_when_many_claim_at_once_then_one_wins(backend: Backend) -> None:
    fence = backend.fence(params={"old": 1})
    backend.store.release(SCOPE, "order-1", fence, vouched=True)
    assert claims(backend, "order-1", 50)["Claimed"] == 1
    backend.store.complete(SCOPE, "order-2", backend.fence("order-2", {"old": 1}), 1, ttl_seconds=SHORT)
    backend.advance(SHORT * 1.5)
    assert claims(backend, "order-2", 50)["Claimed"] == 1


def test_given_a_completed_key_when_many_claim_at_once_then_all_get_the_result(backend: Backend) -> None:
    backend.store.complete(SCOPE, "order-1", backend.fence(), [], ttl_seconds=LONG)
    assert claims(backend, "order-1", 300) == {"Done": 300}


def test_given_many_keys_at_once_then_each_is_claimed_and_completed_once(backend: Backend) -> None:
    def work(number: int) -> object:
        key = f"order-{number % 20}"
        answer = backend.claim(key)
        if isinstance(answer, Claimed):
            backend.store.complete(SCOPE, key, answer.fence, number % 20, ttl_seconds=LONG)
        return answer

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(work, range(200)))
    assert sum(isinstance(answer, Claimed) for answer in answers) == 20
    assert [done.result for number in range(20) if isinstance(done := backend.claim(f"order-{number}"), Done)] == [
        *range(20)
    ]


def test_given_an_old_and_a_new_owner_when_both_complete_at_once_then_the_new_result_stands(backend: Backend) -> None:
    old = backend.fence(lease=SHORT)
    backend.advance(SHORT * 1.5)
    new = backend.fence()
    line, lost = threading.Barrier(2), []

    def complete(fence: int) -> None:
        line.wait()
        try:
            backend.store.complete(SCOPE, "order-1", fence, fence, ttl_seconds=LONG)
        except FenceLost:
            lost.append(fence)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(complete, (old, new)))
    answer = backend.claim()
    assert isinstance(answer, Done)
    assert (answer.result, lost) == (new, [old])


@pytest.mark.process
def test_given_several_processes_when_they_claim_at_once_then_one_thread_of_one_of_them_wins(
    shared_backend: Backend, processes: Processes, tmp_path: Path
) -> None:
    names, go = [f"claimant-{number}" for number in range(PROCESSES)], tmp_path / "go"
    root = Path(__file__).parents[3]
    for name in names:
        processes.start(
            name,
            [
                sys.executable,
                "-m",
                "tests.conformance.idempotency.claimant",
                str(shared_backend.url),
                "order-1",
                str(CLAIMERS // PROCESSES),
                tmp_path / name,
                go,
            ],
            cwd=root,
        )
    eventually(lambda: all((tmp_path / name).exists() for name in names), within=60, what="all claimants are up")
    go.touch()
    for process in processes.all:
        assert process.wait(timeout=60) == 0, [processes.log(name) for name in names]
    answers: Counter[str] = Counter()
    for name in names:
        answers.update(json.loads(processes.log(name).splitlines()[-1]))
    assert answers == {"Claimed": 1, "InProgress": CLAIMERS - 1}
