"""The directory of the one-machine mode: what lies where, and who may read it.

``.stageflow/``: ``lock`` (held by the one process that keeps the broker), ``state.json`` (who that is, on which
port), ``password`` and ``audit.key`` (made once), ``stageflow.db``, ``valkey/`` (configuration, append-only file) and
``log/``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stageflow_durable.embedded.private import private_contents, private_directory, secret, write_private
from stageflow_durable.errors import ConfigurationError

# Valkey and SQLite both stop in the middle of their work without room; better not to begin.
LEAST_FREE_BYTES = 16 * 1024 * 1024


_PASSWORDS = frozenset({"password", "flower.password"})
_OURS = frozenset(
    {
        *_PASSWORDS,
        *("lock", "state.json", "audit.key", "stageflow.db", "stageflow.db-wal", "stageflow.db-shm", "valkey", "log"),
        *("up.lock", "up.json", ".gitignore", "celerybeat-schedule", "celerybeat-schedule.db"),
        *(f"celerybeat-schedule.{end}" for end in ("bak", "dat", "dir")),
    }
)
"""What a home holds; one that is open to others and holds more is somebody's for another purpose."""


@dataclass(frozen=True, slots=True)
class Home:
    """The layout below ``root`` (absolute)."""

    root: Path

    @property
    def lock(self) -> Path:
        """Locked by whoever keeps the broker, for as long as it lives."""
        return self.root / "lock"

    @property
    def state(self) -> Path:
        """Who keeps the broker and where it listens."""
        return self.root / "state.json"

    @property
    def valkey(self) -> Path:
        """The broker's configuration and data."""
        return self.root / "valkey"

    @property
    def logs(self) -> Path:
        """One file a child process."""
        return self.root / "log"

    @property
    def database(self) -> Path:
        """The database's file."""
        return self.root / "stageflow.db"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return f"sqlite:///{self.database}"

    def password(self) -> str:
        """The broker's password; made on first use."""
        return secret(self.root / "password")

    def audit_key(self) -> str:
        """The key of the event chain's HMACs; made on first use."""
        return secret(self.root / "audit.key")

    def prepare(self, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free) -> None:
        """Make the directories and close them, and what they hold, to other users; raises :class:`ConfigurationError`
        where that cannot be. Passwords that others could read are made anew.
        """
        if "?" in str(self.root):  # a database's URL ends there
            raise ConfigurationError(f"{self.root}: a home's path may hold no question mark; set STAGEFLOW_HOME")
        try:
            was_open = private_directory(self.root, _OURS)
            for directory in (self.valkey, self.logs):
                private_directory(directory)
            exposed = private_contents(self.root)
            if was_open:
                self._forget_passwords(exposed)
            # It holds passwords and everybody's runs; nobody means to commit it.
            if not (ignored := self.root / ".gitignore").exists():
                write_private(ignored, "*\n")
        except OSError as error:
            raise ConfigurationError(f"{self.root} cannot be used: {error.strerror}; set STAGEFLOW_HOME") from error
        left = free(self.root)
        if left < LEAST_FREE_BYTES:
            raise ConfigurationError(
                f"the disk of {self.root} is full ({left // 1024} KiB left); make room, or set STAGEFLOW_HOME"
            )

    def _forget_passwords(self, exposed: Sequence[Path]) -> None:
        """Those that others could read; while a broker knows one it stays until that has stopped."""
        lock = HomeLock(self.lock)
        if not lock.acquire():
            return
        for file in exposed:
            if file.name in _PASSWORDS:
                file.unlink()
        lock.release()


class HomeLock:
    """The lock of a home: one process at a time; the kernel frees it however that process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; answers whether it is ours now."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        # A forked child shares the open file, and would keep the lock after we are gone.
        os.register_at_fork(after_in_child=self.release)
        return True

    def stood(self) -> bool:
        """:attr:`stands`, to be asked later."""
        return self.stands

    @property
    def stands(self) -> bool:
        """Whether the lock is ours and still the one that others would take: not deleted, nor its directory."""
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back, if it is ours."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
