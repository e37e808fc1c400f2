"""The schema: what the migrations make is what the code believes, on both databases, however many ask for it at
once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Inspector, MetaData, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from stageflow_durable.errors import RunBusy, SchemaAhead, SchemaBehind, SchemaInUse
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, InProgress
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.plan import Plan, PlannedStage
from stageflow_durable.model.status import AttemptState, RunStatus
from stageflow_durable.model.work import Claimant, Done, Nudge, Work
from stageflow_durable.state import idempotency_keys, schema, tables
from stageflow_durable.state.database import Database
from stageflow_durable.state.idempotency_leases import Leases
from stageflow_durable.state.metadata import PREFIX, VERSION_TABLE, metadata
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Identity
from stageflow_durable.transitions.operate import Order
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

RUN: dict[str, Any] = {
    "id": "R",
    "client_id": "c",
    "pipeline": "p",
    "version": "1",
    "fingerprint": "f",
    "input": "{}",
    "metadata": "{}",
    "queue": "q",
    "phase": "forward",
    "status": "pending",
    "seq": 1,
    "head": "h",
    "created_at": 1.0,
    "updated_at": 1.0,
}
STRAND: dict[str, Any] = {
    "run": "R",
    "strand": "a",
    "direction": "forward",
    "stage": "a",
    "state": "ready",
    "queue": "q",
}
ATTEMPT: dict[str, Any] = {
    "run": "R",
    "stage": "a",
    "direction": "forward",
    "n": 1,
    "owner": "o",
    "state": "ok",
    "began_at": 1.0,
    "ended_at": 2.0,
}

KEY: dict[str, Any] = {
    "client_id": "c",
    "operation": "o",
    "key": "k",
    "fingerprint": "f",
    "owner": "w",
    "fence": 1,
    "state": "held",
    "lease_until": 1.0,
    "expires_at": 1.0,
}
BY_A_RUN = {"owner_run": "R", "owner_stage": "a", "keep_seconds": 1.0}

BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown phase": ("runs", {"phase": "sideways"}),
    "an unknown status": ("runs", {"status": "lost"}),
    "an unknown cause": ("runs", {"cause": "weather"}),
    "parked without a reason": ("runs", {"phase": "settled", "status": "parked"}),
    "a park reason on a run that is not parked": (
        "runs",
        {"phase": "settled", "status": "failed", "park_reason": "bug"},
    ),
    "settled and running": ("runs", {"phase": "settled", "status": "running"}),
    "succeeded and not settled": ("runs", {"status": "succeeded"}),
    "backward and not compensating": ("runs", {"phase": "backward", "status": "running"}),
    "running without an owner": ("strands", {"state": "running"}),
    "ready with an owner": ("strands", {"owner": "o"}),
    "waiting without a due time": ("strands", {"state": "waiting", "waiting_for": "time"}),
    "waiting for nothing": ("strands", {"state": "waiting", "wake_at": 1.0}),
    "waiting for a thing that nobody knows": ("strands", {"state": "waiting", "wake_at": 1.0, "waiting_for": "luck"}),
    "ready and waiting for its time": ("strands", {"waiting_for": "time", "wake_at": 1.0}),
    "due and not waiting": ("strands", {"wake_at": 1.0}),
    "an unknown direction": ("strands", {"direction": "up"}),
    "an attempt that runs": ("attempts", {"state": "running"}),
    "an unknown saga step": ("saga_steps", {"run": "R", "stage": "a", "state": "maybe"}),
    "an unknown outcome": ("saga_steps", {"run": "R", "stage": "a", "state": "recorded", "outcome": "perhaps"}),
    "an unknown state of a key": ("idempotency_keys", {"state": "lent"}),
    "a key of a run without a stage": ("idempotency_keys", BY_A_RUN | {"owner_stage": None, "lease_until": None}),
    "a key of a run that is not kept": ("idempotency_keys", BY_A_RUN | {"keep_seconds": None, "lease_until": None}),
    "a key held without a lease": ("idempotency_keys", {"lease_until": None}),
    "a key held by a run and a lease": ("idempotency_keys", BY_A_RUN),
    "a key done without a result": ("idempotency_keys", {"state": "done", "lease_until": None}),
    "a result of a key that is held": ("idempotency_keys", {"result": "1"}),
    "a lease that is kept for ever": ("idempotency_keys", {"expires_at": None}),
    "a free key that is kept for ever": (
        "idempotency_keys",
        BY_A_RUN | {"state": "free", "lease_until": None, "expires_at": None},
    ),
}


@pytest.fixture
def migrated(migrated_database_url: str) -> str:
    return migrated_database_url


def test_given_a_migrated_database_then_the_metadata_finds_nothing_to_change(migrated: str) -> None:
    assert idempotency_keys.idempotency_keys.name in metadata.tables
    database = Database(migrated)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        differences = compare_metadata(context, metadata)
    database.dispose()
    assert differences == []


def test_given_a_migrated_database_when_upgraded_again_then_nothing_happens(migrated: str) -> None:
    assert schema.upgrade(migrated) == schema.head() == schema.current(migrated)


def at(url: str, revision: str) -> Database:
    """An empty database as an older release left it."""
    database = Database(url)
    raised(database, revision)
    return database


def raised(database: Database, revision: str) -> None:
    """The same, of a database that is there."""
    with database.engine.connect() as connection, connection.begin():
        made = schema.config()
        made.attributes["connection"] = connection
        command.upgrade(made, revision)


def inserted(connection: Connection, table: str, row: Mapping[str, Any]) -> None:
    """A row as it was written then: the columns of today are not known."""
    names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO {PREFIX}{table} ({names}) VALUES ({values})"), dict(row))


OLDER = [script.revision for script in ScriptDirectory.from_config(schema.config()).walk_revisions()][1:]


@pytest.mark.parametrize("revision", OLDER)
def test_given_a_run_in_flight_when_an_older_schema_is_upgraded_then_it_goes_on_to_its_end(
    database_url: str, revision: str
) -> None:
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None).plan
    database = at(database_url, revision)
    with database.transaction() as connection:
        body = {"digest": plan.digest, "pipeline": "p", "version": "1", "body": plan.encoded, "registered_at": 1.0}
        inserted(connection, "definitions", body)
        inserted(connection, "runs", RUN | {"definition": plan.digest})
        inserted(connection, "strands", STRAND)
    assert schema.upgrade(database_url) == schema.head()
    store = SqlStore(database)
    store.register([plan])
    claimant = Claimant(store.join(Identity("host", 1, "boot"), 3600.0), {"p": plan}, {})
    work = store.begin(Nudge("R", "a", 0, "q"), claimant)
    assert isinstance(work, Work)
    assert isinstance(store.succeed(work, claimant, "1"), Done)
    assert store.run("R").status is RunStatus.SUCCEEDED
    store.close()


RUNNING = {"state": "running", "owner": "o", "attempt": 1, "first_at": 5.0}
BEGUN = {**ATTEMPT, "state": "running", "began_at": 7.0, "kill_by": 4e9}
del BEGUN["ended_at"]
OWNER: dict[str, Any] = {"id": "o", "host": "h", "pid": 1, "boot": "b", "started_at": 1.0, "expires_at": 2.0}


def stopped_in_a_stage(url: str, plan: Plan, **owner: object) -> Database:
    """A database of before attempts were written at their end, with one that runs."""
    database = at(url, "0002")
    with database.transaction() as connection:
        body = {"digest": plan.digest, "pipeline": "p", "version": "1", "body": plan.encoded, "registered_at": 1.0}
        inserted(connection, "definitions", body)
        inserted(connection, "owners", OWNER | owner)
        inserted(connection, "runs", RUN | {"definition": plan.digest, "status": "running"})
        inserted(connection, "strands", STRAND | RUNNING)
        inserted(connection, "attempts", BEGUN)
    return database


def test_given_a_worker_that_died_in_a_stage_before_an_upgrade_then_its_attempt_is_known_as_lost_after_it(
    database_url: str,
) -> None:
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None).plan
    database = stopped_in_a_stage(database_url, plan)
    schema.upgrade(database_url)
    store = SqlStore(database)
    store.register([plan])
    (running,) = store.run("R").stage("a").attempts
    assert (running.state, running.began_at.timestamp(), running.owner_host) == (AttemptState.RUNNING, 7.0, "h")
    store.mark_expired(0.0)
    (orphan,) = store.overdue(0.0).orphans
    assert store.take(orphan, max_lost=5) is not None
    (lost,) = store.run("R").stage("a").attempts
    assert (lost.n, lost.state, lost.began_at.timestamp()) == (1, AttemptState.UNKNOWN, 7.0)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT kill_by FROM stageflow_attempts").scalar_one() == 4e9
    store.close()


def test_given_an_undo_that_runs_when_upgraded_then_its_strand_has_its_own_times_not_those_of_its_action(
    database_url: str,
) -> None:
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None).plan
    database = stopped_in_a_stage(database_url, plan)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE stageflow_runs SET phase = 'backward', status = 'compensating'")
        connection.exec_driver_sql("UPDATE stageflow_strands SET strand = 'undo:a', direction = 'backward'")
        connection.exec_driver_sql("UPDATE stageflow_attempts SET direction = 'backward'")
        inserted(connection, "attempts", {**ATTEMPT, "began_at": 3.0, "kill_by": 4.0})
    schema.upgrade(database_url)
    with database.read() as connection:
        times = connection.exec_driver_sql("SELECT began_at, kill_by FROM stageflow_strands").all()
        left = connection.exec_driver_sql("SELECT direction, state, began_at FROM stageflow_attempts").all()
    database.dispose()
    assert (times, left) == ([(7.0, 4e9)], [("forward", "ok", 3.0)])


def test_given_workers_of_before_at_work_when_upgraded_then_it_is_refused_by_name_and_nothing_changes(
    database_url: str,
) -> None:
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None).plan
    database = stopped_in_a_stage(database_url, plan, expires_at=4e9)
    with pytest.raises(
        SchemaInUse, match=r"worker processes of an older release at work.*: 1 .*Stop them.*nothing was changed"
    ):
        schema.upgrade(database_url)
    assert schema.current(database_url) == "0002"
    with database.transaction() as connection:
        assert connection.exec_driver_sql("SELECT state FROM stageflow_attempts").scalar_one() == "running"
        connection.exec_driver_sql("UPDATE stageflow_owners SET dead_at = 1")
    assert schema.upgrade(database_url) == schema.head()
    database.dispose()


def test_given_a_worker_of_before_that_was_paused_when_upgraded_then_it_renews_no_more(database_url: str) -> None:
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None).plan
    database = stopped_in_a_stage(database_url, plan)
    assert owners_of_before_renew(database)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE stageflow_owners SET expires_at = 2")
    schema.upgrade(database_url)
    assert not owners_of_before_renew(database)
    database.dispose()


def owners_of_before_renew(database: Database) -> bool:
    """Whether the owner that was there is still given a lease."""
    renewal = "UPDATE stageflow_owners SET expires_at = 4e9 WHERE id = 'o' AND dead_at IS NULL"
    with database.transaction() as connection:
        return bool(connection.exec_driver_sql(renewal).rowcount)


def test_given_an_upgrade_that_looked_for_workers_when_one_of_before_joins_then_it_waits_for_the_end(
    postgres_url: str,
) -> None:
    database, newcomer = at(postgres_url, "0002"), "newcomer"
    with database.engine.connect() as connection, connection.begin():
        made = schema.config()
        made.attributes["connection"] = connection
        command.upgrade(made, "0003")
        with pytest.raises(RunBusy):
            joined(database, newcomer)
    assert joined(database, newcomer)
    database.dispose()


def ended(database: Database) -> None:
    """Every worker has stopped."""
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE stageflow_owners SET dead_at = 1")


def joined(database: Database, owner: str) -> bool:
    """A new owner as one of before joins, unless somebody keeps it waiting."""
    with database.transaction() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        inserted(connection, "owners", OWNER | {"id": owner, "expires_at": 4e9})
    return True


def test_given_a_worker_at_work_and_keys_when_0003_is_upgraded_then_both_go_on_and_one_check_is_valid(
    postgres_url: str,
) -> None:
    database = at(postgres_url, "0003")
    with database.transaction() as connection:
        inserted(connection, "owners", OWNER | {"expires_at": 4e9})
        inserted(connection, "idempotency_keys", KEY | {"expires_at": 4e9, "lease_until": 4e9})
    raised(database, "0006")
    assert owners_of_before_renew(database)
    ended(database)
    assert schema.upgrade(postgres_url) == schema.head()
    assert checks_of_keys(database) == {"ck_stageflow_idempotency_keys_sound": True}
    leases = Leases(database)
    assert isinstance(leases.claim(Scope("c", "o"), "k", "f", None, owner="w", lease=1.0, ttl=1.0), InProgress)
    assert isinstance(leases.claim(Scope("c", "o"), "new", "f", None, owner="w", lease=1.0, ttl=1.0), Claimed)
    leases.close()
    database.dispose()


def checks_of_keys(database: Database) -> dict[str, bool]:
    """The CHECKs of business keys, and whether the rows that were there are held to them."""
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'c' "
            "AND conrelid = 'stageflow_idempotency_keys'::regclass"
        )
        return {row.conname: row.convalidated for row in found}


def test_given_rows_that_a_check_was_not_to_read_when_upgraded_then_it_reads_them_while_others_write(
    postgres_url: str,
) -> None:
    schema.upgrade(postgres_url)
    database = Database(postgres_url)
    with database.transaction() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE stageflow_idempotency_keys ADD CONSTRAINT ck_stageflow_new CHECK (fence > 0) NOT VALID"
        )
    with database.engine.connect() as connection, connection.begin():
        inserted(connection, "idempotency_keys", KEY)
        schema.upgrade(postgres_url)  # beside a transaction that has written and is not over
    assert checks_of_keys(database) == {"ck_stageflow_idempotency_keys_sound": True, "ck_stageflow_new": True}
    database.dispose()


def test_given_a_store_that_makes_its_table_alone_then_its_check_is_the_migrations_letter_by_letter(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    SqlIdempotencyStore(database).create()
    alone = check_of_keys(database)
    with database.transaction() as connection:
        idempotency_keys.idempotency_keys.drop(connection)
        connection.exec_driver_sql("DROP FUNCTION stageflow_idempotency_keys_sound")
    schema.upgrade(postgres_url)
    assert alone == check_of_keys(database)
    database.dispose()


def check_of_keys(database: Database) -> list[str]:
    """The texts of the CHECK of business keys and of its function."""
    with database.read() as connection:
        return list(
            connection.exec_driver_sql(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
                "WHERE conname = 'ck_stageflow_idempotency_keys_sound' "
                "UNION ALL SELECT pg_get_functiondef('stageflow_idempotency_keys_sound'::regproc)"
            ).scalars()
        )


def test_given_an_attempt_without_an_end_then_the_database_refuses_it(migrated: str) -> None:
    database = Database(migrated)
    with pytest.raises(IntegrityError, match=r"(?i)null"), database.transaction() as connection:
        connection.execute(tables.attempts.insert(), {**ATTEMPT, "ended_at": None})
    database.dispose()


def test_given_a_migrated_sqlite_when_a_checked_column_is_written_then_no_table_is_built_for_its_check(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'db'}"
    schema.upgrade(url)
    database = Database(url)
    writes = [
        "UPDATE stageflow_runs SET phase = 'forward', status = 'running', cause = 'failed', park_reason = 'bug'",
        "UPDATE stageflow_strands SET state = 'done', direction = 'forward'",
        "UPDATE stageflow_attempts SET state = 'ok'",
        "UPDATE stageflow_saga_steps SET state = 'void', outcome = 'ok'",
    ]
    with database.read() as connection:
        steps = [row[1] for sql in writes for row in connection.exec_driver_sql(f"EXPLAIN {sql}")]
    database.dispose()
    assert "Insert" in steps
    assert "OpenEphemeral" not in steps


def test_given_an_empty_database_when_four_processes_upgrade_then_all_succeed(database_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(schema.upgrade, [database_url] * 4) == [schema.head()] * 4


def test_given_an_empty_database_when_used_then_the_way_out_is_named(database_url: str) -> None:
    plan, database = Plan("p", "1", (PlannedStage("a"),)), Database(database_url)
    with pytest.raises(SchemaBehind, match="stageflow db upgrade"):
        SqlStore(database).register([plan])
    database.dispose()
    with pytest.raises(SchemaBehind, match="stageflow db upgrade"):
        schema.require_current(database_url)


def test_given_an_applications_own_tables_and_migrations_when_upgraded_then_they_are_as_before(
    database_url: str,
) -> None:
    database = Database(database_url)
    with database.transaction() as connection:
        for statement in (
            "CREATE TABLE runs (distance integer)",
            "CREATE TABLE events (what text)",
            "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
            "INSERT INTO alembic_version VALUES ('theirs')",
        ):
            connection.exec_driver_sql(statement)
    assert schema.current(database_url) is None
    assert schema.upgrade(database_url) == schema.current(database_url) == schema.head()
    with database.read() as connection:
        theirs = {name for name in inspect(connection).get_table_names() if not name.startswith(PREFIX)}
        assert theirs == {"runs", "events", "alembic_version"}
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == ["theirs"]
        assert connection.exec_driver_sql("SELECT distance FROM runs").all() == []
    database.dispose()


def ahead(url: str) -> str:
    """The database as a release of the future leaves it."""
    database = Database(url)
    with database.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '0099'")
    database.dispose()
    return url


@pytest.mark.parametrize("use", [schema.upgrade, schema.require_current])
def test_given_a_schema_of_a_newer_release_then_both_revisions_and_the_way_out_are_named(
    migrated: str, use: Callable[[str], object]
) -> None:
    with pytest.raises(SchemaAhead, match=rf"at schema 0099.*{schema.head()} at the most.*newer release.*nothing was"):
        use(ahead(migrated))
    assert schema.current(migrated) == "0099"


def test_given_a_database_of_an_application_alone_when_asked_then_it_is_empty_to_us_and_left_as_it_is(
    database_url: str,
) -> None:
    database = Database(database_url)
    with database.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE runs (distance integer)")
    with pytest.raises(
        SchemaBehind, match=rf"no schema of stageflow.*needs {schema.head()}; run: stageflow db upgrade"
    ):
        schema.require_current(database_url)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == ["runs"]
    database.dispose()


def test_given_a_missing_table_of_the_applications_own_then_no_upgrade_of_ours_is_advised(migrated: str) -> None:
    database = Database(migrated)
    with pytest.raises(DBAPIError, match="orders"), database.transaction() as connection:
        connection.exec_driver_sql("SELECT * FROM orders")
    database.dispose()


def test_given_an_application_that_leaves_our_names_out_when_it_compares_then_our_tables_are_not_its_concern(
    migrated: str,
) -> None:
    def include_name(name: str | None, kind: str, _parents: object) -> bool:  # as docs/how-to/adopt-an-existing-app.md
        return not (kind == "table" and (name or "").startswith("stageflow_"))

    database = Database(migrated)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": include_name})
        assert compare_metadata(context, MetaData()) == []
    database.dispose()


def test_given_a_migrated_database_then_every_name_in_it_is_ours_to_see_and_fits_postgresql(migrated: str) -> None:
    database = Database(migrated)
    with database.read() as connection:
        seen = inspect(connection)
        tables_found = seen.get_table_names()
        named = [found["name"] for table in tables_found for kind in _named(seen, table) for found in kind]
    database.dispose()
    assert {*tables_found} == {VERSION_TABLE, *metadata.tables}
    names = [*tables_found, *(name for name in named if name is not None)]
    assert [name for name in names if PREFIX not in name or len(name) > 63] == []


def _named(seen: Inspector, table: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    yield [seen.get_pk_constraint(table)]
    yield seen.get_foreign_keys(table)
    yield seen.get_unique_constraints(table)
    yield seen.get_check_constraints(table)
    yield seen.get_indexes(table)


@pytest.mark.parametrize("what", BROKEN)
def test_given_a_row_that_breaks_an_invariant_then_the_database_refuses_it(migrated: str, what: str) -> None:
    database, plan = Database(migrated), Plan("p", "1", (PlannedStage("a"),))
    SqlStore(database).register([plan])
    table, change = BROKEN[what]
    defaults: dict[str, dict[str, Any]] = {
        "runs": RUN | {"definition": plan.digest},
        "strands": STRAND,
        "attempts": ATTEMPT,
        "saga_steps": {},
        "idempotency_keys": KEY,
    }
    with database.transaction() as connection:
        if table != "runs":
            connection.execute(tables.runs.insert(), defaults["runs"])
    with pytest.raises(IntegrityError, match=r"(?i)check"), database.transaction() as connection:
        connection.execute(metadata.tables[PREFIX + table].insert(), {**defaults[table], **change})
    database.dispose()


def test_given_two_schemas_named_in_the_urls_when_both_are_upgraded_then_each_has_an_installation_of_its_own(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    with database.transaction() as connection:
        for name in ("theirs", "ours"):
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    database.dispose()
    for name in ("theirs", "ours"):
        assert schema.upgrade(f"{postgres_url}?options=-csearch_path%3D{name}") == schema.head()
    database = Database(postgres_url)
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT nspname, count(*) FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE typtype = 'd' "
            "AND typname LIKE 'stageflow%%' GROUP BY nspname ORDER BY nspname"
        ).all()
    database.dispose()
    assert found == [("ours", 11), ("theirs", 11)]


# --- from 0006: a wait says for what, rows have items -----------------------------------------------------------------

_UNDO = {"strand": "undo:a", "direction": "backward", "state": "waiting"}
_BACKWARD = {"phase": "backward", "status": "compensating", "cause": "failed"}
_PARKED = {"phase": "settled", "status": "parked", "park_reason": "bug", "cause": "failed", "finished_at": 2.0}
IN_FLIGHT: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "ready": ({}, {}, None),
    "running in a worker that died": (
        {"state": "running", "owner": "o", "attempt": 2, "first_at": 5.0, "began_at": 5.0},
        {"status": "running"},
        None,
    ),
    "waiting for its retry": ({"state": "waiting", "wake_at": 1.0, "tries": 1}, {"status": "waiting"}, "time"),
    "handed back": ({"state": "waiting", "wake_at": 1.0, "nudges": 2}, {}, "worker"),
    "an undo that waits for the end of a worker": (_UNDO | {"wake_at": UNTIL_CONFIRMED}, _BACKWARD, "worker"),
    "an undo that waits until a body has ended": (_UNDO | {"wake_at": 1.0}, _BACKWARD, "time"),
    "parked": ({"state": "rest"}, _PARKED, None),
}
"""By what a run of one stage is doing: its strand, its row, and what it waits for after the upgrade."""


@pytest.mark.parametrize("doing", IN_FLIGHT)
def test_given_a_run_in_flight_when_0006_is_upgraded_then_its_wait_says_for_what_and_it_goes_on_to_its_end(
    database_url: str, doing: str
) -> None:
    of_strand, of_run, waiting_for = IN_FLIGHT[doing]
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None, compensate=lambda _ctx: None).plan
    database = at(database_url, "0006")
    with database.transaction() as connection:
        body = {"digest": plan.digest, "pipeline": "p", "version": "1", "body": plan.encoded, "registered_at": 1.0}
        inserted(connection, "definitions", body)
        inserted(connection, "owners", OWNER | {"dead_at": 2.0, "confirmed": True, "awaited": True})
        inserted(connection, "runs", RUN | {"definition": plan.digest} | of_run)
        inserted(connection, "strands", STRAND | of_strand)
        inserted(connection, "attempts", ATTEMPT | {"state": "unknown", "doubt": True, "kill_by": UNTIL_CONFIRMED})
        inserted(connection, "saga_steps", {"run": "R", "stage": "a", "state": "intended"})
        event = {"run": "R", "seq": 1, "type": "run.accepted", "at": 1.0, "data": "{}", "previous": "0", "mac": "h"}
        inserted(connection, "events", event)
    assert schema.upgrade(database_url) == schema.head()
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT waiting_for, item FROM stageflow_strands").all()
        assert rows == [(waiting_for, 0)]
        for table in ("attempts", "saga_steps", "events"):
            assert connection.exec_driver_sql(f"SELECT item FROM {PREFIX}{table}").all() == [(0,)]
    store = SqlStore(database)
    store.register([plan])
    carried(store, plan, of_strand.get("strand", "a"))
    assert store.run("R").status is (RunStatus.COMPENSATED if of_run is _BACKWARD else RunStatus.SUCCEEDED)
    assert [event.seq for event in store.history("R")] == list(range(1, 1 + len(store.history("R"))))
    store.close()


def carried(store: SqlStore, plan: Plan, strand: str) -> None:
    """What a sweep, a person and a worker do to the run, to its end."""
    claimant = Claimant(store.join(Identity("host", 1, "boot"), 3600.0), {"p": plan}, {})
    found = store.overdue(0.0)
    for orphan in found.orphans:
        store.take(orphan, max_lost=5)
    store.wake(found.due)
    store.release("R", "o")
    if store.run("R").status is RunStatus.PARKED:
        store.order(Order("R", "resume", "mended", "ann"))
    for gen in range(3):
        work = store.begin(Nudge("R", strand, gen, "q"), claimant)
        if isinstance(work, Work):
            done = store.undo_done(work, claimant, go_on=False) if work.undoing else store.succeed(work, claimant, "1")
            assert isinstance(done, Done)


@pytest.mark.parametrize("revision", ["0002", "0006"])
def test_given_workers_at_work_when_asked_what_an_upgrade_does_then_it_says_what_stops_it_and_changes_nothing(
    database_url: str, revision: str
) -> None:
    database = at(database_url, revision)
    with database.transaction() as connection:
        inserted(connection, "owners", OWNER | {"expires_at": 4e9})
    steps = {step.revision: step for step in schema.steps(database_url)}
    assert list(steps) == [one for one in reversed([schema.head(), *OLDER]) if one > revision]
    assert steps["0007"].workers == 1
    assert [lock.table for lock in steps["0007"].locks] == [
        *("strands", "attempts", "checkpoints", "saga_steps", "events")
    ]
    assert schema.current(database_url) == revision
    with pytest.raises(SchemaInUse):
        schema.upgrade(database_url)
    database.dispose()


def test_given_many_rows_when_asked_what_an_upgrade_does_then_it_says_how_many_it_locks_and_about_how_long(
    database_url: str,
) -> None:
    database = at(database_url, "0006")
    with database.transaction() as connection:
        given = [{"run": f"R{n}", "stage": "a", "at": 1.0} for n in range(5000)]
        connection.execute(text("INSERT INTO stageflow_checkpoints (run, stage, at) VALUES (:run, :stage, :at)"), given)
    if not database.is_sqlite:
        with database.transaction() as connection:
            connection.exec_driver_sql("ANALYZE stageflow_checkpoints")
    step = next(step for step in schema.steps(database_url) if step.revision == "0007")
    assert {lock.table: lock.rows for lock in step.locks}["checkpoints"] == 5000
    assert step.seconds == pytest.approx(5000 / schema.ROWS_A_SECOND, rel=0.2)
    database.dispose()
    schema.upgrade(database_url)
    assert schema.steps(database_url) == []


# --- from 0007: stages have items -------------------------------------------------------------------------------------


def test_given_strands_in_every_state_when_0007_is_upgraded_then_they_stay_as_they_are_and_one_may_wait_for_items(
    database_url: str,
) -> None:
    plan = Pipeline("p", version="1").stage("a", lambda _ctx: None).plan
    database = at(database_url, "0007")
    strands: list[dict[str, Any]] = [
        {"run": "R", "strand": "ready", "state": "ready"},
        {"run": "R", "strand": "runs", "state": "running", "owner": "o"},
        {"run": "R", "strand": "waits", "state": "waiting", "wake_at": 1.0, "waiting_for": "time"},
        {"run": "R", "strand": "rests", "state": "rest"},
    ]
    with database.transaction() as connection:
        body = {"digest": plan.digest, "pipeline": "p", "version": "1", "body": plan.encoded, "registered_at": 1.0}
        inserted(connection, "definitions", body)
        inserted(connection, "owners", OWNER | {"expires_at": 4e9})  # workers of before may be at work
        inserted(connection, "runs", RUN | {"definition": plan.digest})
        for strand in strands:
            inserted(connection, "strands", STRAND | strand)
    assert schema.upgrade(database_url) == schema.head()
    shown = "SELECT strand, state, owner, wake_at, waiting_for FROM stageflow_strands ORDER BY strand"
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT item_count FROM stageflow_runs").scalar_one() == 0
        found = connection.exec_driver_sql(shown).all()
    named = ("strand", "state", "owner", "wake_at", "waiting_for")
    expected = [tuple(strand.get(name) for name in named) for strand in strands]
    assert found == sorted(expected, key=lambda row: str(row[0]))
    with database.transaction() as connection:
        waits = {"strand": "items", "state": "waiting", "waiting_for": "items"}
        inserted(connection, "strands", STRAND | waits)
    with pytest.raises(DBAPIError), database.transaction() as connection:
        inserted(connection, "strands", STRAND | waits | {"strand": "other", "waiting_for": "nobody"})
    database.dispose()


def test_given_a_database_of_a_newer_release_when_asked_what_an_upgrade_does_then_it_is_refused(migrated: str) -> None:
    with pytest.raises(SchemaAhead):
        schema.steps(ahead(migrated))


def test_given_items_of_one_stage_then_each_has_its_rows_and_its_own_chain_of_events(migrated: str) -> None:
    database, plan = Database(migrated), Plan("p", "1", (PlannedStage("a"),))
    SqlStore(database).register([plan])
    event = {"run": "R", "seq": 1, "type": "t", "at": 1.0, "data": "{}", "previous": "0", "mac": "m"}
    rows: dict[str, dict[str, Any]] = {
        "strands": STRAND,
        "attempts": ATTEMPT,
        "checkpoints": {"run": "R", "stage": "a", "at": 1.0},
        "saga_steps": {"run": "R", "stage": "a", "state": "intended"},
        "events": event,
    }
    with database.transaction() as connection:
        connection.execute(tables.runs.insert(), RUN | {"definition": plan.digest})
        for table, row in rows.items():
            connection.execute(metadata.tables[PREFIX + table].insert(), [row | {"item": item} for item in range(3)])
    for table, row in rows.items():
        with pytest.raises(IntegrityError, match=r"(?i)unique"), database.transaction() as connection:
            connection.execute(metadata.tables[PREFIX + table].insert(), row | {"item": 2})
    assert [(event.seq, event.item) for event in SqlStore(database).history("R")] == [(1, 0)]
    database.dispose()
