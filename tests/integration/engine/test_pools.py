"""Other ways to run a worker: one process, threads, a child a message, spawned children; releases side by side."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Engine, RunHandle
from stageflow_durable.model.status import WaitingFor
from tests.integration.apps import newer
from tests.integration.engine.claims import all_whole, doubled, is_whole
from tests.integration.engine.pairs import POSTGRES_REDIS, on
from tests.integration.engine.site import LANES, Site

pytestmark = [pytest.mark.process, on(POSTGRES_REDIS)]

POOLS = {
    "solo": (LANES, "-P", "solo"),
    "threads": (LANES, "-P", "threads"),
    "a child a message": (LANES, "--max-tasks-per-child", "1"),
    "spawn": ("tests.integration.apps.spawned",),
    "spawn-adopted": ("tests.integration.apps.adopted_spawned", "-Q", "spawn-adopted"),
}


@pytest.mark.parametrize("pool", ["solo", "threads", "a child a message", "spawn", "spawn-adopted"])
def test_every_pool_carries_runs_and_their_retries_and_undos(bare_site: Site, pool: str) -> None:
    queue = pool.replace(" ", "-")
    worker = bare_site.worker(*POOLS[pool], queue=queue)
    client = bare_site.client(queue=queue)
    good = [client.enqueue("three", {"fail": {f"s{1 + k % 3}": [1, "error"]}}) for k in range(6)]
    bad = client.enqueue("three", {"fail": {"s3": [-1, "permanent"]}})
    bare_site.at_rest([*good, bad])
    all_whole(bare_site, good, 3)
    assert doubled(bare_site, good) == {(run.run_id, f"s{1 + k % 3}"): 2 for k, run in enumerate(good)}
    assert bare_site.ledger.order(bad.run_id, "undo") == ["s3", "s2", "s1"]
    for run in [*good, bad]:  # each worker keeps what its bodies log, and of neighbours nothing
        logged = [
            (stage.name, line.split(": ", 1)[-1])
            for stage in run.describe().stages
            for attempt in stage.attempts
            for line in attempt.log
        ]
        assert [text for _stage, text in logged] == [f"{stage} of {run.run_id} fails" for stage, _text in logged]
        assert len(logged) == 1
    assert worker.stop() == 0
    bare_site.forget(worker)


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_in_every_pool_stages_are_wrapped_and_observers_told(bare_site: Site, pool: str) -> None:
    queue = f"wrapped-{pool}"
    worker = bare_site.worker("tests.integration.apps.wrapped", "-P", pool, queue=queue)
    client = bare_site.client(queue=queue)
    good = [client.enqueue("three", {"fail": {"s2": [1, "error"]}}) for _ in range(4)]
    bad = client.enqueue("three", {"fail": {"s3": [-1, "permanent"]}})
    bare_site.at_rest([*good, bad])
    all_whole(bare_site, good, 3)
    assert bare_site.ledger.order(bad.run_id, "undo") == ["s3", "s2", "s1"]
    bare_site.until(lambda: _told(bad)[-1:] == ["undo s1: ok"], "the last observer was told")
    assert _told(good[0]) == ["stage s1: ok", "stage s2: retry", "stage s2: ok", "stage s3: ok"]
    assert _told(bad)[2:] == ["stage s3: fail", "undo s3: ok", "undo s2: ok", "undo s1: ok"]
    assert worker.stop() == 0
    bare_site.forget(worker)


def _told(run: RunHandle) -> list[str]:
    failed = [str(event.data["error"]) for event in run.history() if event.type == "observer.failed"]
    return [error.removeprefix("ValueError: told of ") for error in failed]


def test_a_worker_whose_spawned_children_could_not_import_the_engine_refuses_to_start(bare_site: Site) -> None:
    worker = bare_site.worker("tests.integration.apps.hidden")
    bare_site.until(lambda: not worker.lives, "it has ended")
    assert "engine 'hidden': this worker spawns its children, and they cannot import the engine" in worker.log()
    assert worker.process.wait() == 1
    bare_site.forget(worker)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_without_children_that_dies_loses_nothing(bare_site: Site, pool: str) -> None:
    queue = f"dying-{pool}"
    worker = bare_site.worker(*POOLS[pool], queue=queue)
    runs = [bare_site.client(queue=queue).enqueue("three", {"kill": {"s2": "child"}}) for _ in range(2)]
    bare_site.at_rest(runs, revive=True)
    all_whole(bare_site, runs, 3)
    bare_site.forget(worker)


def test_a_worker_that_does_not_know_a_pipeline_hands_it_back_to_one_that_does(bare_site: Site) -> None:
    settings: dict[str, Any] = {"queue": "rolling"}
    older = bare_site.worker(**settings)
    client = Engine("lanes", (*newer.engine.pipelines.values(),), **{**bare_site.settings, **settings})
    run = client.enqueue("new", {})
    bare_site.until(lambda: run.describe().waiting_for is WaitingFor.WORKER, "the older worker has handed it back")
    newcomer = bare_site.worker("tests.integration.apps.newer", **settings)
    bare_site.ready(newcomer)
    older.stop()
    bare_site.at_rest([run])
    is_whole(bare_site, run, 3)
    assert doubled(bare_site, [run]) == {}
    assert all(attempt.state == "ok" for stage in run.describe().stages for attempt in stage.attempts)
    bare_site.forget(older, newcomer)
    client.close()
