"""One key submitted by many processes at once is one run with one effect a stage, and the same answer for everybody."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from stageflow_durable import IdempotencyParamMismatch, RunHandle
from tests.integration.engine.claims import is_whole
from tests.integration.engine.pairs import POSTGRES_REDIS, SQLITE_VALKEY, on
from tests.integration.engine.site import ROOT, Site
from tests.services.process import reaped, spawn

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_REDIS)]

PROCESSES = 4


def submitted(
    site: Site, times: int, *, processes: int = PROCESSES, wait: bool = True, **order: Any
) -> list[dict[str, Any]]:
    """What ``times`` submissions from some processes at once answered."""
    shares = [times // processes + (number < times % processes) for number in range(processes)]
    started = [
        _submitter(site, {"client": "web", "input": {}, "wait": wait, "threads": 16, "times": share, **order})
        for share in shares
    ]
    with reaped(*started):
        printed = [process.communicate(timeout=60)[0] for process in started]
    return [json.loads(line) for output in printed for line in output.splitlines()]


def _submitter(site: Site, order: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.apps.submitter", json.dumps(order)]
    return spawn(command, env=site.environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def runs_of(site: Site, answers: list[dict[str, Any]]) -> list[RunHandle]:
    return [site.engine.handle(run) for run in sorted({answer["run"] for answer in answers})]


@pytest.mark.parametrize("times", [50, 500])
def test_one_key_submitted_at_once_is_one_run_with_one_effect_a_stage(site: Site, times: int) -> None:
    answers = submitted(site, times, key=f"order-{times}")
    assert len(answers) == times
    (run,) = runs_of(site, answers)
    assert sum(not answer["replayed"] for answer in answers) == 1
    assert all(answer["result"] == answers[0]["result"] for answer in answers)
    is_whole(site, run, 3)
    assert set(site.ledger.bodies([run.run_id]).values()) == {1}


def test_other_parameters_under_a_key_are_refused_by_name_while_its_run_is_in_flight_and_after(site: Site) -> None:
    run = site.engine.enqueue(
        "three", {"hold": {"s2": "flight"}, "amount": 1}, client_id="web", idempotency_key="flight"
    )
    site.running(run, "s2")
    in_flight = submitted(site, 8, processes=2, key="flight", input={"hold": {"s2": "flight"}, "amount": 2})
    site.ledger.open("flight")
    site.at_rest([run])
    after = submitted(site, 2, processes=1, key="flight", input={"hold": {"s2": "flight"}})
    assert [(answer["error"], answer["fields"]) for answer in [*in_flight, *after]] == [
        ("IdempotencyParamMismatch", ["amount"])
    ] * 10
    assert all("'flight'" in answer["message"] and run.run_id in answer["message"] for answer in in_flight)
    is_whole(site, run, 3)


def test_equal_parameters_written_differently_are_the_same_request(site: Site) -> None:
    first = site.engine.enqueue("three", {"a": 1, "b": 2}, client_id="web", idempotency_key="written")
    again = site.engine.enqueue("three", {"b": 2.0, "a": 1.0}, client_id="web", idempotency_key="written")
    assert (again.run_id, again.replayed) == (first.run_id, True)
    with pytest.raises(IdempotencyParamMismatch, match=r"a\b"):
        site.engine.enqueue("three", {"a": True, "b": 2}, client_id="web", idempotency_key="written")


def test_two_clients_with_one_key_never_meet(site: Site) -> None:
    answers = [
        submitted(site, 4, processes=2, key="shared", client=client, input={"of": client}) for client in ("web", "app")
    ]
    (web,), (app,) = (runs_of(site, of_one) for of_one in answers)
    assert web.run_id != app.run_id
    assert (web.describe().input, app.describe().input) == ({"of": "web"}, {"of": "app"})
    is_whole(site, web, 3)
    is_whole(site, app, 3)
