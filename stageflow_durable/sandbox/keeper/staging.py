"""What a sandbox is made of: paths of the host, and a directory of its own that is bounded and vanishes with it.

Both are mounted in a namespace that only the keeper and the sandbox have: nothing has to be unmounted, whoever is
killed. The paths are bound there by the keeper, so that a sandbox with a uid of its own gets them from below
directories that it could not enter.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from stageflow_durable.sandbox.keeper import system

PLACES = ("/mnt", "/media", "/srv", "/opt", "/var/tmp", "/tmp")  # noqa: S108  # mounted over, in a namespace of its own
DIRECTORIES = ("work", "tmp", "shm")


class TooLarge(Exception):
    """Files that were to be taken out are larger, together, than what may be."""


def enter_namespace() -> None:
    """Mount from here on for this process alone. Raises OSError where that is not allowed."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        try:
            system.unshare(system.NEW_MOUNTS)
        except PermissionError:
            _enter_as_user(uid, gid)
    else:
        _enter_as_user(uid, gid)
    system.mount("none", "/", flags=system.RECURSIVE | system.SLAVE)


def _enter_as_user(uid: int, gid: int) -> None:
    system.unshare(system.NEW_USERS | system.NEW_MOUNTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


class Staging:
    """A directory below which everything of one sandbox stands."""

    def __init__(self, sources: Sequence[str], size: int, files: int, owner: int | None) -> None:
        self.root = _place(sources)
        self.owner = owner
        system.mount(
            "sandbox",
            self.root,
            "tmpfs",
            system.NO_SUID | system.NO_DEVICES,
            f"size={size},nr_inodes={files + 64 + 2 * len(sources)},mode=711",
        )
        self._made("nothing")
        os.close(os.open(f"{self.root}/empty", os.O_CREAT | os.O_WRONLY, 0o444))
        for name in DIRECTORIES:
            self._own(self._made(name), 0o700 if name == "work" else 0o1777)

    def _made(self, name: str) -> str:
        path = f"{self.root}/{name}"
        os.mkdir(path, 0o755)
        return path

    def _own(self, path: str, mode: int) -> None:
        os.chmod(path, mode)
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)

    def bound(self, number: int, source: str) -> str:
        """Where the host's ``source`` can be had; raises OSError where there is none."""
        target = f"{self.root}/{number}"
        if stat.S_ISDIR(os.stat(source).st_mode):
            self._made(str(number))
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        system.mount(source, target, flags=system.BIND | system.RECURSIVE)
        return target

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put named files into the work directory, before anything runs."""
        write_files(f"{self.root}/work", files, self.owner)

    def etc(self) -> Iterator[tuple[str, str]]:
        """Small files that programs expect: where each is, and where it belongs."""
        self._made("etc")
        for name, text in _ETC.items():
            path = f"{self.root}/etc/{name}"
            with open(path, "w") as file:
                file.write(text)
            yield path, f"/etc/{name}"


_ETC = {
    "passwd": "sandbox:x:1000:1000::/work:/bin/sh\n",
    "group": "sandbox:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}


def _place(sources: Sequence[str]) -> str:
    for place in PLACES:
        if os.path.isdir(place) and not any(f"{one}/".startswith(f"{place}/") for one in sources):
            return place
    raise OSError(errno.ENOENT, f"none of {', '.join(PLACES)} is a directory that the sandbox does not need")


# --- files in and out -------------------------------------------------------------------------------------------------


def write_files(root: str, files: Mapping[str, bytes], owner: int | None) -> None:
    """Write named files below ``root``, which nothing else can change yet."""
    for name, data in files.items():
        path = root
        *directories, _last = name.split("/")
        for directory in directories:
            path = f"{path}/{directory}"
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
                _give(path, owner)
        target = f"{root}/{name}"
        with open(target, "xb") as file:
            file.write(data)
        _give(target, owner)


def _give(path: str, owner: int | None) -> None:
    if owner is not None:
        os.chown(path, owner, owner)


def read_files(root: str, names: Sequence[str], most: int) -> dict[str, bytes]:
    """The named files below ``root`` that there are: regular ones alone, no link is followed at any step. Call it once
    nothing of the sandbox runs. Raises TooLarge beyond ``most`` bytes together.
    """
    found: dict[str, bytes] = {}
    for name in names:
        file = _opened(root, name)
        if file is not None:
            try:
                found[name] = _read(file, most - sum(map(len, found.values())))
            finally:
                os.close(file)
    return found


def _read(file: int, most: int) -> bytes:
    data = b""
    while len(data) <= most and (more := os.read(file, min(1 << 20, most + 1 - len(data)))):
        data += more
    if len(data) > most:
        raise TooLarge
    return data


_NOT_A_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES)


def _opened(root: str, name: str) -> int | None:
    """A regular file that is reached without a link and has one name, or None for whatever else stands there."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in name.split("/"):
            before = at
            at = os.open(step, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=before)
            os.close(before)
        found = os.fstat(at)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return at
    except OSError as error:
        if error.errno not in _NOT_A_FILE:
            raise
    os.close(at)
    return None
