"""A message from a template is the message that Celery would have sent, or Celery sends it."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from celery import Celery, Task
from celery._state import _task_stack
from celery.signals import after_task_publish, before_task_publish
from kombu.entity import Exchange, Queue
from redis import Redis

from stageflow_durable.delivery import template
from stageflow_durable.delivery.configure import ADVANCE, TASK_OPTIONS, own_settings
from stageflow_durable.delivery.publish import AGAIN_SECONDS, CeleryPublisher
from stageflow_durable.embedded.ports import free_port
from stageflow_durable.errors import BrokerUnavailable
from stageflow_durable.model.work import Hint, Nudge
from stageflow_durable.settings import load_settings
from tests.services.broker import BrokerService

pytestmark = pytest.mark.redis
IDS = ("id", "root_id", "parent_id", "correlation_id", "delivery_tag")


def body(run_id: str, strand: str, gen: int, mark: str) -> None:
    """Of our task; nobody works here."""


@pytest.fixture
def make_app(valkey_url: str) -> Iterator[Callable[..., Celery]]:
    """Applications with our task on a broker of this test's."""
    made: list[Celery] = []

    def make(broker: str = valkey_url, **settings: Any) -> Celery:
        app = Celery("template", set_as_current=False)
        app.conf.update(own_settings(load_settings(), broker))
        app.conf.broker_transport_options |= settings.pop("transport", {})
        app.conf.update(settings)
        app.task(name=ADVANCE, **TASK_OPTIONS)(body)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def own_broker() -> Iterator[BrokerService]:
    """A broker for a test that kills or cripples it."""
    service = BrokerService.valkey()
    service.start()
    yield service
    service.close()


def nudge(number: int = 0, **more: Any) -> Nudge:
    given: dict[str, Any] = {"run_id": f"01RUN{number:04}", "strand": "a", "gen": 3, "queue": "q", "mark": number}
    return Nudge(**(given | more))


def raw(url: str) -> dict[str, list[str]]:
    """Everything that waits, by list, oldest first; taken away."""
    with Redis.from_url(url, protocol=2, decode_responses=True) as client:
        keys: Any = [key for key in client.keys("*") if client.type(key) == "list"]
        found: Any = {key: client.lrange(key, 0, -1)[::-1] for key in sorted(keys)}
        client.delete(*keys)
        return dict(found)


def pushes(url: str) -> int:
    """How many times messages were sent to this server."""
    with Redis.from_url(url, protocol=2) as client:
        return int(client.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])


def sent(url: str) -> tuple[str, dict[str, Any]]:
    """The one message that waits, its body decoded, and the list that it waits in."""
    (key, (text,)) = next(iter(raw(url).items()))
    message = json.loads(text)
    return key, message | {"body": json.loads(b64decode(message["body"]))}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    same = {name: value for name, value in message["headers"].items() if name not in IDS}
    properties = {name: value for name, value in message["properties"].items() if name not in IDS}
    return message | {"headers": same, "properties": properties}


def ids(message: dict[str, Any]) -> dict[str, Any]:
    both = message["headers"] | message["properties"]
    return {name: both[name] for name in IDS}


def queue(kind: str, routing_key: str = "q", **more: Any) -> Any:
    make_exchange: Any = Exchange
    make_queue: Any = Queue
    return make_queue("q", make_exchange("q", type=kind), routing_key=routing_key, **more)


NUDGES = {
    "plain": nudge(),
    "priority 0": nudge(priority=0),
    "priority 4": nudge(priority=4),
    "priority 9": nudge(priority=9),
    "a name with signs": nudge(strand='it\'s "ä" \\ 100 %s\n'),
    "a hint": nudge(hint=Hint(12, "0a" * 32, "0b" * 12, 'it\'s a "stage"')),
    "an undo": nudge(strand="undo:a", gen=12, mark=77),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "a prefix": {"transport": {"global_keyprefix": "theirs:"}},
    "steps of priority": {"transport": {"priority_steps": [0, 5, 9], "sep": ":"}},
    "transient": {"task_default_delivery_mode": "transient"},
    "annotated": {"task_annotations": {ADVANCE: {"priority": 6, "time_limit": 99}}},
    "a queue of theirs": {"task_queues": [queue("direct", routing_key="elsewhere")]},
    "routes": {"task_routes": {ADVANCE: {"headers": {"by": "route"}}}},
    "compressed": {"task_compression": "gzip"},
    "a topic exchange": {"task_queues": [queue("topic")]},
    "a queue that expires": {"task_queues": [queue("direct", expires=60.0)]},
}
BY_CELERY = [OPTIONS[name] for name in ("routes", "compressed", "a topic exchange", "a queue that expires")]


def usual(publisher: CeleryPublisher) -> bool:
    """Whether Celery sends each message itself; nothing else shows which way they go, they are the same."""
    assert publisher._quick is not None  # as said
    return publisher._quick._usual  # as said


