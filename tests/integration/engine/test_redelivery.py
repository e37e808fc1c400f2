"""Messages that are delivered more than once: a run is never carried twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from typing import Any

import pytest

from tests.integration.engine.claims import begun, doubled, is_whole
from tests.integration.engine.pairs import POSTGRES_REDIS, on
from tests.integration.engine.site import LANES, Site, Worker

pytestmark = [pytest.mark.process, on(POSTGRES_REDIS)]


def test_a_first_link_that_comes_again_during_its_ride_opens_no_second_lane(bare_site: Site) -> None:
    run = bare_site.client(queue="ride").enqueue("three", {"hold": {"s2": "ride"}})
    original = front(bare_site, "ride")
    workers = [bare_site.worker(queue="ride"), bare_site.worker(queue="ride", redis_url="off")]
    bare_site.running(run, "s2")
    for worker in workers:
        bare_site.ready(worker)
    push(bare_site, "ride", *[original, redelivered(original)] * 5)
    bare_site.until(lambda: carried(workers, original) == 10, "duplicates are carried and dropped, the run goes on")
    bare_site.ledger.open("ride")
    bare_site.at_rest([run])
    push(bare_site, "ride", original, redelivered(original))
    bare_site.until(lambda: carried(workers, original) == 13, "messages of a finished run are dropped")
    is_whole(bare_site, run, 3)
    assert doubled(bare_site, [run]) == {}
    assert begun(bare_site, run) == ["s1", "s2", "s3"]
    bare_site.forget(*workers)


def test_a_stage_that_outlasts_the_visibility_timeout_is_not_run_twice(bare_site: Site) -> None:
    short: dict[str, Any] = {"queue": "short", "visibility_timeout": 3, "in_place_seconds": 1, "short_delay_seconds": 1}
    short["quick_acks"] = "off"
    workers = [bare_site.worker(**short), bare_site.worker(**short)]
    run = bare_site.client(**short).enqueue("three", {"hold": {"s2": "short"}})
    bare_site.running(run, "s2")
    bare_site.until(
        lambda: sum(worker.log().count("received") for worker in workers) > 1,
        "the message is delivered again",
        within=20,
    )
    bare_site.ledger.open("short")
    bare_site.at_rest([run])
    is_whole(bare_site, run, 3)
    assert doubled(bare_site, [run]) == {}
    bare_site.forget(*workers)


def test_a_message_is_noted_in_its_worker_alone_while_it_carries_a_run(bare_site: Site) -> None:
    run = bare_site.client(queue="alone").enqueue("three", {"hold": {"s2": "alone"}})
    worker = bare_site.worker(queue="alone")
    bare_site.running(run, "s2")
    assert (bare_site.messages("alone"), bare_site.unacknowledged()) == (0, 0)
    bare_site.ledger.open("alone")
    bare_site.at_rest([run])
    bare_site.forget(worker)


def test_a_worker_that_stops_in_order_puts_back_what_it_has_not_begun(bare_site: Site) -> None:
    engine = bare_site.client(queue="back")
    first = engine.enqueue("three", {"hold": {"s1": "back"}})
    worker = bare_site.worker(LANES, "--prefetch-multiplier", "3", children=1, queue="back")
    bare_site.running(first, "s1")
    others = [engine.enqueue("three", {}) for _ in range(2)]
    bare_site.until(lambda: bare_site.messages("back") == 0, "the worker has taken them all")
    worker.process.send_signal(signal.SIGQUIT)
    bare_site.ledger.open("back")
    bare_site.until(lambda: not worker.lives, "the worker stops")
    # What waited behind a long stage may have been published again meanwhile: its queue is empty.
    put_back = [message for message in waiting(bare_site, "back") if json.loads(message)["headers"].get("redelivered")]
    assert (len(put_back), bare_site.unacknowledged()) == (2, 0)
    bare_site.forget(worker)
    second = bare_site.worker(queue="back")
    bare_site.at_rest([first, *others])
    assert doubled(bare_site, [first, *others]) == {}
    bare_site.forget(second)


def carried(workers: Iterable[Worker], message: bytes) -> int:
    """How many copies of the message the workers are done with; a sweep may have published another beside it."""
    task = json.loads(message)["headers"]["id"]
    return sum(worker.log().count(f"[{task}] succeeded in ") for worker in workers)


def front(site: Site, queue: str) -> bytes:
    """The only message of the queue."""
    (found,) = waiting(site, queue)
    return found


def waiting(site: Site, queue: str) -> list[bytes]:
    """The messages of the queue."""
    with site.broker.client(site.number) as client:
        return list(client.lrange(queue, 0, -1))


def push(site: Site, queue: str, *messages: bytes) -> None:
    with site.broker.client(site.number) as client:
        client.lpush(queue, *messages)


def redelivered(message: bytes) -> bytes:
    """The message as kombu puts it back after a visibility timeout."""
    body = json.loads(message)
    body["headers"]["redelivered"] = True
    body["properties"]["delivery_info"]["redelivered"] = True
    return json.dumps(body).encode()
