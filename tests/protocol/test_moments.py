"""Stored times beyond what a date can hold: shown at the bounds of the calendar, and no list fails over one."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Double

from stageflow_durable.clock import EARLIEST, LATEST
from stageflow_durable.legible import jsonable
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, RunStatus
from stageflow_durable.model.work import Claimant, Failure, Nudge, RetryDue, Work
from stageflow_durable.state import schema
from stageflow_durable.state.database import Database
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import ATTENTION, Filter, Identity
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.operate import Order

YEAR_10000 = "253402300800"
MOMENTS = {"nan": LATEST, "inf": LATEST, "-inf": EARLIEST, "1e308": LATEST, "-1e18": EARLIEST, YEAR_10000: LATEST}
PLAN = Pipeline("p").stage("a", lambda _ctx: None).plan
BUSY = Failure("busy", "transient", doubt=True)


@pytest.mark.parametrize("given", MOMENTS)
def test_given_rows_with_times_that_no_date_can_hold_then_every_list_and_view_shows_them_and_a_person_can_act(
    database_url: str, given: str
) -> None:
    schema.upgrade(database_url)
    store = SqlStore(Database(database_url))
    store.register([PLAN])
    claimant = Claimant(store.join(Identity("host", 1, "boot"), 3600.0), {"p": PLAN}, {})
    for run in ("parked", "waiting"):
        store.create(NewRun(run, "c", PLAN, None, "f", "{}", "{}", "q", deadline=store.clock() + 3600))
        work = store.begin(Nudge(run, "a", 0, "q"), claimant)
        assert isinstance(work, Work)
        if run == "parked":
            store.fail(work, BUSY, cause=Cause.FAILED, park=ParkReason.BUG, exhausted=False)
        else:
            assert isinstance(store.retry_later(work, BUSY, 60.0, float("inf")), RetryDue)
    _set_all(store, given)
    listed = store.summaries(Filter())
    assert {run.run_id for run in listed} == {"parked", "waiting"}
    assert {run.deadline for run in listed} | {run.created_at for run in listed} == {MOMENTS[given]}
    assert [run.run_id for run in store.summaries(Filter(status=ATTENTION))] == ["parked"]
    store.stuck(0.0)
    shown = [store.run("parked"), store.run("waiting"), store.history("parked"), store.workers(), listed]
    assert json.dumps([jsonable(one) for one in shown], allow_nan=False)
    store.order(Order("parked", "cancel", "because", "somebody"))
    assert store.run("parked").status is RunStatus.CANCELLED
    store.close()


def _set_all(store: SqlStore, given: str) -> None:
    """Every time that there is, to that."""
    is_sqlite = store.database.is_sqlite
    if is_sqlite and given == "nan":
        pytest.skip("SQLite stores NULL for NaN")
    value = given.replace("inf", "9e999") if is_sqlite else f"'{given}'::float8"
    with store.database.transaction() as connection:
        for table in metadata.sorted_tables:
            times = [column.name for column in table.columns if isinstance(column.type, Double)]
            if times:
                changed = ", ".join(f"{name} = CASE WHEN {name} IS NOT NULL THEN {value} END" for name in times)
                connection.exec_driver_sql(f"UPDATE {table.name} SET {changed}")


def test_given_a_wait_beyond_all_bounds_then_it_ends_within_ten_years(database_url: str) -> None:
    schema.upgrade(database_url)
    store = SqlStore(Database(database_url))
    store.register([PLAN])
    claimant = Claimant(store.join(Identity("host", 1, "boot"), 3600.0), {"p": PLAN}, {})
    store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q"))
    work = store.begin(Nudge("R", "a", 0, "q"), claimant)
    assert isinstance(work, Work)
    store.retry_later(work, BUSY, 1e300, 1e300)
    wake_at = store.run("R").stage("a").wake_at
    assert wake_at is not None
    assert wake_at.timestamp() < store.clock() + 3651 * 86_400
    store.close()