@pytest.mark.parametrize("given", NUDGES.values(), ids=NUDGES)
@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_given_a_nudge_when_it_is_published_then_every_field_is_as_celery_has_it(
    make_app: Callable[..., Celery], valkey_url: str, given: Nudge, settings: dict[str, Any]
) -> None:
    app = make_app(**settings)
    publisher = CeleryPublisher(app, 50, templates=True)
    publisher.publish((given,))
    ours = raw(valkey_url)
    assert usual(publisher) is (settings in BY_CELERY)
    CeleryPublisher(app, 50).publish((given,))
    theirs = raw(valkey_url)
    assert [(key, len(texts)) for key, texts in ours.items()] == [(key, len(texts)) for key, texts in theirs.items()]
    first, second = (json.loads(next(iter(found.values()))[0]) for found in (ours, theirs))
    assert without_ids(first) == without_ids(second)
    assert list(first["headers"]) == list(second["headers"])
    assert first["headers"]["root_id"] == first["headers"]["id"] == first["properties"]["correlation_id"]


@pytest.mark.parametrize("templates", [True, False])
def test_given_a_task_that_sends_when_it_publishes_then_root_and_parent_are_its_own(
    make_app: Callable[..., Celery], valkey_url: str, templates: bool
) -> None:
    app = make_app()
    task = SimpleNamespace(request=SimpleNamespace(id="me", root_id="root", called_directly=False, is_eager=False,
                                                   delivery_info={}), add_trail=lambda _: None)  # fmt: skip
    _task_stack.push(task)
    try:
        CeleryPublisher(app, 50, templates=templates).publish((nudge(),))
    finally:
        _task_stack.pop()
    _key, message = sent(valkey_url)
    assert (message["headers"]["root_id"], message["headers"]["parent_id"]) == ("root", "me")


@pytest.mark.parametrize(("batches", "sendings"), [(True, 2), (False, template.BATCH + 3)])
def test_given_many_nudges_when_they_are_published_then_each_has_ids_of_its_own_and_they_keep_their_order(
    make_app: Callable[..., Celery], valkey_url: str, batches: bool, sendings: int
) -> None:
    count, before = template.BATCH + 3, pushes(valkey_url)
    CeleryPublisher(make_app(), 50, templates=True, batches=batches).publish(tuple(map(nudge, range(count))))
    assert pushes(valkey_url) - before == sendings
    (texts,) = raw(valkey_url).values()
    messages = [json.loads(text) for text in texts]
    assert [json.loads(b64decode(message["body"]))[0][0] for message in messages] == [
        f"01RUN{number:04}" for number in range(count)
    ]
    for name in ("id", "delivery_tag"):
        assert len({ids(message)[name] for message in messages}) == count


def test_given_many_links_when_a_template_is_used_then_one_is_sent(
    make_app: Callable[..., Celery], valkey_url: str
) -> None:
    CeleryPublisher(make_app(), 1, templates=True).publish((nudge(links=7),))
    _key, message = sent(valkey_url)
    assert message["body"][0] == ["01RUN0000", "a", 3, "0.0"]
    assert message["body"][2]["chain"] is None


@pytest.mark.parametrize("signal", [before_task_publish, after_task_publish])
def test_given_a_receiver_that_was_connected_late_when_a_nudge_is_published_then_it_is_called(
    make_app: Callable[..., Celery], valkey_url: str, signal: Any
) -> None:
    publisher, seen = CeleryPublisher(make_app(), 50, templates=True), []
    publisher.publish((nudge(),))

    def receiver(sender: str, **_more: Any) -> None:
        seen.append(sender)

    signal.connect(receiver)
    try:
        publisher.publish((nudge(),))
    finally:
        signal.disconnect(receiver)
    publisher.publish((nudge(),))
    assert seen == [ADVANCE]
    assert [len(texts) for texts in raw(valkey_url).values()] == [3]


