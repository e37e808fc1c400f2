"""Statements are compiled once for all the databases of a test session, as a process does for its one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

Key = tuple[Any, ...]


class Shared(dict[Key, Any]):
    """SQLAlchemy's cache of compiled statements, by the kind of database instead of by the one database.

    Each test has a database of its own, which would compile every statement again.
    """

    def get(self, key: Key, default: Any = None) -> Any:
        """What was compiled for any database of that kind."""
        return super().get(_of_kind(key), default)

    def __setitem__(self, key: Key, compiled: Any) -> None:
        super().__setitem__(_of_kind(key), compiled)


def sharing(create_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    """``create_engine`` whose engines have one such cache together."""
    shared = Shared()

    def create(*given: Any, **options: Any) -> Engine:
        engine = create_engine(*given, **options)
        engine.update_execution_options(compiled_cache=shared)
        return engine

    return create


def _of_kind(key: Key) -> Key:
    dialect, *what = key
    return (dialect.name, dialect.driver, *what)
