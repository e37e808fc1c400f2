"""Looking at a broker and at a Celery application without changing either: what ``stageflow doctor`` judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection

from stageflow_durable.delivery.configure import ADVANCE
from stageflow_durable.delivery.spawned import Application
from stageflow_durable.errors import StageflowError
from stageflow_durable.idempotency.redis_link import link_to
from stageflow_durable.idempotency.script import Script
from stageflow_durable.masking import masked

_connect: Callable[..., Any] = Connection  # kombu's own signature is untyped


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """A Redis or Valkey server, by its INFO. ``maxmemory`` in bytes, 0: no limit; None: it does not say."""

    server: str
    version: tuple[int, ...]
    policy: str | None
    maxmemory: int | None
    append_only: bool | None


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """A broker as it answers. ``error``: why it did not; ``redis``: None where it is not Redis or does not tell."""

    transport: str
    error: str | None = None
    redis: RedisFacts | None = None


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """Options of the engine's task, as whatever overrides them leaves them."""

    acks_late: bool
    reject_on_worker_lost: bool
    ignore_result: bool


@dataclass(frozen=True, slots=True)
class CeleryFacts:
    """Settings of a Celery application that decide what a crash loses. ``cancels``: whether a worker that loses its
    broker ends the stages that run; ``adopted``: whether the application was there before the engine; ``obeys``: which
    of Celery's remote commands its workers do: ``look``, ``all`` or ``off``.
    """

    version: tuple[int, ...]
    task: TaskFacts | None
    worker_consumer: str
    prefetch_multiplier: int
    accept_content: tuple[str, ...]
    result_backend: str | None
    visibility_timeout: float | None
    broker_url: str | None
    cancels: bool = False
    adopted: bool = False
    obeys: str = "look"


def probe_broker(url: str, *, timeout: float = 3.0, app: Any = None) -> BrokerFacts:
    """Ask the broker at a kombu ``url``, or as ``app``, a Celery application, reaches it: with its transport options,
    its TLS and its other URLs. Answers within a few ``timeout`` seconds, reachable or not; whatever keeps it from
    asking is the answer.
    """
    transport = url.partition("://")[0]
    bounds = {"connect_timeout": timeout, "transport_options": _bounded(timeout)}
    try:
        with _connect(url, **bounds) if app is None else app.connection_for_write(**bounds) as connection:
            transport = str(connection.transport_cls)
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=timeout)
            return BrokerFacts(transport, redis=_redis_facts(connection) if _speaks_redis(transport) else None)
    except Exception as error:  # noqa: BLE001  # a transport raises what it likes over an option that it lacks
        said = masked(str(error)).strip().partition("\n")[0]
        return BrokerFacts(transport, error=said or type(error).__name__)


def probe_claims(url: str, *, timeout: float = 3.0) -> str | None:
    """Why claims cannot be kept in Redis at ``url``; None: they can."""
    link = None
    try:
        link = link_to(url, timeout)
        link.run(_PONG, "stageflow:doctor")
    except StageflowError as error:
        return str(error)
    finally:
        if link is not None:
            link.close()
    return None


_PONG = Script("return redis.call('EXISTS', KEYS[1])")


def _bounded(timeout: float) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout, "max_retries": 1}


def _speaks_redis(transport: str) -> bool:
    return transport in ("redis", "rediss", "sentinel")


def _redis_facts(connection: Any) -> RedisFacts | None:
    try:
        info: Mapping[str, Any] = connection.default_channel.client.info()
    except Exception:  # noqa: BLE001  # an ACL without INFO, a proxy: reachable, but it does not tell
        return None
    server = "valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "redis"
    version = str(info.get(f"{server}_version") or info.get("redis_version") or "0")
    aof = info.get("aof_enabled")
    return RedisFacts(
        server,
        numbers(version),
        info.get("maxmemory_policy"),
        info.get("maxmemory"),
        None if aof is None else bool(aof),
    )


def celery_facts(app: Any) -> CeleryFacts:
    """The settings of a Celery application, as a worker of it would see them."""
    import celery

    conf = app.conf
    task = app.tasks.get(ADVANCE)
    options = conf.broker_transport_options or {}
    return CeleryFacts(
        version=numbers(celery.__version__),
        task=None if task is None else _task_facts(task),
        worker_consumer=str(conf.worker_consumer),
        prefetch_multiplier=int(conf.worker_prefetch_multiplier),
        accept_content=("json",) if conf.accept_content is None else tuple(map(str, conf.accept_content)),
        result_backend=conf.result_backend,
        visibility_timeout=options.get("visibility_timeout"),
        broker_url=conf.broker_url,
        cancels=bool(conf.worker_cancel_long_running_tasks_on_connection_loss),
        adopted=not isinstance(app, Application),
        obeys=_obeys(app),
    )


def _obeys(app: Any) -> str:
    if not app.conf.worker_enable_remote_control:
        return "off"
    return str(app.stageflow.settings.remote_control) if isinstance(app, Application) else "all"


def _task_facts(task: Any) -> TaskFacts:
    return TaskFacts(bool(task.acks_late), bool(task.reject_on_worker_lost), bool(task.ignore_result))


def numbers(version: str) -> tuple[int, ...]:
    """``"7.2.4"`` as ``(7, 2, 4)``; what is not a number ends it."""
    found: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)
