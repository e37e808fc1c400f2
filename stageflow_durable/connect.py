"""Opening the store that the settings name, and operations that need no application.

Here and in ``application`` the engine meets a concrete store; the engine itself knows the protocol alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from stageflow_durable.clock import system_world
from stageflow_durable.engine.awaiting import Announcer, Awaiting
from stageflow_durable.engine.operations import DatabaseOperations
from stageflow_durable.engine.ports import NoPublisher
from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.idempotency.channels import RedisChannels
from stageflow_durable.masking import mask_also, masking
from stageflow_durable.settings import Settings, Urls, listed
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.protocol import Store

log = masking(logging.getLogger("stageflow.await"))


def open_store(settings: Settings, urls: Urls) -> SqlStore:
    """The store that the settings name; nothing is connected yet."""
    return _store(settings, urls.database_url, urls.audit_key)


def open_operations(settings: Settings) -> DatabaseOperations:
    """Operations without an application: what they set going is delivered by the workers' next sweep."""
    urls = settings.require() if settings.database_url is None else None
    mask_also(listed(settings.redact))
    store = _store(settings, settings.require_database(), urls.audit_key if urls is not None else None)
    world, publisher = system_world(), NoPublisher()
    redis_url = urls.redis_url if urls is not None else settings.redis_url
    awaiting = let_await(store, redis_url)
    return DatabaseOperations(
        store,
        publisher,
        Sweeper(store, publisher, Patience.of(settings)),
        world.clock,
        payload_bytes=settings.max_payload_bytes,
        awaiting=awaiting,
    )


def let_await(store: Store, redis_url: str | None) -> Awaiting:
    """Let this process await the runs of a store, and tell those that do elsewhere. Nothing is connected yet."""
    channels = None
    if redis_url is not None:
        try:
            channels = RedisChannels(redis_url)
        except ConfigurationError as error:
            log.warning("%s; nobody who awaits a run is told there", error)
    store.announce_by(Announcer(store, channels))
    return Awaiting(store, channels)


def _store(settings: Settings, database_url: str, audit_key: str | None) -> SqlStore:
    database = Database(database_url, synchronous=settings.sqlite_synchronous, prepares=settings.prepared_statements)
    return store_on(database, settings, audit_key)


def memory_store(settings: Settings, clock: Callable[[], float]) -> MemoryStore:
    """A store in memory that seals as the settings want it. ``clock``: seconds since the epoch."""
    old = tuple(key.encode() for key in listed(settings.old_audit_keys))
    return MemoryStore((settings.audit_key or "").encode(), old, clock=clock)


def store_on(database: Database, settings: Settings, audit_key: str | None = None) -> SqlStore:
    """A store as the settings want it."""
    key = (audit_key or settings.audit_key or "").encode()
    switches = {
        "optimistic": settings.optimistic,
        "prepares": settings.prepared_statements,
        "batches": settings.batches,
        "hints": settings.hints,
    }
    return SqlStore(database, key, tuple(old.encode() for old in listed(settings.old_audit_keys)), **switches)
