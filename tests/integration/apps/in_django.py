"""A Django application that starts runs in its transactions: a script, given its database's URL and another's file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from sqlalchemy.engine import make_url

import django
from stageflow_durable import Engine
from stageflow_durable.django import enqueue
from stageflow_durable.errors import ConfigurationError, IdempotencyParamMismatch, StageflowError
from tests.integration.database.test_joined import ORDERS, Sent, is_there


def main(url: str, other: str) -> None:
    """What is promised, line by line."""
    database = _database(url)
    beside = {"ENGINE": "django.db.backends.sqlite3", "NAME": other}
    settings.configure(DATABASES={"default": database, "other": beside})
    django.setup()
    from django.db import connection, transaction

    sent = Sent()
    given: Any = {"publisher": sent, "redis_url": "off", "broker_url": "memory://"}
    engine = Engine("shop", [ORDERS], database_url=url, **given)

    def sql(text: str) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchone() if cursor.description else None

    sql("CREATE TABLE mine (id integer PRIMARY KEY)")
    with refused(ConfigurationError, "atomic()"):
        enqueue(engine, ORDERS, {})
    with transaction.atomic():
        sql("INSERT INTO mine VALUES (1)")
        run = enqueue(engine, ORDERS, {"n": 1}, idempotency_key="A-1")
        with refused(IdempotencyParamMismatch, "A-1"):
            enqueue(engine, ORDERS, {"n": 2}, idempotency_key="A-1")
        assert enqueue(engine, ORDERS, {"n": 1}, idempotency_key="A-1").replayed
        savepoint = transaction.savepoint()
        gone = enqueue(engine, ORDERS, {})
        transaction.savepoint_rollback(savepoint)
        if connection.vendor == "postgresql":
            assert sql("SHOW lock_timeout") == ("0",)
        assert not is_there(engine, run.run_id)
        assert sent.runs == []
    assert sent.runs == [run.run_id]
    assert [is_there(engine, one.run_id) for one in (run, gone)] == [True, False]
    with transaction.atomic():
        rolled_back = enqueue(engine, ORDERS, {})
        transaction.set_rollback(True)
    assert not is_there(engine, rolled_back.run_id)
    with transaction.atomic(using="other"), refused(ConfigurationError, "it is on"):
        enqueue(engine, ORDERS, {}, using="other")
    assert sql("SELECT count(*) FROM mine") == (1,)
    assert sent.runs == [run.run_id]
    engine.close()
    print("all of it")


def _database(url: str) -> dict[str, Any]:
    found = make_url(url)
    if found.get_backend_name() == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": found.database}
    named = {"USER": found.username, "PASSWORD": found.password, "HOST": found.host, "PORT": found.port}
    return {"ENGINE": "django.db.backends.postgresql", "NAME": found.database, **named}


@contextmanager
def refused(kind: type[StageflowError], says: str) -> Iterator[None]:
    """Fails unless this is raised."""
    try:
        yield
    except kind as why:
        if says not in str(why):
            raise
    else:
        raise AssertionError(f"not refused: {says}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
