"""Settings of a Celery application that our task is safe with. Each line answers a way in which Celery loses or
doubles work.
"""

from __future__ import annotations

from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Settings

ADVANCE = "stageflow.advance"
SWEEP = "stageflow.sweep"
BEAT_ENTRY = "stageflow-sweep"

TASK_OPTIONS: dict[str, Any] = {
    # A child that dies gives its message back; the row decides whether there is anything left to do.
    "acks_late": True,
    "reject_on_worker_lost": True,
    "acks_on_failure_or_timeout": True,
    # Results live in SQL: a result backend that is away must not hold a child.
    "ignore_result": True,
    "store_errors_even_if_ignored": False,
    "track_started": False,
    # Attempts and delays are rows; Celery's own counters have no say.
    "max_retries": None,
    "serializer": "json",
    "shared": False,
}


def own_settings(settings: Settings, broker_url: str) -> dict[str, Any]:
    """For an application that is the engine's own. Raises ConfigurationError."""
    refuse_unnamed_master(settings, broker_url)
    return {
        "broker_url": broker_url,
        "result_backend": None,
        "task_default_queue": settings.queue,
        "task_ignore_result": True,
        "worker_enable_remote_control": settings.remote_control != "off",
        **worker_settings(settings),
    }


def worker_settings(settings: Settings) -> dict[str, Any]:
    """Worker-wide settings; an adopted application takes them, or not, itself."""
    return {
        "worker_consumer": "stageflow_durable.delivery.consumer:SturdyConsumer",
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_soft_shutdown_timeout": 10.0,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A broker that refuses writes for a while (its memory is full, it is a replica) is one to come back to, not
        # one to end over.
        "broker_channel_error_retry": True,
        "broker_connection_timeout": 4.0,
        "broker_transport_options": transport_options(settings),
        # A stage that runs while the broker is away goes on: its commit needs the database alone, and the message that
        # comes again finds nothing to take. Ending it would only put its outcome in doubt.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "beat_schedule": {
            BEAT_ENTRY: {
                "task": SWEEP,
                "schedule": max(1.0, settings.sweep_seconds),
                "options": {"queue": settings.queue, "expires": 10.0, "ignore_result": True},
            }
        },
    }


def settings_beside(theirs: Any, settings: Settings) -> dict[str, Any]:
    """Worker-wide settings to lay over an adopted application's: its schedule and its other transport options stay."""
    ours = worker_settings(settings)
    del ours["beat_schedule"]
    options = {**(theirs.broker_transport_options or {}), **ours["broker_transport_options"]}
    return {**ours, "broker_transport_options": options}


def transport_options(settings: Settings) -> dict[str, Any]:
    """For Redis: half-open connections show within seconds, unacknowledged messages come back only when nobody can
    still work on them.

    Not among them: ``retry_on_timeout``. With it redis-py connects a lost subscription again behind kombu's back and
    reads on, without a limit, in the worker's event loop, which stands still from then on.
    """
    return {
        **_sentinels(settings),
        "visibility_timeout": settings.visibility_timeout,
        "socket_timeout": 10.0,
        "socket_connect_timeout": 4.0,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }


def _sentinels(settings: Settings) -> dict[str, Any]:
    if settings.sentinel_master is None:
        return {}
    password = settings.sentinel_password
    # What sentinels are asked with; user and password of the URL are the master's.
    asked = {"socket_timeout": 4.0, "socket_connect_timeout": 4.0, **({"password": password} if password else {})}
    return {"master_name": settings.sentinel_master, "sentinel_kwargs": asked}


def refuse_unnamed_master(settings: Settings, broker_url: str) -> None:
    """Raise ConfigurationError for a broker behind sentinels whose master has no name: nothing could be published."""
    if "sentinel://" in broker_url and settings.sentinel_master is None:
        raise ConfigurationError(
            "a broker at sentinel:// needs the master's name: set STAGEFLOW_SENTINEL_MASTER (and, where the sentinels "
            "ask for one, STAGEFLOW_SENTINEL_PASSWORD), or hand over an application that has it in its "
            "broker_transport_options: Engine(celery_app=…)"
        )
