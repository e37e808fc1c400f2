"""What a sandbox may see, use and bring out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from stageflow_durable.duration import shown
from stageflow_durable.errors import ConfigurationError

SYSTEM_PATHS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
)
"""Programs and libraries of the machine; those that there are."""

_NEVER = ("/", "/proc", "/sys", "/dev", "/run", "/var/run", "/work", "/tmp")  # noqa: S108  # names, nothing is written
_NEVER_BELOW = ("/proc", "/sys", "/dev")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = frozenset({"HOME", "TMPDIR", "STAGEFLOW_IDEMPOTENCY_KEY"})
_LOADS_CODE = re.compile(r"LD_.*|GLIBC_TUNABLES|PYTHON(PATH|HOME|STARTUP|INSPECT|USERBASE)")
MAX_NAME = 255


class SandboxLevel(IntEnum):
    """How much stands between a tool and the machine. Higher ones include what the lower ones stop."""

    PROCESS = 1
    """Another process of the same system, with bounds: for development."""
    CONTAINER = 2
    """Namespaces and a filter of system calls: nothing of the system is seen; the kernel is shared."""
    KERNEL = 3
    """A kernel of its own, in user space: the machine's kernel is hardly reached."""
    MACHINE = 4
    """A virtual machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What a sandbox may use; beyond it, it is ended, or its calls fail.

    ``wall`` and ``cpu``: seconds. ``memory``: bytes of all processes together, with what is in the work directory,
    where a cgroup can be had; else of each, and watched together. ``processes``: at once, threads are counted.
    ``files``: descriptors of each process. ``file_size``: bytes of one file; ``disk``: bytes of all, ``disk_files``:
    their number. ``output``: bytes of stdout, of stderr, of a function's value, and of all files that are taken out.
    Raises ConfigurationError for what is no such number.
    """

    wall: float = 60.0
    cpu: float = 30.0
    memory: int = 512 << 20
    processes: int = 64
    files: int = 256
    file_size: int = 64 << 20
    disk: int = 64 << 20
    disk_files: int = 4096
    output: int = 1 << 20

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            kinds = (int, float) if name in ("wall", "cpu") else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
                raise ConfigurationError(
                    f"SandboxLimits {name}: must be a number from {least:,} to {most:,}, not {shown(value)}"
                )


_RANGES: dict[str, tuple[float, float]] = {
    "wall": (0.05, 86400),
    "cpu": (0.05, 86400),
    "memory": (4 << 20, 1 << 44),
    "processes": (1, 4096),
    "files": (16, 65536),
    "file_size": (0, 1 << 40),
    "disk": (1 << 16, 1 << 40),
    "disk_files": (1, 1 << 20),
    "output": (1, 256 << 20),
}

Secret = str | Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPolicy:
    """Everything that a tool gets; what is not named here it does not get. There is no network.

    ``read_only``: absolute paths of the host that it can read; a path that does not exist is left out.
    ``outputs``: names of files of its work directory that are taken out. ``environment``: variables, beside ``PATH``,
    ``LANG``, ``HOME``, ``TMPDIR`` and ``STAGEFLOW_IDEMPOTENCY_KEY``. ``secrets``: variables whose value is a text, or a
    function that gives it at the start; they are masked in what comes back. ``user``: the real uid, where the worker is
    root; None: one that no other sandbox has. ``minimum_level``: what isolates less is never used. ``backend``: the
    name of the only one that may be used, or None. Raises ConfigurationError.
    """

    read_only: tuple[str, ...] = SYSTEM_PATHS
    outputs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    user: int | None = None
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    minimum_level: SandboxLevel = SandboxLevel.CONTAINER
    backend: str | None = None

    def __post_init__(self) -> None:
        put: Any = object.__setattr__  # it is frozen for everybody else
        for name in ("read_only", "outputs"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise ConfigurationError(f"SandboxPolicy {name}: must be several, not the text {shown(given)}")
            put(self, name, tuple(map(str, given)))
        for path in self.read_only:
            _check_path(path)
        for name in self.outputs:
            check_file_name(name, "outputs")
        _check_variables(self.environment, self.secrets)
        self._check_user()
        put(self, "minimum_level", _level(self.minimum_level))

    def _check_user(self) -> None:
        user: Any = self.user
        if user is not None and (type(user) is not int or not 0 < user < 1 << 32):
            raise ConfigurationError(f"SandboxPolicy user: must be a uid other than root's, not {shown(user)}")
        if not isinstance(self.limits, SandboxLimits):
            raise ConfigurationError(f"SandboxPolicy limits: must be SandboxLimits(…), not {shown(self.limits)}")


def _level(given: Any) -> SandboxLevel:
    try:
        return SandboxLevel(given)
    except ValueError:
        names = ", ".join(f"SandboxLevel.{level.name}" for level in SandboxLevel)
        raise ConfigurationError(f"SandboxPolicy minimum_level: must be one of {names}, not {shown(given)}") from None


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path.startswith("/") or ".." in parts or "\0" in path or (len(path) > 1 and "" in parts[1:]):
        raise ConfigurationError(f"SandboxPolicy read_only: {shown(path)} is no absolute path without '..' and '//'")
    if path in _NEVER or path.startswith(tuple(f"{one}/" for one in _NEVER_BELOW)):
        raise ConfigurationError(
            f"SandboxPolicy read_only: {path} would show the host itself; name what the tool needs below it"
        )


def check_file_name(name: str, what: str) -> None:
    """Refuse a name that leads out of the work directory. Raises ConfigurationError."""
    parts = name.split("/")
    if (
        "\0" in name
        or any(part in ("", ".", "..") or len(part.encode()) > MAX_NAME for part in parts)
        or len(parts) > 16
    ):
        raise ConfigurationError(f"{what}: {shown(name)} is no name of a file in the work directory")


def _check_variables(environment: Mapping[Any, object], secrets: Mapping[Any, object]) -> None:
    for name, value in (*environment.items(), *secrets.items()):
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name) or name in _RESERVED:
            raise ConfigurationError(f"SandboxPolicy: {shown(name)} cannot be the name of a variable of the sandbox")
        if _LOADS_CODE.fullmatch(name):
            raise ConfigurationError(f"SandboxPolicy: {name} would change which code is loaded; put it into the tool")
        if not isinstance(value, str) and not (name in secrets and callable(value)):
            raise ConfigurationError(f"SandboxPolicy: the variable {name} must be a text")
        if isinstance(value, str) and "\0" in value:
            raise ConfigurationError(f"SandboxPolicy: the variable {name} holds a NUL, which no variable can")
    for name in environment.keys() & secrets.keys():
        raise ConfigurationError(f"SandboxPolicy: {name} stands in environment and in secrets")
