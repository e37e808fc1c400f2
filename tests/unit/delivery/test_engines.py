"""Several engines on one Celery application, and what a starting worker consumes for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from stageflow_durable import Engine, Pipeline
from stageflow_durable.delivery import consumed
from stageflow_durable.delivery.engines import engines_of
from stageflow_durable.delivery.worker import own_application
from stageflow_durable.errors import ConfigurationError


def app() -> Celery:
    return Celery("theirs", broker="memory://", set_as_current=False)


def engine(name: str, on: Celery, *pipelines: str) -> Engine:
    made = [Pipeline[Any, Any](pipeline).stage("a", lambda ctx: None) for pipeline in pipelines]
    return Engine(name, made, celery_app=on, database_url="sqlite:///unused.db")


def test_two_engines_of_one_name_on_one_application_are_refused_by_name() -> None:
    theirs = app()
    engine("shop", theirs)
    with pytest.raises(ConfigurationError, match="already has an engine named 'shop'"):
        engine("shop", theirs)


def test_an_engine_that_was_closed_is_replaced() -> None:
    theirs = app()
    engine("shop", theirs).close()
    engine("shop", theirs)
    assert [member.name for member in engines_of(theirs)[0]] == ["shop"]


def test_each_engines_runs_go_to_its_own_process() -> None:
    theirs = app()
    near = {"billing": 1, "mail": 3}
    for name in near:
        engine(name, theirs)
    engines, first = engines_of(theirs)
    assert not first
    for member in engines:
        process = SimpleNamespace(name=member.name, nearness=lambda _run, of=member.name: near[of])
        object.__setattr__(member.lifecycle, "working", lambda one=process: one)
    found: Any = engines.process_of("01M8KM1TEPJGBY5XNSXSWW1WS1")
    assert found.name == "mail"
    unreadable: Any = engines.process_of(7)
    assert unreadable.name == "billing"


def worker(of: Celery, *chosen: str) -> Any:
    if chosen:
        of.amqp.queues.select(chosen)
    return SimpleNamespace(app=of)


OURS = ("stageflow-shop", "stageflow", "gpu")


def own() -> Celery:
    return own_application("shop", lambda: {"broker_url": "memory://", "task_default_queue": "stageflow-shop"})


def test_a_worker_of_an_engines_own_application_serves_its_queue_and_the_default_of_older_releases() -> None:
    starting = worker(own())
    consumed.settle(starting, "shop", OURS)
    assert set(starting.app.amqp.queues.consume_from) == {"stageflow-shop", "stageflow"}


def test_what_the_caller_chose_is_left_alone() -> None:
    starting = worker(own(), "gpu")
    consumed.settle(starting, "shop", OURS)
    assert set(starting.app.amqp.queues.consume_from) == {"gpu"}


def test_a_worker_that_was_told_the_default_of_older_releases_serves_the_new_one_too() -> None:
    starting = worker(app(), "celery", "stageflow")
    consumed.settle(starting, "shop", OURS)
    assert set(starting.app.amqp.queues.consume_from) == {"celery", "stageflow", "stageflow-shop"}


def test_with_a_queue_of_its_own_choice_an_engine_has_nothing_to_do_with_the_old_default() -> None:
    starting = worker(app(), "celery", "stageflow")
    consumed.settle(starting, "shop", ("orders",))
    assert set(starting.app.amqp.queues.consume_from) == {"celery", "stageflow"}


def without_json() -> Celery:
    theirs = app()
    theirs.conf.update(accept_content=["pickle"])
    return theirs


def test_a_worker_that_takes_no_json_says_so_and_serves_none_of_our_queues(caplog: pytest.LogCaptureFixture) -> None:
    starting = worker(without_json(), "celery", "stageflow-shop")
    consumed.settle(starting, "shop", OURS)
    assert set(starting.app.amqp.queues.consume_from) == {"celery"}
    (record,) = caplog.records
    assert "accepts pickle and no JSON" in record.getMessage()
    assert 'celery_app.conf.accept_content = ["pickle", "json"]' in record.getMessage()


def test_one_that_would_have_nothing_else_to_do_does_not_start() -> None:
    with pytest.raises(SystemExit, match="engine 'shop': the Celery application accepts pickle and no JSON"):
        consumed.settle(worker(without_json(), "stageflow-shop"), "shop", OURS)


def test_such_an_application_cannot_enqueue() -> None:
    refusing = engine("shop", without_json(), "p")
    with pytest.raises(ConfigurationError, match="no JSON"):
        refusing.enqueue("p", {})


def test_what_a_worker_consumes_is_known_to_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONSUMED", "WORKER_OF"):
        monkeypatch.setenv(f"STAGEFLOW_INTERNAL_{name}", "")
    consumed.remember(worker(app(), "b", "a"), ["shop"])
    assert consumed.consumed() == ("a", "b")
    assert consumed.is_worker_of("shop")
    monkeypatch.delenv("STAGEFLOW_INTERNAL_CONSUMED")
    assert consumed.consumed() is None


def test_an_engine_that_a_workers_process_merely_imports_does_not_pass_for_a_worker_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAGEFLOW_INTERNAL_WORKER_OF", '["shop"]')
    theirs, begun = app(), []
    for name in ("shop", "imported"):
        life = engine(name, theirs)._lifecycle
        object.__setattr__(life, "child_started", lambda one=name: begun.append(one))
    engines_of(theirs)[0].child_started()
    assert begun == ["shop"]
