"""What an adopted application takes over with ``app.conf.update(engine.worker_settings())``, and what stays its own."""

from __future__ import annotations

from celery import Celery

from stageflow_durable import Engine
from stageflow_durable.cli import checks
from stageflow_durable.delivery.probes import celery_facts

THEIRS = {"theirs": {"task": "theirs.add", "schedule": 60.0}}


def adopted() -> tuple[Celery, Engine]:
    app = Celery("theirs", broker="redis://h", set_as_current=False)
    app.conf.update(
        beat_schedule=dict(THEIRS),
        broker_transport_options={"global_keyprefix": "theirs:", "visibility_timeout": 5},
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_prefetch_multiplier=4,
        accept_content=["json", "yaml"],
    )
    return app, Engine("shop", celery_app=app, database_url="sqlite:///unused.db")


def test_their_schedule_and_their_transport_options_stay() -> None:
    app, engine = adopted()
    app.conf.update(engine.worker_settings())
    assert app.conf.beat_schedule == THEIRS
    assert app.conf.broker_transport_options["global_keyprefix"] == "theirs:"
    assert app.conf.broker_transport_options["visibility_timeout"] == engine.settings.visibility_timeout


def test_each_line_that_doctor_advises_fixes_what_it_names() -> None:
    app, engine = adopted()
    unsafe = [check for check in checks.application(celery_facts(engine.celery_app)) if check.fix]
    assert len(unsafe) == 5
    for check in unsafe:
        exec(check.fix or "", {"celery_app": app})  # the line that a person would copy
    assert [check for check in checks.application(celery_facts(engine.celery_app)) if check.fix] == []
    assert app.conf.beat_schedule == THEIRS


def test_an_engines_own_application_has_the_sweep_in_its_schedule() -> None:
    engine = Engine("shop", database_url="sqlite:///unused.db", broker_url="memory://")
    assert list(engine.celery_app.conf.beat_schedule) == ["stageflow-sweep"]
    assert not celery_facts(engine.celery_app).adopted
