"""Awaiting runs in one process: what is noted, asked and heard, with a store and channels of the test."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from stageflow_durable.engine import awaiting
from stageflow_durable.engine.awaiting import Announcer, Awaiting
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.awaited import By, Listener, Told
from stageflow_durable.store.values import AtRest, Stand
from tests.services.process import eventually


class Runs:
    """In the place of a store: runs by id, with their numbers, and whether they are at rest."""

    def __init__(self) -> None:
        self.runs: dict[str, Stand] = {}
        self.noted: list[tuple[Sequence[str], str]] = []
        self.looks = 0
        self.away = False

    def note_awaiting(self, run_ids: Sequence[str], entry: str) -> dict[str, int]:
        self._answer()
        self.noted.append((run_ids, entry))
        found = {run: self.runs[run] for run in run_ids if run in self.runs}
        return {run: stand.seq for run, stand in found.items() if entry[0].isupper() or not stand.at_rest}

    def stand(self, run_ids: Sequence[str]) -> dict[str, Stand]:
        self._answer()
        self.looks += 1
        return {run: self.runs[run] for run in run_ids if run in self.runs}

    def at_rest(self, run_ids: Sequence[str]) -> list[AtRest]:
        self._answer()
        there = [run for run in run_ids if run in self.runs and self.runs[run].at_rest]
        return [AtRest(cast("Any", type("Row", (), {"id": run})()), {}) for run in there]

    def listen(self, _token: str) -> None:
        return None

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Channels:
    """In the place of Redis."""

    def __init__(self) -> None:
        self.said: queue.Queue[str] = queue.Queue()
        self.listening = 0
        self.away = False

    def tell(self, token: str, text: str) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.said.put(text)

    def listen(self, _token: str) -> Channels:
        if self.away:
            raise StoreUnavailable("away")
        self.listening += 1
        return self

    def heard(self, seconds: float) -> list[str]:
        if self.away:
            raise StoreUnavailable("away")
        try:
            return [self.said.get(timeout=min(seconds, 0.05))]
        except queue.Empty:
            return []

    def close(self) -> None:
        return None


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def channels() -> Channels:
    return Channels()


@pytest.fixture
def told(runs: Runs, channels: Channels) -> Iterator[Awaiting]:
    made = Awaiting(cast("Any", runs), channels)
    yield made
    made.close()


@pytest.fixture
def looking(runs: Runs) -> Iterator[Awaiting]:
    made = Awaiting(cast("Any", runs))
    yield made
    made.close()


def end(runs: Runs, channels: Channels | None, run: str = "R1", after: float = 0.2) -> None:
    """Bring a run to rest in a moment, and say so if there are channels."""

    def do() -> None:
        runs.runs[run] = Stand(9, at_rest=True)
        if channels is not None:
            channels.tell("", Told(run, ended=True).text())

    threading.Timer(after, do).start()


def test_a_run_that_is_at_rest_is_given_at_once_and_one_that_is_not_there_is_to_be_looked_at(
    told: Awaiting, runs: Runs
) -> None:
    runs.runs["R1"] = Stand(3, at_rest=True)
    assert isinstance(told.wait("R1", 5), AtRest)
    assert told.wait("R2", 5) is True


def test_who_awaited_a_run_that_was_at_rest_leaves_a_subscription_for_the_next_ones(
    told: Awaiting, runs: Runs, channels: Channels
) -> None:
    runs.runs["R1"] = Stand(3, at_rest=True)
    told.wait("R1", 5)
    eventually(lambda: channels.listening == 1, within=5, what="it listens")


def test_who_is_told_does_not_look(
    told: Awaiting, runs: Runs, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "SLOW_SECONDS", 60.0)
    runs.runs["R1"] = Stand(3, at_rest=False)
    end(runs, channels)
    assert isinstance(told.wait("R1", 10), AtRest)
    assert runs.looks == 0
    assert channels.listening == 1
    assert {entry for _ids, entry in runs.noted} == {f"r{told._token}"}


def test_what_was_not_told_is_found_by_looking(told: Awaiting, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "SLOW_SECONDS", 0.4)
    runs.runs["R1"] = Stand(3, at_rest=False)
    end(runs, None)
    assert isinstance(told.wait("R1", 10), AtRest)


def test_where_nobody_tells_the_rows_are_looked_at_and_nothing_is_noted(looking: Awaiting, runs: Runs) -> None:
    runs.runs["R1"] = Stand(3, at_rest=False)
    end(runs, None)
    began = time.monotonic()
    assert isinstance(looking.wait("R1", 10), AtRest)
    assert time.monotonic() - began < 3
    assert runs.noted == []


def test_while_the_channels_are_away_runs_are_looked_at_and_afterwards_they_are_told_again(
    told: Awaiting, runs: Runs, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(awaiting, "SLOW_SECONDS", 60.0)
    channels.away = True
    runs.runs |= {"R1": Stand(3, at_rest=False), "R2": Stand(3, at_rest=False)}
    end(runs, None)
    assert isinstance(told.wait("R1", 10), AtRest)
    assert runs.looks
    channels.away = False
    threading.Timer(1.0, lambda: end(runs, channels, "R2", after=0.0)).start()
    assert isinstance(told.wait("R2", 10), AtRest)
    assert channels.listening == 1


def test_the_database_may_be_away_meanwhile_and_not_at_the_beginning(looking: Awaiting, runs: Runs) -> None:
    runs.away = True
    with pytest.raises(StoreUnavailable):
        looking.wait("R1", 5)
    runs.away = False
    runs.runs["R1"] = Stand(3, at_rest=False)

    def break_down() -> None:
        runs.away = True
        time.sleep(0.5)
        runs.away = False
        end(runs, None, after=0.0)

    threading.Timer(0.2, break_down).start()
    assert isinstance(looking.wait("R1", 10), AtRest)


def test_nobody_waits_longer_than_they_said(told: Awaiting, runs: Runs) -> None:
    runs.runs["R1"] = Stand(3, at_rest=False)
    began = time.monotonic()
    assert told.wait("R1", 0.3) is False
    assert 0.3 <= time.monotonic() - began < 2
    assert told._waiting == {}


def test_who_follows_is_woken_by_any_change_also_by_one_before_it_was_noted(
    told: Awaiting, runs: Runs, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "SLOW_SECONDS", 60.0)
    runs.runs["R1"] = Stand(3, at_rest=False)
    assert told.wait("R1", 10, seen=2) is True
    threading.Timer(0.2, lambda: channels.tell("", Told("R1", ended=False).text())).start()
    assert told.wait("R1", 10, seen=3) is True
    assert runs.noted[-1][1] == f"R{told._token}"


def test_coroutines_of_a_moment_are_noted_together_and_take_no_thread(
    told: Awaiting, runs: Runs, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "SLOW_SECONDS", 60.0)
    ids = [f"R{number}" for number in range(300)]
    runs.runs |= dict.fromkeys(ids, Stand(3, at_rest=False))

    async def all_of_them() -> list[Any]:
        waiting = [asyncio.ensure_future(told.await_(run, 10)) for run in ids]
        await asyncio.sleep(0.3)
        assert sum(thread.name.startswith("stageflow-await") for thread in threading.enumerate()) <= 2
        for run in ids:
            end(runs, channels, run, after=0.0)
        return await asyncio.gather(*waiting)

    assert all(isinstance(found, AtRest) for found in asyncio.run(all_of_them()))
    assert len(runs.noted) < 30  # a tenth of the runs, however slow the machine is


def test_a_coroutine_that_is_given_up_is_forgotten(told: Awaiting, runs: Runs) -> None:
    runs.runs["R1"] = Stand(3, at_rest=False)

    async def give_up() -> None:
        waiting = asyncio.ensure_future(told.await_("R1", None))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    assert told._waiting == {}


def test_whoever_tells_never_fails_and_leaves_alone_what_is_away(channels: Channels) -> None:
    asked: list[str] = []

    class Store:
        def notify(self, token: str, text: str) -> None:
            asked.append(text)
            raise StoreUnavailable("away")

    announce = Announcer(cast("Any", Store()), channels)
    both = [Listener(By.POSTGRESQL, "0" * 16), Listener(By.REDIS, "1" * 16)]
    for _change in range(3):
        announce(both, Told("R1", ended=True))
    assert asked == ["R1."]
    assert channels.said.qsize() == 3
    Announcer(cast("Any", Store()), None)(both[1:], Told("R1", ended=True))  # of Redis it knows nothing
