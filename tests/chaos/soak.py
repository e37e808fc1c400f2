"""A mix of faults from a seed against a stream of sagas, judged by the world outside: ``make soak``."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from redis.exceptions import RedisError

from stageflow_durable import RunHandle, RunStatus
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.status import AT_REST
from tests.chaos.app import SAGAS
from tests.chaos.site import ChaosSite

UNDER_WAY = 40
"""Runs that are not at rest, at most: the stream waits for them."""

PAUSE_SECONDS = 4.0
"""Twice the lease of a site: who was stopped so long has been given up."""

STORE_AWAY = "asked while the database was away"


@dataclass(slots=True)
class Soak:
    """What came of it."""

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    effects: int = 0
    undone: int = 0
    bodies: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The table of the verdict."""
        rows = [("seed", self.seed), ("seconds", round(self.seconds)), *sorted(self.ends.items())]
        rows += [
            ("calls of bodies and undos", self.bodies),
            ("effects", self.effects),
            ("  of them undos", self.undone),
        ]
        rows += [(f"fault: {name}", count) for name, count in sorted(self.faults.items())]
        rows += [("runs whose effects are not those of their end", len(self.problems))]
        told = [f"  {run}: {'; '.join(why)}" for run, why in list(self.problems.items())[:20]]
        return [f"{what:<48} {count:>8}" for what, count in rows] + told


class Mischief:
    """Faults on a site, chosen by chance."""

    def __init__(self, site: ChaosSite, chance: random.Random) -> None:
        self._site = site
        self._chance = chance
        self._paused: list[tuple[float, int]] = []
        self.kinds: dict[str, Callable[[], None]] = {
            "child killed": self._child,
            "worker killed": self._worker,
            "worker stopped past its lease": self._stop,
            "broker restarted": self._restart,
            "broker restarted and flushed": self._flush,
            "pg_terminate_backend": self._terminate,
            "CLIENT KILL normal": lambda: self._disconnect("normal"),
            "CLIENT KILL pubsub": lambda: self._disconnect("pubsub"),
        }

    def strike(self) -> str:
        """One of them; its name."""
        name = self._chance.choices(list(self.kinds), [6, 2, 1, 1, 1, 2, 1, 1])[0]
        self.kinds[name]()
        return name

    def heal(self, *, all_of_it: bool = False) -> None:
        """Let go on what was stopped long enough, start what died."""
        now = time.monotonic()
        for due, leader in [one for one in self._paused if all_of_it or one[0] <= now]:
            self._paused.remove((due, leader))
            with suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGCONT)
        for worker in self._site.workers:
            worker.revive()

    def _child(self) -> None:
        children = [pid for worker in self._site.workers if worker.lives for pid in worker.children()]
        with suppress(ProcessLookupError):
            os.kill(self._chance.choice(children or [0x7FFFFFFF]), signal.SIGKILL)

    def _worker(self) -> None:
        self._chance.choice(self._site.workers).kill()

    def _stop(self) -> None:
        worker = self._chance.choice(self._site.workers)
        with suppress(ProcessLookupError):
            worker.signal(signal.SIGSTOP)
            self._paused.append((time.monotonic() + PAUSE_SECONDS, worker.process.pid))

    def _restart(self) -> None:
        self._site.broker.kill()
        self._site.broker.start()

    def _flush(self) -> None:
        self._restart()
        self._site.broker.flushall()

    def _terminate(self) -> None:
        url = self._site.settings["database_url"].replace("+psycopg", "")
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        asked = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(asked)

    def _disconnect(self, kind: str) -> None:
        with suppress(RedisError), self._site.broker.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def soak(site: ChaosSite, seconds: float, seed: int, say: Callable[[str], object] = print) -> Soak:
    """Faults for so long, then peace until every run is at rest, then the verdict."""
    chance, result, runs = random.Random(seed), Soak(seed), dict[str, RunHandle]()
    mischief, began = Mischief(site, chance), time.monotonic()
    ended: dict[str, RunStatus] = {}
    told = next_blow = began
    while time.monotonic() - began < seconds:
        _look(runs, ended, result)
        while len(runs) - len(ended) < UNDER_WAY:
            with suppress(StoreUnavailable):
                run = site.engine.enqueue("order", _told(chance))
                runs[run.run_id] = run
        if time.monotonic() >= next_blow:
            result.faults[mischief.strike()] += 1
            next_blow = time.monotonic() + chance.uniform(0.3, 2.0)
        mischief.heal()
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"{told - began:6.0f} s  {len(runs)} runs, {len(ended)} at rest, {result.faults.total()} faults")
        time.sleep(0.1)
    mischief.heal(all_of_it=True)
    site.broker.ensure_running()
    site.at_rest([run for run_id, run in runs.items() if run_id not in ended], within=120, revive=True)
    _look(runs, ended, result)
    _judge(site, runs, ended, result)
    result.seconds = time.monotonic() - began
    return result


def _told(chance: random.Random) -> dict[str, Any]:
    stage, dice = chance.choice(SAGAS["order"]), chance.random()
    fail: dict[str, Any] = {}
    if dice < 0.3:
        fail = {f"do:{stage}": ["permanent", -1, chance.choice(["before", "after"])]}
    elif dice < 0.5:
        fail = {f"do:{stage}": ["error", chance.randint(1, 2), "after"], f"undo:{stage}": ["error", 1, "before"]}
    return {"nap": chance.uniform(0.0, 0.15), "amount": chance.randint(1, 9), "fail": fail}


def _look(runs: dict[str, RunHandle], ended: dict[str, RunStatus], result: Soak) -> None:
    for run_id in runs.keys() - ended.keys():
        try:
            status = runs[run_id].status()
        except StoreUnavailable:
            result.faults[STORE_AWAY] += 1
            continue
        if status in AT_REST:
            ended[run_id] = status


def _judge(site: ChaosSite, runs: dict[str, RunHandle], ended: dict[str, RunStatus], result: Soak) -> None:
    traces = site.world.of(runs)
    for run_id, status in ended.items():
        result.ends[f"runs {status}"] += 1
        trace = traces[run_id]
        result.effects += len(trace.effects)
        result.undone += len(trace.undone)
        succeeded = status is RunStatus.SUCCEEDED
        why = trace.problems(succeeded=succeeded, stages=SAGAS["order"])
        if not succeeded and status is not RunStatus.COMPENSATED:
            why.insert(0, f"is {status}: {runs[run_id].describe().error}")
        if why:
            result.problems[run_id] = why
    result.bodies = len(site.ledger.entries(runs))
