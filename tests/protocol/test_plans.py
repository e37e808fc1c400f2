"""In a database of many finished runs nothing that is asked all the time reads a table of runs from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.roster import Known, Profile
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.work import Claimant, Work
from stageflow_durable.state.database import Database
from stageflow_durable.state.horizon import next_due
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Filter, Identity
from stageflow_durable.transitions.accept import NewRun
from tests.protocol.plans import MODES, listening, ranges, read_to_the_end

# In one process: the past is made once.
pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("plans")]

PLAN = Pipeline("line").stage("a", lambda _ctx: None, compensate=lambda _ctx: None).stage("b", lambda _ctx: None).plan
CHANGED = Pipeline("line").stage("a", lambda _ctx: None, compensate=lambda _ctx: None).plan
PROFILE = Profile("shop", "redis://h:6379/0", ("q1",), {"line": Known("1", PLAN.digest)})
FINISHED, LIVE, DEAD_OWNERS = 6000, 300, 50
SMALL = {f"stageflow_{name}" for name in ("owners", "queues", "definitions", "ticks", "profiles", "limits", "sinks")}
"""Tables of a few rows."""
LOOKED_THROUGH = {"prune": {"stageflow_pools", "stageflow_slots"}}
"""A prune looks at each limit and key, and whether anybody holds it: there are as many as keys came lately."""

# Of the finished runs a few failed, are parked or of a rare pipeline; of the live ones a third is ready, runs, waits.
FILLED = f"""
INSERT INTO stageflow_owners (id, host, pid, boot, started_at, expires_at, dead_at)
    SELECT 'dead' || n, 'h', n, 'b', 0, 1, 2 FROM generate_series(1, {DEAD_OWNERS}) n;
INSERT INTO stageflow_runs (id, client_id, pipeline, version, key, fingerprint, definition, input, metadata, queue,
        phase, status, park_reason, seq, head, created_at, updated_at, finished_at, deadline)
    SELECT 'D' || lpad(n::text, 25, '0'), CASE n % 100 WHEN 9 THEN 'rare' ELSE 'c' || n % 10 END,
        CASE n % 100 WHEN 7 THEN 'rare' ELSE 'line' END,
        '1', 'k' || n, 'f', :digest, '{{}}', '{{}}', 'q',
        'settled', CASE n % 50 WHEN 0 THEN 'failed' WHEN 1 THEN 'parked' ELSE 'succeeded' END,
        CASE n % 50 WHEN 1 THEN 'bug' END, 5, 'h', n, n, n, CASE n % 3 WHEN 0 THEN n END
    FROM generate_series(1, {FINISHED}) n;
INSERT INTO stageflow_runs (id, client_id, pipeline, version, fingerprint, definition, input, metadata, queue,
        phase, status, seq, head, created_at, updated_at, deadline)
    SELECT 'L' || lpad(n::text, 25, '0'), 'c1', 'line', '1', 'f', :digest, '{{}}', '{{}}', 'q',
        'forward', 'running', 2, 'h', 100000 + n, 100000 + n, CASE n % 3 WHEN 0 THEN 4e9 END
    FROM generate_series(1, {LIVE}) n;
INSERT INTO stageflow_strands (run, strand, direction, stage, state, owner, wake_at, waiting_for, published_at, queue)
    SELECT id, 'a', 'forward', 'b', CASE WHEN phase = 'settled' THEN 'done' WHEN seq_no % 3 = 0 THEN 'ready'
            WHEN seq_no % 3 = 1 THEN 'running' ELSE 'waiting' END,
        CASE WHEN phase = 'forward' AND seq_no % 3 = 1 THEN 'dead' || 1 + seq_no % {DEAD_OWNERS} END,
        CASE WHEN phase = 'forward' AND seq_no % 3 = 2 THEN seq_no END,
        CASE WHEN phase = 'forward' AND seq_no % 3 = 2 THEN 'time' END, 1, 'q' || seq_no % 4
    FROM (SELECT *, right(id, 6)::integer AS seq_no FROM stageflow_runs) r;
INSERT INTO stageflow_attempts (run, stage, direction, n, owner, state, began_at, ended_at)
    SELECT id, s, 'forward', 1, 'dead1', 'ok', 1, 2 FROM stageflow_runs, unnest(ARRAY['a', 'b']) s;
INSERT INTO stageflow_attributes (run, name, value) SELECT id, 'order', id FROM stageflow_runs;
INSERT INTO stageflow_attributes (run, name, value) SELECT id, 'region', 'eu' FROM stageflow_runs;
INSERT INTO stageflow_signals (run, stage, n, fingerprint, payload, actor, reason, received_at, consumed_at)
    SELECT id, 'a', 1, 'f', 'null', 'x', '', 1, 2 FROM stageflow_runs;
