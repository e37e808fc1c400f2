"""Whatever the broker delivers, a worker stays the same, says so in a line, and carries what is next."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from stageflow_durable import RunStatus
from tests.integration.engine.hostile import NAMED, TEXTS, Raw, body_of, by_chance
from tests.integration.engine.pairs import SQLITE_VALKEY, on
from tests.integration.engine.site import LANES, Site, Worker
from tests.integration.engine.test_pools import POOLS
from tests.services.rows import database_of

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY)]

SEED, COUNT = 20261129, 400


def true_message(site: Site, queue: str) -> Raw:
    """One that the engine has published, taken from the broker: its run ends by the sweep."""
    site.client(queue=queue).enqueue("one", {})
    with site.broker.client(site.number) as client:
        raw: Raw = json.loads(client.rpop(queue))
    return raw


def delivered(site: Site, queue: str, messages: Iterable[bytes]) -> None:
    with site.broker.client(site.number) as client:
        for message in messages:
            client.lpush(queue, message)


def carries_on(site: Site, worker: Worker, queue: str, what: str, within: float = 20.0) -> None:
    """A run beside it succeeds, and everything that was sent has been taken."""
    run = site.client(queue=queue).enqueue("three", {})
    site.at_rest([run], within=within)
    assert run.status() is RunStatus.SUCCEEDED, what
    site.until(lambda: site.messages(queue) == 0, f"nothing comes back: {what}")


def dropped(worker: Worker) -> list[str]:
    return re.findall(r"dropped a message .*", worker.log())


POOL_OF = {"prefork": (LANES,), "threads": POOLS["threads"], "solo": POOLS["solo"]}


@pytest.mark.parametrize("pool", POOL_OF)
def test_given_messages_that_are_wrong_when_they_are_delivered_then_each_is_dropped_once_and_the_worker_goes_on(
    bare_site: Site, pool: str
) -> None:
    queue = f"hostile-{pool}"
    true = true_message(bare_site, queue)
    worker = bare_site.worker(*POOL_OF[pool], queue=queue)
    bare_site.ready(worker)
    children = worker.children()
    for name, change in NAMED.items():
        raw = json.loads(json.dumps(true))
        raw["properties"]["delivery_tag"] = name
        delivered(bare_site, queue, [json.dumps(change(raw)).encode()])
    delivered(bare_site, queue, TEXTS.values())
    carries_on(bare_site, worker, queue, "all that have a name", within=60.0)
    log = worker.log()
    assert worker.lives
    assert worker.children() == children
    assert "an error in the worker's event loop" not in log
    assert "Traceback" not in log, log[log.find("Traceback") - 500 :][:3000]
    assert "\nCRITICAL forged" not in log
    assert max(map(len, log.splitlines())) < 2000
    told = sum(int(more) for more in re.findall(r"(\d+) more were not told", log)) + len(dropped(worker))
    assert told >= 20
    bare_site.forget(worker)


def test_given_messages_that_chance_has_changed_when_they_are_delivered_then_the_worker_goes_on(
    bare_site: Site,
) -> None:
    true = true_message(bare_site, "chance")
    worker = bare_site.worker(queue="chance")
    bare_site.ready(worker)
    children = worker.children()
    messages = [json.dumps(raw).encode() for raw in by_chance(true, SEED, COUNT)]
    for start in range(0, COUNT, 100):
        delivered(bare_site, "chance", messages[start : start + 100])
        carries_on(bare_site, worker, "chance", f"seed {SEED}, from {start}", within=60.0)
    assert worker.lives
    assert worker.children() == children
    assert "an error in the worker's event loop" not in worker.log()
    bare_site.forget(worker)


def test_given_a_message_with_another_routing_key_when_it_is_carried_then_the_queue_of_its_row_was_served(
    bare_site: Site,
) -> None:
    true = true_message(bare_site, "lane")
    true["properties"]["delivery_info"]["routing_key"] = "forged"
    delivered(bare_site, "lane", [json.dumps(true).encode()])
    worker = bare_site.worker(queue="lane")
    run = bare_site.engine.handle(body_of(true)[0][0])
    bare_site.at_rest([run])

    def served() -> set[str]:
        with database_of(bare_site.engine).read() as connection:
            return {str(row[0]) for row in connection.exec_driver_sql("select name from stageflow_queues")}

    bare_site.until(lambda: "lane" in served(), "the lane was served")
    assert "forged" not in served()
    bare_site.forget(worker)


def commands(site: Site) -> Callable[..., Any]:
    app = site.engine.celery_app
    return lambda name, **given: app.control.broadcast(name, reply=True, timeout=10.0, limit=1, **given)


def test_given_a_stranger_at_the_broker_when_he_commands_the_worker_then_it_tells_and_does_not_obey(
    bare_site: Site,
) -> None:
    worker = bare_site.worker(queue="commanded")
    bare_site.ready(worker)
    command = commands(bare_site)
    for name, arguments in {
        "shutdown": {},
        "pool_shrink": {"n": 2},
        "pool_grow": {"n": 9},
        "cancel_consumer": {"queue": "commanded"},
        "rate_limit": {"task_name": "stageflow.advance", "rate_limit": "1/h"},
        "time_limit": {"task_name": "stageflow.advance", "soft": 1, "hard": 1},
        "revoke": {"task_id": "x", "terminate": True, "signal": "KILL"},
        "memdump": {},
    }.items():
        (answer,) = command(name, arguments=arguments)
        (told,) = answer.values()
        assert "refused" in told["error"], name
    looks = ("ping", "stats", "active", "reserved", "scheduled", "registered", "active_queues", "conf", "report")
    for name in (*looks, "query_task", "enable_events"):
        (answer,) = command(name, arguments={"ids": ["x"]} if name == "query_task" else {})
        (told,) = answer.values()
        assert "refused" not in str(told), name
    assert "remote command shutdown" in worker.log()
    assert len(worker.children()) == 2
    carries_on(bare_site, worker, "commanded", "commands")
    bare_site.forget(worker)


def test_given_a_setting_that_asks_for_it_when_the_worker_is_told_to_end_then_it_does(bare_site: Site) -> None:
    worker = bare_site.worker(queue="obedient", remote_control="all")
    bare_site.ready(worker)
    bare_site.engine.celery_app.control.broadcast("shutdown", destination=[f"{worker.name}@test"])
    bare_site.until(lambda: not worker.lives, "it has ended")
    bare_site.forget(worker)


KEY = "k" * 32


def test_given_workers_that_require_signatures_when_messages_come_then_only_signed_ones_are_acted_upon(
    bare_site: Site,
) -> None:
    settings: dict[str, Any] = {"queue": "signed", "audit_key": KEY}
    worker = bare_site.worker(message_signing="require", **settings)
    bare_site.ready(worker)
    signing = bare_site.client(message_signing="sign", **settings)
    runs = [signing.enqueue("three", {"fail": {"s2": [1, "error"]}}) for _ in range(3)]
    bare_site.at_rest(runs)
    assert dropped(worker) == []
    unsigned = bare_site.client(**settings).enqueue("three", {})
    bare_site.at_rest([unsigned])  # by the sweep, which signs
    assert [("it is not signed" in line) for line in dropped(worker)] == [True]
    bare_site.forget(worker)


@pytest.mark.parametrize("how", ["templates", "celery"])
def test_given_a_roll_out_of_signatures_when_it_goes_by_way_of_sign_then_no_message_is_dropped(
    bare_site: Site, how: str
) -> None:
    settings: dict[str, Any] = {
        "queue": f"rolled-{how}",
        "audit_key": KEY,
        "message_templates": "on" if how == "templates" else "off",
    }
    settings["in_place_stages"] = "1"  # each stage is a message
    modes = [
        ("off", "off"),
        ("off", "sign"),
        ("sign", "off"),
        ("sign", "sign"),
        ("sign", "require"),
        ("require", "require"),
    ]
    for theirs, ours in modes:
        worker = bare_site.worker(message_signing=ours, **settings)
        run = bare_site.client(message_signing=theirs, **settings).enqueue("three", {})
        bare_site.at_rest([run])
        assert dropped(worker) == [], (theirs, ours)
        bare_site.forget(worker)
