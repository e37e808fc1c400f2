"""``python -m tests.benchmarks.upgrade [RUNS]``: how long ``stageflow db upgrade`` takes beside so many finished runs.

PostgreSQL, flushing to disk, from the schema before the newest; each run has three stages, one of them with an undo.
"""

from __future__ import annotations

import sys
import time

from alembic import command
from sqlalchemy import text

from stageflow_durable.model.plan import Plan, PlannedStage
from stageflow_durable.state import schema
from stageflow_durable.state.database import Database
from tests.services.postgres import PostgresService

BEFORE = "0006"
MILLION = 1_000_000
PIECE = 100_000
_PLAN = Plan(
    "line", "1", tuple(PlannedStage(name, after=after) for name, after in (("a", ()), ("b", ("a",)), ("c", ("b",))))
)
_ID = "lpad(n::text, 26, '0')"
_EACH = "generate_series(CAST(:first AS integer), CAST(:last AS integer))"
_CODE = "md5(n::text) || md5((-n)::text)"
_FILL = (
    f"""INSERT INTO stageflow_runs (id, client_id, pipeline, version, fingerprint, definition, input, metadata, queue,
    phase, status, seq, head, created_at, updated_at, finished_at)
    SELECT {_ID}, 'web', 'line', '1', {_CODE}, :digest, '{{"order_id": "A-1"}}', '{{}}', 'q', 'settled', 'succeeded', 5,
    {_CODE}, n, n + 1, n + 1 FROM {_EACH} n""",
    f"""INSERT INTO stageflow_strands (run, strand, direction, stage, state, attempt, queue)
    SELECT {_ID}, 'a', 'forward', 'c', 'done', 1, 'q' FROM {_EACH} n""",
    f"""INSERT INTO stageflow_attempts (run, stage, direction, n, owner, state, began_at, ended_at)
    SELECT {_ID}, stage, 'forward', 1, 'owner', 'ok', n, n + 1
    FROM {_EACH} n, unnest(ARRAY['a', 'b', 'c']) stage""",
    f"""INSERT INTO stageflow_checkpoints (run, stage, delta, at)
    SELECT {_ID}, stage, {_CODE}, n FROM {_EACH} n, unnest(ARRAY['a', 'b', 'c']) stage""",
    f"""INSERT INTO stageflow_saga_steps (run, stage, state)
    SELECT {_ID}, 'b', 'recorded' FROM {_EACH} n""",
    f"""INSERT INTO stageflow_events (run, seq, type, at, data, previous, mac)
    SELECT {_ID}, seq, 'stage.ok', n, '{{"stage": "a", "attempt": 1}}', {_CODE}, {_CODE}
    FROM {_EACH} n, generate_series(1, 5) seq""",
)


def main(runs: int) -> float:
    """Seconds that the upgrade takes."""
    service = PostgresService(durable=True)
    service.start()
    try:
        url = service.create_database()
        fill(url, runs)
        for step in schema.steps(url):
            rows = sum(lock.rows for lock in step.locks)
            print(f"{step.revision}: announced {rows:,} rows, about {step.seconds:.1f} s")
        began = time.monotonic()
        schema.upgrade(url)
        took = time.monotonic() - began
        print(f"{runs:,} finished runs: {BEFORE} → {schema.head()} in {took:.1f} s")
        return took
    finally:
        service.close()


def fill(url: str, runs: int) -> None:
    """A database as the release before left it, with finished runs."""
    database = Database(url)
    with database.engine.connect() as connection, connection.begin():
        made = schema.config()
        made.attributes["connection"] = connection
        command.upgrade(made, BEFORE)
        row = "INSERT INTO stageflow_definitions VALUES (:digest, 'line', '1', :body, 1)"
        connection.execute(text(row), {"digest": _PLAN.digest, "body": _PLAN.encoded})
    for first in range(1, runs + 1, PIECE):
        with database.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            for statement in _FILL:
                given = {"first": first, "last": min(first + PIECE - 1, runs), "digest": _PLAN.digest}
                connection.execute(text(statement), given)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    database.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MILLION)