INSERT INTO stageflow_approvals (run, stage, n, content, digest, asked_at, decision, consumed_at)
    SELECT id, 'a', 1, '{{}}', 'f', 1, 'approved', 2 FROM stageflow_runs;
INSERT INTO stageflow_links (run, token, stage, actor, made_by, made_at, expires_at)
    SELECT id, 'h', 'a', 'x', 'y', 1, 2 FROM stageflow_runs;
INSERT INTO stageflow_items (run, item, stage, grp, input, seq, head, updated_at)
    SELECT id, 1, 'a', 0, '1', 1, 'h', 1 FROM stageflow_runs;
INSERT INTO stageflow_item_groups (run, strand, grp, total, running, done, failed, collects, digest)
    SELECT id, 'a', 0, 1, 0, 1, 0, false, '' FROM stageflow_runs;
INSERT INTO stageflow_checkpoints (run, stage, delta, at)
    SELECT id, s, '{{}}', 2 FROM stageflow_runs, unnest(ARRAY['a', 'b']) s;
INSERT INTO stageflow_calls (run, stage, call, n, name, fingerprint, attempt, result, saved_at)
    SELECT id, 'a', 'c' || n, n, 'ask', 'f', 1, '1', 2 FROM stageflow_runs, generate_series(1, 2) n;
INSERT INTO stageflow_pools (name, key) SELECT 'bank', id FROM stageflow_runs;
INSERT INTO stageflow_slots (name, key, run, strand, stage, attempt, gen, rank, since, turn, short, behind)
    SELECT 'bank', id, id, 'a', 'a', 1, 1, 0, 1, '', false, '[]' FROM stageflow_runs;
INSERT INTO stageflow_saga_steps (run, stage, state) SELECT id, 'a', 'recorded' FROM stageflow_runs;
INSERT INTO stageflow_events (run, seq, type, at, data, previous, mac)
    SELECT id, n, 'x', 1, '{{}}', 'p', 'm' FROM stageflow_runs, generate_series(1, 5) n;
INSERT INTO stageflow_idempotency_keys (client_id, operation, key, fingerprint, owner, fence,
        state, result, expires_at)
    SELECT 'c', 'line.a', 'k' || n, 'f', 'r', 1, 'done', '1', n + 4e9
    FROM generate_series(1, {FINISHED}) n;
INSERT INTO stageflow_tombstones
        (run, client_id, pipeline, key, fingerprint, status, seq, head, finished_at, pruned_at, mac)
    SELECT 'T' || n, 'c1', 'line', 'old' || n, 'f', 'succeeded', 5, 'h', 1, 4e9 + n, 'm'
    FROM generate_series(1, {FINISHED}) n;
