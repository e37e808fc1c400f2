"""Two people, one run: both have read it, both act on what they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from stageflow_durable import Engine, RunHandle, RunStatus
from stageflow_durable.errors import NotAllowed, OperatorConflict
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY, SQLITE_VALKEY)]

TIMES = 20


@pytest.fixture
def parked(site: ChaosSite) -> list[RunHandle]:
    """Runs that may be resumed and compensated: two stages done, then a bug, once."""
    runs = [site.engine.enqueue("five", {"fail": {"do:s3": ["bug", "mended", "before"]}}) for _ in range(TIMES)]
    assert site.at_rest(runs) == {RunStatus.PARKED: TIMES}
    site.ledger.open("mended")
    return runs


def acts(engine: Engine, verb: str, run: RunHandle, barrier: Barrier) -> str:
    """Read the run, meet the other one, and act on what was read; what came of it."""
    read = engine.run(run.run_id).op_version
    barrier.wait(10)
    order: Callable[..., Any] = getattr(engine, verb)
    try:
        order(run.run_id, reason="looked at it", actor=f"who {verb}s", op_version=read)
    except (OperatorConflict, NotAllowed) as refused:
        return type(refused).__name__
    return "won"


def test_given_two_who_read_one_version_when_one_resumes_and_one_compensates_then_exactly_one_wins(
    site: ChaosSite, parked: list[RunHandle]
) -> None:
    engines, outcomes = [site.client(), site.client()], Counter[str]()
    with ThreadPoolExecutor(2) as people:
        for run in parked:
            barrier = Barrier(2)
            asked = [
                people.submit(acts, engine, verb, run, barrier)
                for engine, verb in zip(engines, ("resume", "compensate"), strict=True)
            ]
            resumed, compensated = (one.result(30) for one in asked)
            assert {resumed, compensated} in ({"won", "OperatorConflict"}, {"won", "NotAllowed"})
            outcomes["resume" if resumed == "won" else "compensate"] += 1
            (event,) = [event for event in run.history() if "actor" in event.data]
            assert event.data["actor"] == ("who resumes" if resumed == "won" else "who compensates")
    for engine in engines:
        engine.close()
    # Who won decides how it ends, and the loser left no trace in it.
    ends = site.at_rest(parked, within=60)
    assert (ends[RunStatus.SUCCEEDED], ends[RunStatus.COMPENSATED]) == (outcomes["resume"], outcomes["compensate"])
    assert site.problems(parked) == {}
