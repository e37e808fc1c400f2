"""The database's URL: which it may be, and what it needs of this installation; refused with the way out."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.state.trouble import misspelt

_NAME = "STAGEFLOW_DATABASE_URL"
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",  # Heroku's spelling
    "postgresql+psycopg": "postgresql+psycopg",
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
}
_OF_SQLITE = frozenset({"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements", "uri"})
_OF_SQLITE_URI = frozenset({"mode", "cache", "immutable", "nolock", "psow", "vfs", "modeof"})


def parsed(url: str) -> URL:
    """The URL of a database that is supported. Raises ConfigurationError, without its password."""
    try:
        found = make_url(url)
    except Exception as error:  # SQLAlchemy's ArgumentError quotes the URL, with its password
        raise ConfigurationError(f"{_NAME} is not a SQLAlchemy URL, e.g. postgresql+psycopg://user@host/db") from error
    driver = _DRIVERS.get(found.drivername)
    if driver is None:
        raise ConfigurationError(_unsupported(found.drivername))
    return found.set(drivername=driver)


def _unsupported(written: str) -> str:
    kind, plus, driver = written.partition("+")
    if plus and kind in _DRIVERS:
        return f"{_NAME}: {kind} by way of {driver} is not supported; write {_DRIVERS[kind]}://…"
    return f"{_NAME}: {kind} is not supported; use PostgreSQL or SQLite"


def usable(url: URL) -> None:
    """Raise ConfigurationError where the driver is not installed, or the URL has an option that it does not know."""
    dialect = url.get_dialect()
    try:
        dialect.import_dbapi()
        known = _options_of(url)
    except ImportError as error:
        raise ConfigurationError(_missing(error)) from error
    for name in url.query:
        if name not in known:
            raise misspelt(f'invalid connection option "{name}"')
    try:
        dialect().create_connect_args(url)
    except ValueError as error:
        raise misspelt(f"bad value for an option: {error}") from error


def _options_of(url: URL) -> frozenset[str]:
    if url.get_backend_name() == "sqlite":
        return _OF_SQLITE | _OF_SQLITE_URI if (url.database or "").startswith("file:") else _OF_SQLITE
    from psycopg import pq

    return frozenset(one.keyword.decode() for one in pq.Conninfo.get_defaults())


def _missing(error: ImportError) -> str:
    if error.name == "psycopg":
        return "PostgreSQL needs its driver, psycopg: pip install 'stageflow_durable[postgres]'"
    return f"psycopg cannot be used ({str(error).splitlines()[0]}): pip install 'stageflow_durable[postgres]'"
