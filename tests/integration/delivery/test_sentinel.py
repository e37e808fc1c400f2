"""A broker behind sentinels: by a setting, or refused by name before anything is recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from stageflow_durable import Engine, Pipeline
from stageflow_durable.embedded.ports import free_port
from stageflow_durable.errors import ConfigurationError
from tests.services.broker import BrokerService, valkey_binary
from tests.services.process import end_group, eventually, spawn

pytestmark = pytest.mark.redis
PIPELINE = Pipeline("p").stage("s", lambda ctx: 1)


@pytest.fixture
def sentinel(valkey: BrokerService, tmp_path: Path) -> Iterator[str]:
    """Where a sentinel of this test's listens, which watches the session's server as ``mymaster``."""
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor mymaster 127.0.0.1 {valkey.port} 1\nsentinel auth-pass mymaster {valkey.password}\n"
        "requirepass asked\n"
    )
    process = spawn([valkey_binary(), conf, "--sentinel"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        with Redis(port=port, password="asked") as client:
            eventually(lambda: client.execute_command("SENTINEL", "masters"), within=20, what="the sentinel answers")
        yield f"127.0.0.1:{port}"
    finally:
        end_group(process)


def engine(database: str, broker: str, **settings: Any) -> Engine:
    return Engine("e", [PIPELINE], database_url=database, broker_url=broker, **settings)


def test_given_a_masters_name_then_runs_are_published_and_a_worker_is_given_the_same(
    migrated_sqlite_url: str, sentinel: str, valkey: BrokerService, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sentinel://:{valkey.password}@{sentinel}/9"
    made = engine(migrated_sqlite_url, url, sentinel_master="mymaster", sentinel_password="asked")
    made.enqueue("p", {})
    assert "left to the recovery sweep" not in caplog.text
    with valkey.client(9) as client:
        assert client.llen("stageflow-e") == 1
        client.flushdb()
    assert "asked" not in repr(made.settings)
    made.close()


def test_given_no_masters_name_then_it_is_refused_by_name_and_nothing_is_recorded(migrated_sqlite_url: str) -> None:
    made = engine(migrated_sqlite_url, "sentinel://127.0.0.1:1/0")
    with pytest.raises(ConfigurationError, match="STAGEFLOW_SENTINEL_MASTER"):
        made.enqueue("p", {})
    assert engine(migrated_sqlite_url, "memory://").runs() == []
