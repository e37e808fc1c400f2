"""PgBouncer for tests, in front of the session's PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from tests.services.missing import ServiceMissing
from tests.services.port import Port
from tests.services.postgres import server_user
from tests.services.process import end_group, eventually, kill_group, spawn


class PoolerService:
    """One PgBouncer on 127.0.0.1, as its package configures it: what it is told is where the server is, who may log in,
    and ``options`` of its ``[pgbouncer]`` section. ``STAGEFLOW_TEST_PGBOUNCER`` names another program than the PATH's.
    """

    def __init__(self, server: str, mode: str = "transaction", **options: str) -> None:
        self._server = make_url(server)
        self._options = {"pool_mode": mode, "default_pool_size": "4", **options}
        self._port = Port()
        self.directory = Path(tempfile.mkdtemp(prefix="sf-pgbouncer-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._user = server_user()
        if self._user is not None:
            os.chown(self.directory, self._user, self._user)
        self.binary = found_binary()

    def url(self, database: str) -> str:
        """The URL of ``database`` (a URL of the server's) by way of this pooler."""
        to = make_url(database).set(host="127.0.0.1", port=self._port.number)
        return to.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it; returns when it answers."""
        if not self._port.comes_up(self._spawn, self._answers_or_dies):
            raise AssertionError(f"PgBouncer does not start:\n{self.log()}")

    def stop(self) -> None:
        """SIGINT: it waits for nobody."""
        if self.process is not None:
            end_group(self.process, first=signal.SIGTERM)
            self.process = None

    def log(self) -> str:
        """The end of its log."""
        path = self.directory / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def close(self) -> None:
        """Kill it and delete its files."""
        if self.process is not None:
            kill_group(self.process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self) -> None:
        (self.directory / "users").write_text(f'"{self._server.username}" "{self._server.password}"\n')
        (self.directory / "ini").write_text(self._configuration())
        with (self.directory / "log").open("ab") as log:
            argv = [self.binary, self.directory / "ini"]
            self.process = spawn(argv, cwd=self.directory, stdout=log, user=self._user)

    def _configuration(self) -> str:
        options = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self._port.number),
            "auth_type": "plain",
            "auth_file": str(self.directory / "users"),
            "unix_socket_dir": "",
            **self._options,
        }
        there = f"[databases]\n* = host={self._server.host} port={self._server.port}\n[pgbouncer]\n"
        return there + "".join(f"{name} = {value}\n" for name, value in options.items())

    def _answers_or_dies(self) -> bool:
        eventually(lambda: not self._runs() or self._answers(), within=15, what="PgBouncer answers")
        return self._runs()

    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _answers(self) -> bool:
        plain = self.url(self._server.render_as_string(hide_password=False)).replace("+psycopg", "")
        try:
            with psycopg.connect(plain, connect_timeout=2, autocommit=True):
                return True
        except psycopg.OperationalError:
            return False


def found_binary() -> Path:
    """The program; raises :class:`ServiceMissing` without it."""
    named = os.environ.get("STAGEFLOW_TEST_PGBOUNCER") or shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(named).exists():
        raise ServiceMissing("pgbouncer is not on the PATH: apt-get install pgbouncer")
    return Path(named)
