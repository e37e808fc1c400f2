"""Sagas while processes die: what a failed one did is undone once, in reverse; what a good one did stays, once."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from stageflow_durable import RunHandle, RunStatus
from stageflow_durable.model.status import Cause, StepState
from tests.chaos.app import SAGAS
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on

# Who dies takes along what its siblings do: how often one stage is lost is chance here.
pytestmark = [
    pytest.mark.process,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    on(POSTGRES_VALKEY, max_recoveries=50),
]

RUNS = 100
FAILING = 30
FIVE = SAGAS["five"]
NOBODY = 1  # a port on which nothing answers


def orders(site: ChaosSite, chance: random.Random) -> tuple[list[RunHandle], list[RunHandle]]:
    """Those that will succeed, and those that fail for good at a stage, before or after its effect."""
    fails = [["permanent", -1, where] for where in ("before", "after")] + [["error", -1, "after"]]
    good, bad = [], []
    for number in range(RUNS):
        told = {"nap": 0.05, "amount": 1 + number % 5}
        if number % 10 < 10 * FAILING // RUNS:
            stage = chance.choice(SAGAS["order"])
            bad.append(site.engine.enqueue("order", {**told, "fail": {f"do:{stage}": chance.choice(fails)}}))
        else:
            passing = {f"do:{chance.choice(SAGAS['order'])}": ["error", 1, "after"]} if chance.random() < 0.3 else {}
            good.append(site.engine.enqueue("order", {**told, "fail": passing}))
    return good, bad


def kill_some(site: ChaosSite, runs: list[RunHandle], chance: random.Random) -> Counter[str]:
    """A child every third of a second and now and then a whole worker, until half of the runs are at rest."""
    killed: Counter[str] = Counter()
    while site.engine.runs(status=["succeeded", "compensated"], limit=RUNS)[RUNS // 2 :] == []:
        worker = chance.choice([one for one in site.workers if one.lives] or site.workers)
        if chance.random() < 0.15:
            worker.kill()
            killed["worker"] += 1
        elif children := worker.children():
            with suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
                killed["child"] += 1
        time.sleep(0.33)
        for one in site.workers:
            one.revive()
        if sum(killed.values()) > 40:
            break
    return killed


def test_given_a_hundred_sagas_and_kills_when_three_in_ten_fail_for_good_then_the_books_balance(
    site: ChaosSite,
) -> None:
    chance = random.Random(10)
    good, bad = orders(site, chance)
    killed = kill_some(site, [*good, *bad], chance)
    at_rest = site.at_rest([*good, *bad], within=150, revive=True)
    assert killed["child"] >= 5
    assert at_rest == {RunStatus.SUCCEEDED: RUNS - FAILING, RunStatus.COMPENSATED: FAILING}
    assert site.problems([*good, *bad]) == {}
    traces = site.world.of(run.run_id for run in bad)
    assert all(not any(trace.net.values()) for trace in traces.values())
    assert sum(len(trace.undone) for trace in traces.values()) >= FAILING // 2  # something was there to be undone


@pytest.mark.parametrize("whom", ["child", "group"])
def test_given_a_process_that_dies_in_each_undo_when_it_is_over_then_each_effect_was_undone_once_in_reverse(
    site: ChaosSite, whom: str
) -> None:
    fail = {"do:s5": ["permanent", -1, "after"]}
    dies = [(stage, when) for stage in FIVE for when in ("before", "after")]
    runs = [site.engine.enqueue("five", {"fail": fail, "die": {f"undo:{stage}": [whom, when]}}) for stage, when in dies]
    assert site.at_rest(runs, within=120, revive=True) == {RunStatus.COMPENSATED: len(dies)}
    for (stage, _), run in zip(dies, runs, strict=True):
        trace = site.trace(run)
        assert (trace.done, trace.undone) == (list(FIVE), list(FIVE[::-1]))
        assert site.ledger.bodies([run.run_id], "undo")[run.run_id, stage] >= 2
        assert len([entry for entry in site.history(run, "work.compensation_executed") if entry["stage"] == stage]) == 1
        keys = {entry.key for entry in site.ledger.entries([run.run_id]) if entry.kind == "undo"}
        assert len(keys) == len(FIVE)


@pytest.mark.parametrize("whom", ["child", "group"])
def test_given_an_undo_that_fails_for_good_when_processes_die_too_then_older_ones_are_undone_and_a_person_finishes_it(
    site: ChaosSite, whom: str
) -> None:
    gate = f"mended-{whom}"
    fail = {"do:s4": ["permanent", -1, "after"], "undo:s2": ["permanent", gate, "before"]}
    dies = {f"undo:{stage}": [whom, "after"] for stage in ("s3", "s1")}
    runs = [site.engine.enqueue("five", {"fail": fail, "die": dies}) for _ in range(3)]
    assert site.at_rest(runs, within=90, revive=True) == {RunStatus.COMPENSATION_FAILED: len(runs)}
    for run in runs:
        assert site.trace(run).undone == ["s4", "s3", "s1"]
        owed = {stage.name: stage.undo.state for stage in run.describe().stages if stage.undo is not None}
        assert [name for name, state in owed.items() if state is StepState.COMPENSATION_FAILED] == ["s2"]
    site.ledger.open(gate)
    for run in runs:
        site.engine.compensate(run.run_id, reason="the remote side is mended", actor="ops")
    assert site.at_rest(runs, within=60, revive=True) == {RunStatus.COMPENSATED: len(runs)}
    for run in runs:
        trace = site.trace(run)
        assert trace.undone == ["s4", "s3", "s1", "s2"]
        assert not any(trace.net.values())


@pytest.mark.parametrize("whom", ["child", "group"])
def test_given_a_cancelled_run_when_its_process_is_killed_and_started_again_then_what_it_did_is_undone(
    site: ChaosSite, whom: str
) -> None:
    gate = f"cancelled-{whom}"
    run = site.engine.enqueue("five", {"hold": {"do:s3": gate}})
    site.running(run, "s3")
    site.until(lambda: len(site.trace(run).done) == 3, "s3 has acted")
    site.engine.cancel(run.run_id, reason="changed my mind", actor="customer")
    assert run.status() is RunStatus.STOPPING
    pid = site.ledger.entries([run.run_id])[-1].pid
    if whom == "group":
        next(worker for worker in site.workers if pid in worker.children()).kill()
    else:
        os.kill(pid, signal.SIGKILL)
    site.at_rest([run], within=60, revive=True)
    found = run.describe()
    assert (found.status, found.cause) == (RunStatus.COMPENSATED, Cause.CANCELLED)
    trace = site.trace(run)
    assert (trace.done, trace.undone) == (["s1", "s2", "s3"], ["s3", "s2", "s1"])
    assert site.ledger.bodies([run.run_id])[run.run_id, "s3"] == 1  # a stopping run begins nothing again


def test_given_a_run_cancelled_while_every_worker_is_dead_when_they_start_again_then_it_is_undone(
    site: ChaosSite,
) -> None:
    run = site.engine.enqueue("five", {"hold": {"do:s2": "dead"}})
    site.until(lambda: len(site.trace(run).done) == 2, "s2 has acted")
    for worker in site.workers:
        worker.kill()
    site.engine.cancel(run.run_id, reason="changed my mind", actor="customer")
    site.at_rest([run], within=60, revive=True)
    assert run.status() is RunStatus.COMPENSATED
    assert site.trace(run).undone == ["s2", "s1"]


@pytest.mark.parametrize("gate", [True, False], ids=["dropped by Redis", "dropped by the rows"])
def test_given_messages_that_are_each_sent_twice_when_runs_are_undone_then_each_undo_is_called_once(
    mended: ChaosSite, monkeypatch: pytest.MonkeyPatch, gate: bool
) -> None:
    monkeypatch.setenv("VARIANT", "sends everything twice")
    settings: dict[str, Any] = {"queue": f"twice-{gate}", "in_place_stages": 1}
    if not gate:
        settings["redis_url"] = f"redis://127.0.0.1:{NOBODY}/0"
    workers = [mended.worker("tests.chaos.variants", **settings) for _ in range(2)]
    for worker in workers:
        mended.ready(worker)
    fail = {"do:s5": ["permanent", -1, "after"]}
    runs = [mended.client(**settings).enqueue("five", {"fail": fail}) for _ in range(4)]
    assert mended.at_rest(runs, within=60) == {RunStatus.COMPENSATED: len(runs)}
    assert mended.problems(runs) == {}
    ids = [run.run_id for run in runs]
    for kind in ("do", "undo"):
        assert mended.ledger.bodies(ids, kind) == {(run, stage): 1 for run in ids for stage in FIVE}
    mended.until(lambda: mended.messages(settings["queue"]) == 0, "every message was taken")
    taken = Counter(re.findall(r"stageflow\.advance\[(\S+)\] received", "".join(one.log() for one in workers)))
    assert sum(times > 1 for times in taken.values()) >= len(runs) * 2 * (len(FIVE) - 1)  # all but the first of a run
    mended.forget(*workers)
