"""Awaiting runs of real workers: who awaits is told, by one subscription for all, and looks where nobody tells."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stageflow_durable import Engine, RunHandle, RunStatus, Submission
from stageflow_durable.engine import awaiting
from stageflow_durable.errors import NotAllowedInStage, ResultTimeout, RunCompensated, RunParked, UnknownRun
from stageflow_durable.idempotency.channels import PREFIX
from stageflow_durable.state.driver import Driver, Statement
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on
from tests.integration.engine.site import Site
from tests.services.process import eventually

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_VALKEY)]

NEVER = 120.0
"""How often who is told looks by itself, where a test shows that it is told."""


@pytest.fixture
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "SLOW_SECONDS", NEVER)


@pytest.fixture
def engine(site: Site) -> Iterator[Engine]:
    """An engine that has awaited nothing yet."""
    made = site.client()
    yield made
    made.close()


@pytest.fixture
def without_redis(site: Site) -> Iterator[Engine]:
    made = site.client(redis_url="off")
    yield made
    made.close()


def noted(engine: Engine, run: RunHandle) -> str | None:
    facts = engine.store.facts(run.run_id)
    assert facts is not None
    return facts.awaited_by


@pytest.mark.usefixtures("seldom")
def test_who_awaits_a_run_is_told_of_its_end(engine: Engine) -> None:
    names = []
    for _number in range(10):
        run = engine.enqueue("three", {})
        assert run.result(timeout=20)["s3"]["token"]
        names.append(noted(engine, run) or "none: it had ended before")
    assert any(name.startswith("r") for name in names)


@pytest.mark.usefixtures("seldom")
def test_without_redis_postgresql_tells_and_where_nobody_can_the_rows_are_looked_at(
    site: Site, without_redis: Engine
) -> None:
    assert without_redis.enqueue("one", {}).result(timeout=20)  # the subscription is there from now on
    run = without_redis.enqueue("three", {"nap": 0.2})  # else it may have ended before it is asked for
    assert run.result(timeout=20)
    if site.settings["database_url"].startswith("sqlite"):
        assert noted(without_redis, run) is None
    else:
        assert (noted(without_redis, run) or "").startswith("p")


def test_of_runs_that_nobody_awaits_nothing_is_told(site: Site, engine: Engine) -> None:
    with site.broker.client(site.number) as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe(f"{PREFIX}*")
        assert heard.get_message(timeout=1) is None
        runs = [engine.enqueue("three", {}) for _number in range(5)]
        assert site.at_rest(runs) == {RunStatus.SUCCEEDED: 5}
        assert heard.get_message(timeout=0.5) is None
        told: Any = None
        for _try in range(20):  # a run may end before anybody is noted at it; then it is found so, and nobody is told
            engine.enqueue("three", {}).result(timeout=20)
            told = told or heard.get_message(timeout=1)
            if told:
                break
        assert told["data"].endswith(b".")
        assert heard.get_message(timeout=0.5) is None


@pytest.mark.usefixtures("seldom")
def test_a_thousand_callers_share_one_subscription_and_no_caller_takes_a_thread(site: Site, engine: Engine) -> None:
    engine.enqueue("one", {}).result(timeout=20)
    runs = engine.enqueue_many("one", [Submission({}) for _number in range(1000)])
    threads = set()

    async def all_of_them() -> list[Any]:
        asked = [asyncio.ensure_future(run.aresult(timeout=100)) for run in runs]
        await asyncio.sleep(1)
        threads.update(threading.enumerate())
        return await asyncio.gather(*asked)

    eventually(lambda: len(listeners(site, engine)) == 1)
    results = asyncio.run(all_of_them())
    assert len(results) == 1000
    assert all(result["s1"]["token"] for result in results)
    assert len(threads) < 30


@pytest.mark.usefixtures("seldom")
def test_of_a_run_that_ended_one_question_tells_all_and_of_one_that_failed_no_outputs_are_read(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, parked = engine.enqueue("three", {}), engine.enqueue("one", {"fail": {"s1": [1, "bug"]}})
    assert done.result(timeout=20)
    with pytest.raises(RunParked):
        parked.result(timeout=20)
    eventually(lambda: len(listeners(site, engine)) == 1)
    asked: list[str] = []
    rows = Driver.rows

    def counted(driver: Driver, statement: Statement, given: Any) -> Any:
        asked.append(statement.sql)
        return rows(driver, statement, given)

    monkeypatch.setattr(Driver, "rows", counted)
    assert done.result(timeout=20)["s3"]["token"]
    apart = site.settings["database_url"].startswith("sqlite")  # there another question is no round trip
    assert len(asked) == (3 if apart else 2), asked  # the note, which finds it at rest, and the run with its outputs
    asked.clear()
    with pytest.raises(RunParked):
        parked.result(timeout=20)
    assert len(asked) == 2, asked


@pytest.mark.usefixtures("seldom")
def test_the_outputs_of_runs_that_ended_together_are_read_together_and_not_by_each_caller(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = engine.enqueue_many("three", [Submission({}) for _number in range(50)])
    site.at_rest(runs)
    apart: list[object] = []
    to_thread = asyncio.to_thread

    async def noted_apart(*given: Any) -> Any:
        apart.append(given)
        return await to_thread(*given)

    monkeypatch.setattr("asyncio.to_thread", noted_apart)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(run.aresult(timeout=60) for run in runs))

    assert all(result["s3"]["token"] for result in asyncio.run(all_of_them()))
    assert apart == []


def listeners(site: Site, engine: Engine) -> list[Any]:
    with site.broker.client(site.number) as client:
        found: Any = client.pubsub_channels(f"{PREFIX}{engine._awaiting._token}")  # type: ignore[union-attr]  # it awaits
    return list(found)


def test_what_is_told_may_be_lost_and_the_result_comes_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stageflow_durable.idempotency.channels.RedisListening.heard", deaf)
    run = engine.enqueue("one", {})
    began = time.monotonic()
    assert run.result(timeout=20)
    assert time.monotonic() - began < 3 * awaiting.SLOW_SECONDS


def deaf(_self: object, seconds: float) -> list[str]:
    time.sleep(seconds)
    return []


def test_while_redis_is_emptied_and_while_it_is_away_a_result_is_awaited_in_bounded_time(
    site: Site, engine: Engine
) -> None:
    slow = engine.enqueue("three", {"hold": {"s2": "gate"}})
    with pytest.raises(ResultTimeout):
        slow.result(timeout=0.5)
    with site.broker.client(site.number) as client:
        client.flushall()
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(slow.result(timeout=60)))
    waiting.start()
    site.broker.kill()
    began = time.monotonic()
    with pytest.raises(ResultTimeout):
        engine.handle(slow.run_id).result(timeout=1.0)
    assert time.monotonic() - began < 3
    time.sleep(1)
    site.broker.ensure_running()
    site.ledger.open("gate")
    waiting.join(60)
    assert found
    assert found[0]["s3"]["token"]
    # And then it is told again.
    eventually(lambda: _is_told(engine), within=30, what="it listens again")


def _is_told(engine: Engine) -> bool:
    run = engine.enqueue("one", {})
    return bool(run.result(timeout=20)) and noted(engine, run) is not None


@pytest.mark.usefixtures("seldom")
def test_given_a_parked_run_when_it_is_resumed_then_its_result_is_awaited_anew(engine: Engine) -> None:
    run = engine.enqueue("one", {"fail": {"s1": [1, "bug"]}})
    with pytest.raises(RunParked):
        run.result(timeout=20)
    with pytest.raises(RunParked):
        run.result(timeout=20)
    engine.resume(run.run_id, reason="look again", actor="ann")
    with pytest.raises(RunParked):
        run.result(timeout=20)
    assert [event.type for event in run.history()].count("run.parked") == 2


@pytest.mark.usefixtures("seldom")
def test_a_person_who_ends_a_run_wakes_those_who_await_it(engine: Engine) -> None:
    run = engine.enqueue("asleep", {"until": time.time() + 600})
    threading.Timer(1.0, lambda: engine.cancel(run.run_id, reason="no longer wanted", actor="ann")).start()
    with pytest.raises(RunCompensated):
        run.result(timeout=20)


def test_of_a_run_that_is_not_there_nobody_waits_for_the_end(engine: Engine) -> None:
    run = engine.enqueue("one", {})
    gone = RunHandle("01ARZ3NDEKTSV4RRFFQ69G5FAV", engine.store, engine.run, engine._clock, awaiting=engine._awaiting)
    with pytest.raises(UnknownRun):
        gone.result(timeout=20)
    assert run.result(timeout=20)


@pytest.mark.usefixtures("seldom")
@pytest.mark.parametrize("redis", [True, False], ids=["told by Redis", "without Redis"])
def test_events_come_while_the_run_goes_on_until_it_is_at_rest(site: Site, redis: bool) -> None:
    engine = site.client(**({} if redis else {"redis_url": "off"}))
    try:
        engine.enqueue("one", {}).result(timeout=20)
        run = engine.enqueue("three", {"nap": 0.5})
        seen = [(event, time.time()) for event in run.events(timeout=30)]
        assert [event.seq for event, _at in seen] == list(range(1, len(seen) + 1))
        assert [event for event, _at in seen] == run.history()
        assert seen[-1][0].type == "run.succeeded"
        begun = next(at for event, at in seen if (event.type, event.data.get("stage")) == ("stage.ok", "s1"))
        assert seen[-1][1] - begun > 0.5, "they came together, at the end"
        assert [event.seq for event in run.events(after=4)] == [event.seq for event, _at in seen[4:]]
    finally:
        engine.close()


@pytest.mark.usefixtures("seldom")
def test_events_may_be_followed_beyond_the_rest_and_by_a_coroutine(engine: Engine) -> None:
    run = engine.enqueue("one", {"fail": {"s1": [1, "bug"]}})
    types: list[str] = []

    async def follow() -> None:
        async for event in run.aevents(follow=True, timeout=20):
            types.append(event.type)
            if types.count("run.parked") == 2:
                break
            if event.type == "run.parked":
                await engine.aresume(run.run_id, reason="look again", actor="ann")

    asyncio.run(follow())
    assert types[0] == "run.accepted"
    assert types[-1] == "run.parked"
    with pytest.raises(ResultTimeout, match="no end of its events"):
        list(run.events(follow=True, timeout=0.5))


def test_nothing_is_awaited_inside_a_stage(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine.enqueue("one", {})
    monkeypatch.setattr("stageflow_durable.engine.run_wait.run_inside", lambda: "another")
    with pytest.raises(NotAllowedInStage):
        next(iter(run.events()))
    with pytest.raises(NotAllowedInStage):
        asyncio.run(run.aresult())
