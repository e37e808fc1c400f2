"""The directory of the one-machine mode: what lies where, and who may read it.

``.stageflow/``: ``lock`` (held by the one process that keeps the broker), ``state.json`` (who that is, on which
port), ``password`` and ``audit.key`` (made once), ``stageflow.db``, ``valkey/`` (configuration, append-only file) and
``log/``.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stageflow_durable.errors import ConfigurationError

# Valkey and SQLite both stop in the middle of their work without room; better not to begin.
LEAST_FREE_BYTES = 16 * 1024 * 1024


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
        """Make the directories, closed to other users; raises :class:`ConfigurationError` where that cannot be."""
        try:
            for directory in (self.root, self.valkey, self.logs):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # It holds passwords and everybody's runs; nobody means to commit it.
            (self.root / ".gitignore").write_text("*\n")
        except OSError as error:
            raise ConfigurationError(f"{self.root} cannot be used: {error.strerror}; set STAGEFLOW_HOME") from error
        left = free(self.root)
        if left < LEAST_FREE_BYTES:
            raise ConfigurationError(
                f"the disk of {self.root} is full ({left // 1024} KiB left); make room, or set STAGEFLOW_HOME"
            )


class HomeLock:
    """The lock of a home: one process at a time; the kernel frees it however that process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; answers whether it is ours now."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        # A forked child shares the open file, and would keep the lock after we are gone.
        os.register_at_fork(after_in_child=self.release)
        return True

    def release(self) -> None:
        """Give the lock back, if it is ours."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` in one step, readable by its owner only from the first byte on."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def secret(path: Path) -> str:
    """What the file holds; made of chance, for its owner only, when it is not there."""
    if not path.exists():
        write_private(path, secrets.token_hex(32))
    return path.read_text().strip()
