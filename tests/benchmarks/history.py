"""A database with a past, and what looks at it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from statistics import median

import psycopg

from stageflow_durable import Engine, Submission
from stageflow_durable.store.values import BATCH
from tests.benchmarks.past import FIRST, bury
from tests.benchmarks.pipelines import FAILED, name_of

LIVE = 10_000
# A third runs, a third waits for its hour, a third is ready and published: nothing of it is the sweep's today.
_RUNNING = """UPDATE stageflow_strands SET state = 'running', owner = 'bench', attempt = 1, published_at = NULL
    WHERE state = 'ready' AND run IN (SELECT id FROM stageflow_runs WHERE phase = 'forward' ORDER BY id LIMIT %s)"""
_WAITING = """UPDATE stageflow_strands
    SET state = 'waiting', waiting_for = 'time', wake_at = extract(epoch FROM now()) + 86400, published_at = NULL
    WHERE state = 'ready' AND run IN (SELECT run FROM stageflow_strands WHERE state = 'ready' ORDER BY run LIMIT %s)"""
# Published so often before that it is not missed within the hour.
_READY = """UPDATE stageflow_strands SET published_at = extract(epoch FROM now()), nudges = 12 WHERE state = 'ready'"""
_OWNER = """INSERT INTO stageflow_owners (id, host, pid, boot, started_at, expires_at)
    VALUES ('bench', 'bench', 1, 'bench', 0, extract(epoch FROM now()) + 86400)"""

TIMES = 5
MONTH = timedelta(days=30)
QUESTIONS: Mapping[str, Callable[[Engine], object]] = {
    "runs": lambda engine: engine.runs(),
    "runs --pipeline": lambda engine: engine.runs(pipeline=FAILED.name),
    "runs --attention": lambda engine: engine.runs(attention=True, limit=1000),
    "show": lambda engine: engine.run(FIRST),
    "workers": lambda engine: engine.workers(),
    "check": lambda engine: engine.check(),
}
"""What people ask, by the command that asks it."""


class History:
    """Ten thousand live runs, and before them finished ones: ``templates`` and so many copies of them."""

    def __init__(self, engine: Engine, database_url: str, templates: Mapping[str, str], copies: int) -> None:
        self.engine = engine
        self._raw = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
        bury(self._raw, templates, copies)
        self._live(LIVE)

    def _live(self, count: int) -> None:
        for start in range(0, count, 1000):
            batch = [Submission({"n": number}) for number in range(start, min(start + 1000, count))]
            self.engine.enqueue_many(name_of(10), batch)
        self._raw.execute(_OWNER)
        self._raw.execute(_RUNNING, [count // 3])
        self._raw.execute(_WAITING, [count // 3])
        self._raw.execute(_READY)
        self._raw.execute("VACUUM ANALYZE")
        self._raw.execute("CHECKPOINT")

    def finished(self) -> int:
        """How many finished runs there are."""
        found = self._raw.execute("SELECT count(*) FROM stageflow_runs WHERE phase = 'settled'").fetchone()
        assert found is not None
        return int(found[0])

    def ask_ms(self) -> dict[str, float]:
        """Milliseconds of each of :data:`QUESTIONS`, the median of some."""
        return {what: 1000 * median(map(self._ask, [ask] * TIMES)) for what, ask in QUESTIONS.items()}

    def _ask(self, ask: Callable[[Engine], object]) -> float:
        began = time.perf_counter()
        ask(self.engine)
        return time.perf_counter() - began

    def prune_ms(self, batches: int) -> float:
        """Milliseconds in which a batch of :meth:`Engine.prune` is deleted, the oldest first."""
        began = time.perf_counter()
        deleted = self.engine.prune(MONTH, limit=batches * BATCH)
        took = time.perf_counter() - began
        return 1000 * took * BATCH / deleted

    def sweep_s(self) -> float:
        """Seconds of one sweep."""
        began = time.perf_counter()
        report = self.engine.sweep()
        took = time.perf_counter() - began
        if report.nudged or report.woken or report.taken or report.problems:
            raise RuntimeError(f"the sweep found work where there was none: {report}")
        return took

    def close(self) -> None:
        """Give back connections."""
        self._raw.close()
        self.engine.close()


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
