"""The database's clock, in seconds since the epoch: the only clock by which leases and due times are compared."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SQLITE_CLOCK = "stageflow_now"
"""Name of the function that each SQLite connection carries; a simulation registers its own."""


class now(FunctionElement[float]):  # noqa: N801  # named like the SQL function that it is
    """``clock_timestamp()`` as seconds; moves on within a transaction, unlike ``now()`` of PostgreSQL."""

    type = Double()
    inherit_cache = True


def ago(seconds: Any) -> Any:
    """That many seconds before :class:`now`, told once a statement: a clock that moves on within a statement has to be
    asked for every row, which no index helps with.
    """
    return select(now() - seconds).scalar_subquery()


@compiles(now, "postgresql")
def _postgresql(_element: now, _compiler: Any, **_kw: Any) -> str:
    return "date_part('epoch', clock_timestamp())"  # "extract" would count in numeric, which costs more


@compiles(now, "sqlite")
def _sqlite(_element: now, _compiler: Any, **_kw: Any) -> str:
    return f"{SQLITE_CLOCK}()"
