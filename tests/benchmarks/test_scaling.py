"""What docs/explanation/scaling.md says about partitions and replicas, on PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import time

import psycopg
import pytest

from stageflow_durable.model.keys import new_run_id
from tests.benchmarks.bench import DURABLE, opened
from tests.benchmarks.start import STAGEFLOW
from tests.benchmarks.worker import ROOT

TABLES = ("strands", "attempts", "checkpoints", "saga_steps", "events")
DAY = 86_400_000
PARTITIONED = (
    "ALTER TABLE {table} RENAME TO {table}_before",
    "CREATE TABLE {table} (LIKE {table}_before INCLUDING ALL) PARTITION BY RANGE (run)",
    "CREATE TABLE {table}_old PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO ('{today}')",
    "CREATE TABLE {table}_today PARTITION OF {table} FOR VALUES FROM ('{today}') TO ('{tomorrow}')",
)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
def test_given_partitions_by_the_time_of_run_ids_when_a_worker_carries_runs_then_they_lie_in_todays() -> None:
    now = int(time.time() * 1000)
    today, tomorrow = new_run_id(now - DAY)[:10], new_run_id(now + DAY)[:10]
    with opened() as bench:
        database = bench.database()
        with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in PARTITIONED:
                for table in TABLES:
                    words = {"table": f"stageflow_{table}", "today": today, "tomorrow": tomorrow}
                    connection.execute(statement.format(**words).encode())
            bench.side(database, DURABLE).pace(10, 2)
            placed = "SELECT tableoid::regclass::text, count(*) FROM stageflow_checkpoints GROUP BY 1"
            assert connection.execute(placed).fetchall() == [("stageflow_checkpoints_today", 120)]
            connection.execute("DROP TABLE stageflow_checkpoints_today")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.postgres
def test_given_a_database_that_refuses_writes_when_somebody_only_looks_then_all_is_shown() -> None:
    with opened() as bench:
        bench.durable.pace(1, 1)
        url, run = bench.durable.url, bench.durable.one_finished()
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        environment = os.environ | {"STAGEFLOW_DATABASE_URL": url, "STAGEFLOW_BROKER_URL": bench.broker.url}
        said = {"runs": "succeeded", "show": run[:12], "workers": "alive", "audit": "all whole"}
        for words in (["runs"], ["show", run], ["workers"], ["audit", "verify"]):
            command = [STAGEFLOW, "--app", "tests.benchmarks.durable_app:engine", *words]
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert said[words[0]] in done.stdout + done.stderr
