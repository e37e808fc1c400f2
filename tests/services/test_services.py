"""The services that other tests stand on do what they say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from redis.exceptions import AuthenticationError, RedisError

from tests.services.broker import BrokerService
from tests.services.missing import missing
from tests.services.postgres import PostgresService
from tests.services.process import Processes, eventually

ROOT = Path(__file__).parents[2]


def _connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("+psycopg", ""), connect_timeout=5)


def test_each_postgres_url_is_an_empty_database_of_its_own(postgres: PostgresService) -> None:
    one, other = postgres.create_database(), postgres.create_database()
    with _connect(one) as connection:
        connection.execute("CREATE TABLE t (n int)")
    with _connect(other) as connection:
        assert connection.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_a_database_made_from_a_template_has_its_tables(postgres: PostgresService) -> None:
    template = postgres.create_database()
    with _connect(template) as connection:
        connection.execute("CREATE TABLE t (n int)")
    with _connect(postgres.create_database(template)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_killed_postgres_comes_back_with_what_was_committed(postgres: PostgresService, postgres_url: str) -> None:
    with _connect(postgres_url) as connection:
        connection.execute("CREATE TABLE t (n int)")
    postgres.kill()
    postgres.start()
    with _connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_paused_postgres_answers_again_after_resume(postgres: PostgresService, postgres_url: str) -> None:
    with _connect(postgres_url) as connection:
        postgres.pause()
        postgres.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_killed_broker_comes_back_on_its_port_with_what_was_written(broker: BrokerService) -> None:
    url = broker.url
    with broker.client() as client:
        client.set("kept", "yes")
        eventually(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    broker.kill()
    broker.start()
    with broker.client() as client:
        assert (broker.url, client.get("kept")) == (url, b"yes")


def test_a_broker_asks_for_its_password_and_evicts_nothing(broker: BrokerService) -> None:
    with broker.client() as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("bind")["bind"] == "127.0.0.1"
    with broker.client() as client:
        client.connection_pool.connection_kwargs["password"] = "guess"
        with pytest.raises(AuthenticationError):
            client.ping()


def test_a_paused_broker_does_not_answer_until_resumed(valkey: BrokerService) -> None:
    valkey.pause()
    with valkey.client() as client:
        client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
        with pytest.raises(RedisError):
            client.ping()
    valkey.resume()
    with valkey.client() as client:
        assert client.ping()


@pytest.mark.parametrize("service", [BrokerService.valkey, PostgresService])
def test_a_server_whose_port_was_taken_before_its_first_start_takes_another(
    service: Callable[[], BrokerService | PostgresService],
) -> None:
    server = service()
    try:
        with socket.create_server(("127.0.0.1", server.port)) as holder:
            taken = holder.getsockname()[1]
            server.start()
        port = server.port
        assert port != taken
        server.kill()
        server.start()
        assert server.port == port
    finally:
        server.close()


def test_a_fresh_broker_database_is_empty(fresh_broker_db: str) -> None:
    assert fresh_broker_db.startswith("redis://:")


def test_a_missing_service_skips_here_and_fails_where_services_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("STAGEFLOW_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such thing"):
        missing("no such thing")
    monkeypatch.setenv("STAGEFLOW_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="no such thing"):
        missing("no such thing")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a killed process")
def test_no_server_survives_the_process_that_started_it(end: signal.Signals, tmp_path: Path) -> None:
    script = """
import sys, time
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService
broker, postgres = BrokerService.valkey(), PostgresService()
broker.start(); postgres.start()
print(broker.process.pid, postgres.process.pid, broker.directory, postgres.directory, flush=True)
time.sleep(60)
"""
    with (
        (tmp_path / "errors").open("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as session,
    ):
        assert session.stdout is not None
        try:
            said = session.stdout.readline().split()
        finally:
            session.send_signal(end)
    assert len(said) == 4, (tmp_path / "errors").read_text()
    *pids, broker_room, postgres_room = said
    eventually(lambda: not any(_alive(int(pid)) for pid in pids), what="the servers are gone")
    subprocess.run(["rm", "-rf", broker_room, postgres_room], check=True)


def test_the_children_of_a_test_end_with_it(tmp_path: Path) -> None:
    children = Processes(tmp_path)
    shell = children.start("shell", ["sh", "-c", "sleep 60 & echo $!; wait"])
    eventually(lambda: children.log("shell").strip())
    children.close()
    grandchild = int(children.log("shell"))
    eventually(lambda: not _alive(shell.pid) and not _alive(grandchild), what="both are gone")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
