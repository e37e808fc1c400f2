"""Which database and broker a module's tests run on: each pair of choices somewhere, not every test everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Pair:
    """A database, a broker, and settings that differ from the site's."""

    database: str
    broker: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For test ids."""
        return f"{self.database}+{self.broker}"


SQLITE_VALKEY = Pair("sqlite", "valkey")
SQLITE_REDIS = Pair("sqlite", "redis")
POSTGRES_VALKEY = Pair("postgres", "valkey")
POSTGRES_REDIS = Pair("postgres", "redis")


def on(*pairs: Pair, **settings: Any) -> pytest.MarkDecorator:
    """Run a module's tests on these pairs. ``settings``: of workers and client."""
    used = [Pair(pair.database, pair.broker, settings) for pair in pairs]
    chosen = [pytest.param(pair, id=pair.name, marks=_marks(pair)) for pair in used]
    return pytest.mark.parametrize("bare_site", chosen, indirect=True, scope="module")


def _marks(pair: Pair) -> list[pytest.MarkDecorator]:
    return [pytest.mark.redis, *([pytest.mark.postgres] if pair.database == "postgres" else [])]