"""
OF_A_FINISHED = "D" + "5042".zfill(25)


@pytest.fixture(scope="module")
def store(migrated_url: str) -> Iterator[SqlStore]:
    """A store with a past."""
    database = Database(migrated_url)
    made = SqlStore(database)
    made.register([PLAN])
    with psycopg.connect(migrated_url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in FILLED.split(";\n")[:-1]:
            connection.execute(statement.replace(":digest", f"'{PLAN.digest}'").encode())
        connection.execute("ANALYZE")
    yield made
    made._driver.close()  # its connection is this thread's, who goes on with other tests
    database.dispose()


def fresh(store: SqlStore, *, optimistic: bool) -> tuple[SqlStore, Work]:
    """A run whose first stage has just begun."""
    ways = SqlStore(store.database, optimistic=optimistic)
    owner = ways.join(Identity("h", 1, "boot"), 60.0)
    number = store.clock()
    run_id = f"N{str(number).replace('.', ''):0<25}"[:26]
    (nudge,) = ways.create(NewRun(run_id, "c", PLAN, run_id, "f", "{}", "{}", "q")).nudges
    work = ways.begin(nudge, Claimant(owner, {"line": PLAN}, {}))
    assert isinstance(work, Work)
    return ways, work


def carried(store: SqlStore, *, optimistic: bool) -> None:
    """A run from its enqueueing to its end, and one whose second stage has a message of its own."""
    ways, work = fresh(store, optimistic=optimistic)
    claimant = Claimant(work.owner, {"line": PLAN}, {})
    done: Any = ways.succeed(work, claimant, "1", go_on=True)
    ways.outputs(work.run.id)
    ways.succeed(done.granted, claimant, "2")
    ways._driver.close()  # as above
    ways, work = fresh(store, optimistic=optimistic)
    claimant = Claimant(work.owner, {"line": PLAN}, {})
    handed: Any = ways.succeed(work, claimant, "1")
    assert isinstance(ways.begin(handed.nudges[0]._replace(hint=None), claimant), Work)
    ways._driver.close()  # as above


def horizon(store: SqlStore) -> None:
    with store.database.read() as connection:
        next_due(connection, patience=1.0)


ASKED: dict[str, Callable[[SqlStore], object]] = {
    "overdue": lambda store: store.overdue(1.0),
    "next wait": lambda store: store.next_wait(0.1),
    "undelivered, queue empty": lambda store: store.undelivered("q1", 0, 10.0, 60.0),
    "undelivered, depth unknown": lambda store: store.undelivered("q1", None, 10.0, 60.0),
    "expired leases": lambda store: store.mark_expired(0.0),
    "killed": lambda store: store.mark_killed("b", 9),
    "horizon": horizon,
    "a run, at once": lambda store: carried(store, optimistic=True),
    "a run, under the lock": lambda store: carried(store, optimistic=False),
    "prune": lambda store: store.prune(1e9, batch=20, sleep=lambda _seconds: None),
    "runs": lambda store: store.summaries(Filter()),
    "runs of a status": lambda store: store.summaries(Filter(status=(RunStatus.FAILED,))),
    "runs that need a person": lambda store: store.summaries(Filter(status=(RunStatus.FAILED, RunStatus.PARKED))),
    "runs of a pipeline": lambda store: store.summaries(Filter(pipeline="line")),
    "runs of a rare pipeline": lambda store: store.summaries(Filter(pipeline="rare")),
    "runs of a client": lambda store: store.summaries(Filter(client_id="c1")),
    "runs of a rare client": lambda store: store.summaries(Filter(client_id="rare")),
    "runs with an error": lambda store: store.summaries(Filter(since=0.0, error="no stock")),
    "runs of early": lambda store: store.summaries(Filter(until=100_100.0)),
    "runs of late": lambda store: store.summaries(Filter(since=100_200.0)),
    "runs of a rare attribute": lambda store: store.summaries(Filter(attributes=(("order", OF_A_FINISHED),))),
    "runs of a common attribute": lambda store: store.summaries(Filter(attributes=(("region", "eu"),))),
    "check": lambda store: store.misfits([CHANGED]),
    "stuck": lambda store: store.stuck(4e9),
    "unserved": lambda store: store.unserved(4e9),
    "waits": lambda store: store.waits([OF_A_FINISHED]),
    "put off": lambda store: store.put_off([OF_A_FINISHED]),
    "a worker joins": lambda store: store.join(Identity("h", 2, "boot"), 60.0, PROFILE),
    "undelivered, others' left out": lambda store: store.undelivered("q1", 0, 10.0, 60.0, frozenset({"theirs"})),
    "workers": lambda store: store.workers(),
    "a run by a prefix": lambda store: store.full_id(OF_A_FINISHED),
    "a run": lambda store: store.run(OF_A_FINISHED),
    "its history": lambda store: store.history(OF_A_FINISHED),
}


@pytest.mark.parametrize(
    ("what", "index"),
    [
        ("overdue", "ix_stageflow_strands_due"),
        ("overdue", "ix_stageflow_runs_deadline"),
        ("next wait", "ix_stageflow_strands_due"),
        ("prune", "ix_stageflow_runs_status"),
        ("prune", "ix_stageflow_tombstones_pruned"),
        ("runs of late", "ix_stageflow_runs_created"),
        ("runs with an error", "ix_stageflow_runs_error"),
        ("runs that need a person", "ix_stageflow_runs_status"),
        ("runs of a rare pipeline", "ix_stageflow_runs_pipeline"),
        ("runs of a rare client", "ix_stageflow_runs_client"),
        ("runs of a rare attribute", "ix_stageflow_attributes_value"),
        ("check", "ix_stageflow_runs_status"),
    ],
)
def test_given_a_question_about_a_moment_then_no_more_than_its_range_of_the_index_is_read(
    store: SqlStore, what: str, index: str
) -> None:
    with listening(store) as asked:
        ASKED[what](store)
    url = store.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        assert index in {name for one in asked for name in ranges(connection, one)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ASKED)
def test_given_many_finished_runs_then_no_table_of_them_is_read_from_end_to_end(
    store: SqlStore, what: str, mode: str
) -> None:
    with listening(store) as asked:
        ASKED[what](store)
    assert asked
    url = store.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        allowed = SMALL | LOOKED_THROUGH.get(what, set())
        found = {one[0]: read_to_the_end(connection, one, mode) - allowed for one in asked}
    assert {statement: tables for statement, tables in found.items() if tables} == {}
