"""Bounding everything of a sandbox together: a cgroup of its own, version 1 or 2, where this process may make one.

Each controller of version 1 has a path of its own, and the process's group need not be the root of any. What a killed
keeper left behind is removed by the next one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

NAME = "stageflow-sandbox-"
PATIENCE = 5.0
"""Seconds in which a group whose processes were killed becomes empty."""

NEEDED = ("memory", "pids")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def bases(own: str, mounts: str) -> dict[str, str]:
    """Where groups can be made, by controller ("" is the tree of version 2), from the contents of ``/proc/self/cgroup``
    and ``/proc/self/mountinfo``. Pure.
    """
    mounted = dict(_mounted(mounts))
    found: dict[str, str] = {}
    for line in own.splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in mounted:
                root, place = mounted[name]
                below = path[len(root) :] if root != "/" and path.startswith(root) else path
                found[name] = place + below.rstrip("/")
    return found


def _mounted(mounts: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for line in mounts.splitlines():
        before, _dash, after = line.partition(" - ")
        kind, _source, options = (*after.split(" "), "", "")[:3]
        root, place = before.split(" ")[3:5]
        if kind == "cgroup2":
            yield "", (root, place)
        elif kind == "cgroup":
            for option in options.split(","):
                yield option, (root, place)


class Group:
    """The groups of one sandbox, by controller; ``bounds`` names the controllers that bound it."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)

    @classmethod
    def made(cls, memory: int, processes: int) -> Group:
        """A group with these bounds; one without any where none can be made."""
        try:
            found = bases(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
        except OSError:
            return cls({})
        group = cls({})
        name = f"{NAME}{os.getpid()}-{os.urandom(4).hex()}"
        for controller in ("memory", "pids", "cpuacct", ""):
            if controller in found:
                _sweep(found[controller])
                group._add(controller, found[controller], name)
        group._bound(memory, processes)
        return group

    def _add(self, controller: str, base: str, name: str) -> None:
        with suppress(OSError):
            os.mkdir(f"{base}/{name}", 0o755)
            self.paths[controller] = f"{base}/{name}"

    def _bound(self, memory: int, processes: int) -> None:
        for controller, file, value in (
            ("memory", "memory.limit_in_bytes", memory),
            ("memory", "memory.memsw.limit_in_bytes", memory),
            ("pids", "pids.max", processes),
            ("", "memory.max", memory),
            ("", "memory.swap.max", 0),
            ("", "pids.max", processes),
        ):
            if controller in self.paths:
                with suppress(OSError):
                    _write(f"{self.paths[controller]}/{file}", str(value))

    @property
    def bounds_memory(self) -> bool:
        """Whether all processes together have one bound of memory."""
        return any(self._number(file) not in (None, 0) for file in ("memory.limit_in_bytes", "memory.max"))

    def enter(self) -> None:
        """Move this process into the group. Raises OSError."""
        for path in self.paths.values():
            _write(f"{path}/cgroup.procs", "0")

    def cpu_seconds(self) -> float | None:
        """What all processes together have used so far, or None."""
        nanoseconds = self._number("cpuacct.usage")
        if nanoseconds is not None:
            return nanoseconds / 1e9
        microseconds = self._field("cpu.stat", "usage_usec")
        return None if microseconds is None else microseconds / 1e6

    def memory_peak(self) -> int | None:
        """The most that all processes together have had, or None."""
        return next(
            (found for name in ("memory.max_usage_in_bytes", "memory.peak") if (found := self._number(name))), None
        )

    def killed_for_memory(self) -> bool:
        """Whether the kernel ended a process here since there was no memory left."""
        return any(self._field(file, "oom_kill") for file in ("memory.oom_control", "memory.events"))

    def refused_processes(self) -> bool:
        """Whether a process could not be started since there were as many as may be."""
        return bool(self._field("pids.events", "max"))

    def _number(self, file: str) -> int | None:
        for path in self.paths.values():
            with suppress(OSError, ValueError):
                return int(_read(f"{path}/{file}"))
        return None

    def _field(self, file: str, name: str) -> int | None:
        for path in self.paths.values():
            with suppress(OSError, ValueError):
                fields = dict(line.split(" ", 1) for line in _read(f"{path}/{file}").splitlines())
                if name in fields:
                    return int(fields[name])
        return None

    def kill(self) -> None:
        """End every process of the group."""
        with suppress(OSError, KeyError):
            _write(f"{self.paths['']}/cgroup.kill", "1")

    def remove(self) -> None:
        """Remove the group, once its processes are gone."""
        until = time.monotonic() + PATIENCE
        for path in self.paths.values():
            while not _removed(path) and time.monotonic() < until:
                time.sleep(0.01)  # noqa: TID251  # nobody tells when a group is empty


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _sweep(base: str) -> None:
    """Remove groups of keepers that are gone."""
    with suppress(OSError):
        for name in os.listdir(base):
            number = name.removeprefix(NAME).partition("-")[0]
            if name.startswith(NAME) and number.isdigit() and not os.path.exists(f"/proc/{number}"):
                _removed(f"{base}/{name}")
