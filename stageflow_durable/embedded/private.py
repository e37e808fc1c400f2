"""Files and directories of a home: its user's alone, also where they were there before."""

from __future__ import annotations

import os
import pwd
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stageflow_durable.errors import ConfigurationError

OTHERS = 0o077
"""What of a mode is not the owner's."""
_SECRET_CHARACTERS = 16


@contextmanager
def accessible(root: Path) -> Iterator[None]:
    """Inside, a file of another user's is told in one line: whose it is, and the ways out."""
    try:
        yield
    except PermissionError as error:
        raise ConfigurationError(f"{root} cannot be used ({error.strerror}): {_whose(root)}") from error


def _whose(path: Path) -> str:
    try:
        owner = path.stat().st_uid
    except OSError:
        return "run as its user, or set STAGEFLOW_HOME"
    if owner == os.geteuid():
        return "it holds files of another user; remove them, or set STAGEFLOW_HOME"
    return f"it belongs to {_name(owner)}, and this is {_name(os.geteuid())}; run as that user, or set STAGEFLOW_HOME"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # a container's user id without a name
        return f"user {user}"


def private_directory(path: Path, ours: frozenset[str] | None = None) -> bool:
    """Make a directory that other users cannot enter, or close one that is there; returns whether it was open to them.

    ``ours``: the names that may be inside one that is to be closed, or None: any. Raises ConfigurationError where it is
    a link, another user's, or open to others and holds something else, which they may need.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        found = path.stat() if ours is not None else path.lstat()  # the home itself may be reached by a link
        _require_own(path, found, stat.S_ISDIR(found.st_mode))
        if found.st_mode & OTHERS:
            _close(path, ours)
            return True
    return False


def _close(path: Path, ours: frozenset[str] | None) -> None:
    there = () if ours is None else path.iterdir()
    strange = sorted(entry.name for entry in there if entry.name not in (ours or ()) and entry.suffix != ".new")
    if strange:
        raise ConfigurationError(
            f"{path} is open to other users of this machine, and holds more than this ({strange[0]}): "
            f"give it a directory of its own with STAGEFLOW_HOME, or close it: chmod 700 {path}"
        )
    path.chmod(0o700)


def private_contents(root: Path) -> list[Path]:
    """Close every file and directory below ``root`` to others; returns the files that were open to them. Raises
    ConfigurationError at a link or another user's file: somebody may have put it there.
    """
    opened = []
    for place, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(place, name)
            try:
                found = path.lstat()
            except FileNotFoundError:  # whoever runs here replaces files
                continue
            is_directory = stat.S_ISDIR(found.st_mode)
            _require_own(path, found, is_directory or stat.S_ISREG(found.st_mode))
            if found.st_mode & OTHERS:
                path.chmod(0o700 if is_directory else 0o600)
                opened += [] if is_directory else [path]
    return opened


def _require_own(path: Path, found: os.stat_result, expected: bool) -> None:
    if not expected:
        raise ConfigurationError(
            f"{path} is no plain file or directory, which somebody may have put there: remove it, or set STAGEFLOW_HOME"
        )
    if found.st_uid != os.geteuid() and os.geteuid() != 0:  # root may work in its users' places, as in a container
        raise ConfigurationError(
            f"{path} belongs to {_name(found.st_uid)}, and this is {_name(os.geteuid())}: "
            "run as that user, or set STAGEFLOW_HOME"
        )


def private_file(path: Path) -> None:
    """Make an empty file that its owner alone may read, where none is. What SQLite writes beside it gets its mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` in one step, readable by its owner only from the first byte on."""
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def secret(path: Path) -> str:
    """What the file holds; made of chance, for its owner only, when it is not there. Raises ConfigurationError where it
    is too short to be one.
    """
    if not path.exists():
        write_private(path, secrets.token_hex(32))
    found = path.read_text().strip()
    if len(found) < _SECRET_CHARACTERS:
        raise ConfigurationError(
            f"{path} holds no secret of {_SECRET_CHARACTERS} characters or more: restore or remove it"
        )
    return found
