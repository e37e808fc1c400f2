"""What the suites of the protocol stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services.postgres import PostgresService


@pytest.fixture(scope="module")
def migrated_url(postgres_service: PostgresService, migrated_postgres: str) -> Iterator[str]:
    """A migrated database of a module's own, on PostgreSQL."""
    made = postgres_service.create_database(migrated_postgres)
    yield made
    postgres_service.drop_database(made)
