"""An engine on an application that was there before, and a queue on which strangers write."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from stageflow_durable import Engine
from tests.integration.apps import adopted
from tests.integration.apps.lanes import PIPELINES
from tests.integration.engine.claims import all_whole, is_whole
from tests.integration.engine.pairs import SQLITE_REDIS, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_REDIS)]


QUEUE = "stageflow-lanes"
NOT_EVEN_A_MESSAGE = {"no envelope": b"not an envelope", "a list": b"[]", "an empty object": b"{}"}


def test_adopting_an_application_changes_none_of_its_settings() -> None:
    assert adopted.after == adopted.before
    assert adopted.after["task_default_queue"] == "theirs"


def test_an_adopted_application_runs_our_stages_and_its_own_tasks(bare_site: Site, tmp_path: Path) -> None:
    broker = bare_site.settings["broker_url"]
    worker = bare_site.worker("tests.integration.apps.adopted", "-Q", "theirs,stageflow-shop", their_broker=broker)
    theirs = Celery("theirs", broker=broker, set_as_current=False)
    theirs.send_task("theirs.add", args=(str(tmp_path / "sum"), 2, 3), queue="theirs")
    ours = Engine("shop", PIPELINES, celery_app=theirs, **bare_site.settings)
    runs = [ours.enqueue("three", {"fail": {"s2": [1, "error"]}}) for _ in range(3)]
    bare_site.at_rest(runs)
    all_whole(bare_site, runs, 3)
    bare_site.until(
        lambda: (tmp_path / "sum").exists() and (tmp_path / "sum").read_text() == "5", "their own task was run"
    )
    bare_site.forget(worker)
    ours.close()
    theirs.close()


class Explosive:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def envelope(body: bytes, content_type: str = "application/json", **headers: Any) -> bytes:
    """A message as kombu lays it into a list of Redis."""
    marker = str(uuid.uuid4())
    known = {
        "lang": "py",
        "task": "stageflow.advance",
        "id": marker,
        "root_id": marker,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "timelimit": [None, None],
        "eta": None,
        "expires": None,
        "argsrepr": "",
        "kwargsrepr": "",
        "origin": "",
    }
    properties = {
        "correlation_id": marker,
        "reply_to": "",
        "delivery_mode": 2,
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": marker,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": content_type,
            "headers": {**known, **headers},
            "properties": properties,
        }
    ).encode()


def call(*arguments: Any) -> bytes:
    """A message for our task with these arguments."""
    return envelope(json.dumps([arguments, {}, {}]).encode())


def strange(path: Path) -> dict[str, bytes]:
    """What anybody might write to a queue."""
    return {
        "pickle": envelope(
            pickle.dumps([("run", "s1", 0, "1.0"), {"trap": Explosive(path)}, {}]), "application/x-python-serialize"
        ),
        "no JSON": envelope(b"\xff\x00 not json"),
        "another task": envelope(json.dumps([[], {}, {}]).encode(), task="os.system"),
        "no task": envelope(b"{}", task=None),
        "too few arguments": call(),
        "a run that is not there": call("01ZZZZZZZZZZZZZZZZZZZZZZZZ", "s1", 0, "1.0"),
        "wrong types": call(5, ["s1"], "gen", None),
        "NUL and quotes": call("a\x00'; DROP TABLE stageflow_runs; --", "s1", 0, "1.0"),
        "very long": call("x" * 100_000, "s1", 0, "1.0"),
        "old protocol": envelope(
            json.dumps({"task": "stageflow.advance", "id": "1", "args": [], "kwargs": {}}).encode(), task=None
        ),
        "empty": envelope(b""),
    }


@pytest.mark.parametrize("what", [*strange(Path()), *NOT_EVEN_A_MESSAGE])
def test_what_strangers_write_to_the_queue_harms_nothing(site: Site, tmp_path: Path, what: str) -> None:
    trap = tmp_path / "unpickled"
    before = [worker.process.pid for worker in site.workers]
    with site.broker.client(site.number) as client:
        client.lpush(QUEUE, {**strange(trap), **NOT_EVEN_A_MESSAGE}[what])
    run = site.engine.enqueue("three", {})
    site.at_rest([run])
    is_whole(site, run, 3)
    site.until(lambda: site.messages() + site.unacknowledged() == 0, "everything is consumed or refused")
    assert not trap.exists()
    assert [worker.process.pid for worker in site.workers if worker.lives] == before
