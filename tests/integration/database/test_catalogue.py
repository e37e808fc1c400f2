"""What is read of PostgreSQL's own catalogue."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine

from stageflow_durable.state import schema, sinks

EVENT = (
    "INSERT INTO stageflow_events (run, item, seq, type, at, data, previous, mac) "
    "SELECT 'R' || n, 0, 1, 'run.accepted', 0, '{}', '', '' FROM generate_series(1, 1000) AS n"
)


def test_a_transaction_that_is_prepared_is_waited_for_as_any_other(migrated_postgres_url: str) -> None:
    engine = create_engine(migrated_postgres_url)
    with engine.connect() as writer, engine.connect() as reader:
        if writer.exec_driver_sql("SHOW max_prepared_transactions").scalar_one() == "0":
            pytest.skip("this server prepares no transactions (max_prepared_transactions)")
        writer.rollback()
        two_phases = writer.begin_twophase()
        writer.exec_driver_sql(EVENT)
        before = sinks.horizon(reader, None)
        two_phases.prepare()
        assert sinks.horizon(reader, before).writers == before.writers != frozenset()
        assert sinks.horizon(reader, None).writers == before.writers
        two_phases.commit()
        assert sinks.horizon(reader, before).writers == frozenset()
    engine.dispose()


def test_a_table_that_was_never_analysed_is_not_taken_for_an_empty_one(migrated_postgres_url: str) -> None:
    engine = create_engine(migrated_postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE stageflow_events SET (autovacuum_enabled = off)")
        connection.exec_driver_sql(EVENT)
    with engine.connect() as connection:
        assert 200 < schema._rows(connection, "events") < 5000
    engine.dispose()
