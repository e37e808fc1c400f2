"""A database with a past: finished runs by the million, as copies of one that was really carried out."""

from __future__ import annotations

import time
from statistics import median

import psycopg
from psycopg import sql

from stageflow_durable import Engine, Submission
from tests.benchmarks.pipelines import name_of

LIVE = 10_000
TABLES = ("runs", "strands", "attempts", "checkpoints", "events")
PIECE = 50_000
# A third runs, a third waits for its hour, a third is ready and published: nothing of it is the sweep's business.
_RUNNING = """UPDATE stageflow_strands SET state = 'running', owner = 'bench', attempt = 1, published_at = NULL
    WHERE state = 'ready' AND run IN (SELECT id FROM stageflow_runs WHERE phase = 'forward' ORDER BY id LIMIT %s)"""
_WAITING = """UPDATE stageflow_strands
    SET state = 'waiting', wake_at = extract(epoch FROM now()) + 86400, published_at = NULL
    WHERE state = 'ready' AND run IN (SELECT run FROM stageflow_strands WHERE state = 'ready' ORDER BY run LIMIT %s)"""
_OWNER = """INSERT INTO stageflow_owners (id, host, pid, boot, started_at, expires_at)
    VALUES ('bench', 'bench', 1, 'bench', 0, extract(epoch FROM now()) + 86400)"""


class History:
    """Ten thousand live runs, and as many finished ones as :meth:`bury` was told."""

    def __init__(self, engine: Engine, database_url: str, live: int) -> None:
        self._engine = engine
        self._raw = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
        self._live(live)

    def _live(self, count: int) -> None:
        for start in range(0, count, 1000):
            batch = [Submission({"n": number}) for number in range(start, min(start + 1000, count))]
            self._engine.enqueue_many(name_of(10), batch)
        self._raw.execute(_OWNER)
        self._raw.execute(_RUNNING, [count // 3])
        self._raw.execute(_WAITING, [count // 3])
        self._settle()

    def bury(self, template: str, count: int) -> None:
        """Put ``count`` copies of a finished run beside it, in all tables."""
        self._raw.execute("SET synchronous_commit = off")
        for start in range(0, count, PIECE):
            for table in TABLES:
                self._copy(table, template, start, min(start + PIECE, count))
        self._settle()

    def _copy(self, table: str, template: str, start: int, end: int) -> None:
        """Like for like; only the ids of runs are new, and rise as real ones do."""
        id_column = "id" if table == "runs" else "run"
        name = f"stageflow_{table}"
        found = self._raw.execute("SELECT column_name FROM information_schema.columns WHERE table_name = %s", [name])
        others = [sql.Identifier(row[0]) for row in found if row[0] != id_column]
        statement = sql.SQL(
            "INSERT INTO {name} ({id}, {others}) SELECT 'B' || lpad(copy::text, 25, '0'), {others} "
            "FROM {name}, generate_series(%s::int, %s::int) AS copies (copy) WHERE {id} = %s"
        ).format(name=sql.Identifier(name), id=sql.Identifier(id_column), others=sql.SQL(", ").join(others))
        self._raw.execute(statement, [start, end - 1, template])

    def _settle(self) -> None:
        self._raw.execute("VACUUM ANALYZE")
        self._raw.execute("CHECKPOINT")

    def finished(self) -> int:
        """How many finished runs there are."""
        found = self._raw.execute("SELECT count(*) FROM stageflow_runs WHERE phase = 'settled'").fetchone()
        assert found is not None
        return int(found[0])

    def sweep_ms(self, times: int) -> float:
        """Milliseconds of one sweep, the median of some."""
        self._engine.operations.sweep()
        return 1000 * median(self._sweep() for _ in range(times))

    def _sweep(self) -> float:
        began = time.perf_counter()
        report = self._engine.operations.sweep()
        took = time.perf_counter() - began
        if report.nudged or report.woken or report.taken or report.problems:
            raise RuntimeError(f"the sweep found work where there was none: {report}")
        return took

    def close(self) -> None:
        """Give back connections."""
        self._raw.close()
        self._engine.close()


WAL = "write-ahead log"


def written(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """Bytes of write-ahead log so far, of this server."""
    found = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    assert found is not None
    return int(str(found[0]))


def sizes(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, int]:
    """Bytes by table with its indexes, after a vacuum."""
    connection.execute("VACUUM")
    found = connection.execute(
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'stageflow\\_%'"
    )
    return {str(name).removeprefix("stageflow_"): int(str(size)) for name, size in found}
