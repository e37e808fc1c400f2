"""Opening the store, and operations that need no application."""

from __future__ import annotations

from stageflow_durable.settings import Settings, Urls
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import Store


def open_store(settings: Settings, urls: Urls) -> Store:
    """The store that the settings name; nothing is connected yet."""
    database = Database(urls.database_url, synchronous=settings.sqlite_synchronous)
    key = urls.audit_key or settings.audit_key or ""
    return Store(database, key.encode())