class Counting(Task):  # type: ignore[misc]  # Celery has no types
    """A task class of theirs."""

    calls = 0

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Theirs."""
        type(self).calls += 1
        return super().apply_async(*args, **options)


def test_given_a_task_class_of_theirs_when_a_nudge_is_published_then_it_goes_through_it(valkey_url: str) -> None:
    app = Celery("template", set_as_current=False, task_cls=Counting)
    app.conf.update(own_settings(load_settings(), valkey_url))
    app.task(name=ADVANCE, **TASK_OPTIONS)(body)
    CeleryPublisher(app, 50, templates=True).publish((nudge(),))
    assert type(app.tasks[ADVANCE]).calls == 1
    app.close()


def test_given_a_tracer_that_patches_celery_when_a_nudge_is_published_then_it_is_asked(
    make_app: Callable[..., Celery], valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, seen = Task.apply_async, []

    def patched(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(self.name)
        return theirs(self, *args, **options)

    app = make_app()
    monkeypatch.setattr(Task, "apply_async", patched)
    CeleryPublisher(app, 50, templates=True).publish((nudge(),))
    assert seen == [ADVANCE]


def test_given_another_transport_when_a_nudge_is_published_then_celery_sends_it(
    make_app: Callable[..., Celery],
) -> None:
    app = make_app("memory://", broker_transport_options={})
    CeleryPublisher(app, 50, templates=True).publish((nudge(),))
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("q").get(block=False)
        assert message.payload[0] == ["01RUN0000", "a", 3, "0.0"]


def test_given_a_process_that_forks_when_the_child_publishes_then_connections_and_origin_are_its_own(
    make_app: Callable[..., Celery], valkey_url: str
) -> None:
    publisher = CeleryPublisher(make_app(), 50, templates=True)
    publisher.publish((nudge(1),))
    child = os.fork()
    if child == 0:
        try:
            publisher.publish((nudge(2),))
            os._exit(0)
        except BaseException:  # noqa: BLE001  # a child of a test must not run the rest of it
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    publisher.publish((nudge(3),))
    (texts,) = raw(valkey_url).values()
    origins = [json.loads(text)["headers"]["origin"] for text in texts]
    assert origins[0] == origins[2] != origins[1]


def test_given_a_broker_on_a_local_socket_when_nudges_are_published_then_templates_are_used(
    make_app: Callable[..., Celery], own_broker: BrokerService
) -> None:
    app = make_app(f"redis+socket://:{own_broker.password}@{own_broker.socket}?virtual_host=0")
    publisher = CeleryPublisher(app, 50, templates=True)
    publisher.publish((nudge(1),))
    publisher.publish((nudge(2),))
    assert not usual(publisher)
    assert len(raw(own_broker.url)["q"]) == 2


def test_given_another_thread_that_forgets_the_templates_when_a_nudge_is_published_then_it_is_sent(
    make_app: Callable[..., Celery], valkey_url: str
) -> None:
    class Forgotten(dict[Any, Any]):
        def __setitem__(self, kind: Any, made: Any) -> None:
            super().__setitem__(kind, made)
            self.clear()

    publisher = CeleryPublisher(make_app(), 50, templates=True)
    assert publisher._quick is not None  # as said
    publisher._quick._templates = Forgotten()
    publisher.publish((nudge(),))
    assert len(raw(valkey_url)["q"]) == 1


def test_given_a_broker_that_went_away_and_came_back_when_nudges_are_published_then_they_are_refused_or_taken(
    make_app: Callable[..., Celery], own_broker: BrokerService
) -> None:
    publisher = CeleryPublisher(make_app(own_broker.url), 50, templates=True)
    publisher.publish((nudge(1),))
    own_broker.kill()
    with pytest.raises(BrokerUnavailable):
        publisher.publish((nudge(2),))
    own_broker.start()
    time.sleep(AGAIN_SECONDS)  # until then a publisher that found nobody does not try
    publisher.publish((nudge(3),))
    assert "01RUN0003" in raw(own_broker.url)["q"][-1]


@pytest.mark.parametrize("refusal", ["full", "readonly"])
def test_given_a_broker_that_refuses_when_a_nudge_is_published_then_it_is_said_so(
    make_app: Callable[..., Celery], own_broker: BrokerService, refusal: str
) -> None:
    publisher = CeleryPublisher(make_app(own_broker.url), 50, templates=True)
    publisher.publish((nudge(1),))
    with own_broker.client() as client:
        if refusal == "full":
            client.config_set("maxmemory", 1)
        else:
            client.replicaof("127.0.0.1", free_port())
        with pytest.raises(BrokerUnavailable):
            publisher.publish((nudge(2),))
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")
    publisher.publish((nudge(3),))
    assert ["01RUN0001" in text or "01RUN0003" in text for text in raw(own_broker.url)["q"]] == [True, True]


def test_given_no_broker_at_the_first_message_when_one_comes_then_templates_are_used(
    make_app: Callable[..., Celery],
) -> None:
    port = free_port()
    publisher = CeleryPublisher(make_app(f"redis://127.0.0.1:{port}/0"), 50, templates=True)
    with pytest.raises(BrokerUnavailable):
        publisher.publish((nudge(),))
    assert not usual(publisher)


def test_given_a_list_of_brokers_when_the_first_is_away_then_celery_finds_the_other(
    make_app: Callable[..., Celery], valkey_url: str
) -> None:
    app = make_app(f"redis://127.0.0.1:{free_port()}/0;{valkey_url}")
    CeleryPublisher(app, 50, templates=True).publish((nudge(),))
    assert len(raw(valkey_url)["q"]) == 1


def test_given_an_application_without_time_limits_when_the_broker_stands_still_then_it_is_said_so_in_bounded_time(
    make_app: Callable[..., Celery], own_broker: BrokerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(template.BOUNDS, "socket_timeout", 0.2)
    app = make_app(own_broker.url)
    app.conf.broker_transport_options = {}
    publisher = CeleryPublisher(app, 50, templates=True)
    publisher.publish((nudge(1),))
    own_broker.pause()
    try:
        with pytest.raises(BrokerUnavailable):
            publisher.publish((nudge(2),))
    finally:
        own_broker.resume()


def test_ids_are_random_uuids_as_celerys_are() -> None:
    made = {text for _ in range(100) for text in template._uuids()}
    assert len(made) == 200
    for text in made:
        parsed = UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, RFC_4122)
