"""The line of bubblewrap."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from stageflow_durable.sandbox.keeper.staging import Staging

TYPE_CHECKING = False  # typing itself would cost a third of the keeper's start
if TYPE_CHECKING:
    from typing import Any

ARGUMENTS, FILTER, STATUS = 10, 11, 12
"""Descriptors that bubblewrap is given, and the program is not."""

OVERHEAD = 2
"""Processes that are bubblewrap's own."""

NAMESPACES = ("user", "ipc", "pid", "net", "uts", "cgroup")
DEVICES = ("null", "zero", "full", "random", "urandom")
USER = "1000"


def arguments(job: Mapping[str, Any], staging: Staging) -> list[str]:
    """Everything that bubblewrap is told; it reads them from a descriptor, so that no path of the host is in the list
    of processes.
    """
    said = [f"--unshare-{name}" for name in NAMESPACES]
    said += ["--disable-userns", "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--clearenv"]
    said += ["--hostname", "sandbox", "--uid", USER, "--gid", USER]
    said += ["--seccomp", str(FILTER), "--json-status-fd", str(STATUS)]
    for part in (_devices(), _own(staging), _paths(job["paths"], staging)):
        said += part
    for name, value in job["env"].items():
        said += ["--setenv", name, value]
    said += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/work"]
    if any("\0" in word for word in said):  # what stands behind it would be an option
        raise OSError(errno.EINVAL, "a NUL in what bubblewrap is told")
    return said


def _paths(paths: Sequence[tuple[str, str, str]], staging: Staging) -> Iterator[str]:
    for number, (kind, source, target) in enumerate(paths):
        if kind == "hide":
            yield from ("--ro-bind", f"{staging.root}/{source}", target)
        elif kind == "link":
            yield from ("--symlink", source, target)
        else:
            yield from ("--ro-bind", staging.bound(number, source), target)
    shown = [target for _kind, _source, target in paths]
    for path, target in staging.etc():
        if "/etc" not in shown and target not in shown:
            yield from ("--ro-bind", path, target)


def _devices() -> Iterator[str]:
    # No terminals: there are few on a machine, and they are counted for all of it together.
    yield from ("--proc", "/proc", "--size", "4096", "--tmpfs", "/dev")
    for name in DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    yield from ("--symlink", "/proc/self/fd", "/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        yield from ("--symlink", f"/proc/self/fd/{number}", f"/dev/{name}")


def _own(staging: Staging) -> Iterator[str]:
    for name, target in (("work", "/work"), ("tmp", "/tmp"), ("shm", "/dev/shm")):  # noqa: S108  # inside, its own
        yield from ("--bind", f"{staging.root}/{name}", target)


def descriptor(data: bytes) -> int:
    """A file in memory with this content, to be read from its beginning."""
    made = os.memfd_create("sandbox")
    os.write(made, data)
    os.lseek(made, 0, os.SEEK_SET)
    return made


def status(said: bytes) -> tuple[int | None, int | None]:
    """The program's first process as the host numbers it, and its exit code; None for what was not told."""
    told: dict[str, Any] = {}
    for line in said.splitlines():
        with suppress(ValueError):
            told.update(json.loads(line))
    return told.get("child-pid"), told.get("exit-code")
