"""The calls of Linux that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Mapping

_libc = ctypes.CDLL(None, use_errno=True)

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, SLAVE = 1, 2, 4, 32, 4096, 16384, 1 << 19
SET_DEATH_SIGNAL, SET_SECCOMP, SET_SUBREAPER, SET_NO_NEW_PRIVILEGES = 1, 22, 36, 38
SECCOMP_FILTER = 2

LAST_OF_16_BITS = 65533
MANY = 1 << 24


def checked(answer: int, what: str) -> int:
    """``answer``, or OSError if it is the error of a call of C."""
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return answer


def prctl(what: int, value: int, more: object = 0) -> None:
    """Set something of this process, or raise OSError."""
    pointer = more if isinstance(more, ctypes.c_void_p) else ctypes.c_void_p(0)
    checked(_libc.prctl(what, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)), f"prctl({what})")


def syscall(number: int, *arguments: object) -> int:
    """A call by its number, or OSError."""
    return checked(_libc.syscall(ctypes.c_long(number), *arguments), f"syscall {number}")


def unshare(flags: int) -> None:
    """Leave the starter's namespaces, or raise OSError."""
    checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount something in this mount namespace, or raise OSError."""
    answer = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() if options else None
    )
    checked(answer, f"mount {target}")


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """End with the thread that started this process; at once if its process ``parent`` is gone already."""
    prctl(SET_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os._exit(125)


def filter_calls(program: bytes) -> None:
    """Have the kernel judge each system call of this process and of what it starts by ``program``."""
    instructions = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    given = Program(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    prctl(SET_NO_NEW_PRIVILEGES, 1)
    prctl(SET_SECCOMP, SECCOMP_FILTER, ctypes.cast(ctypes.byref(given), ctypes.c_void_p))


_LIMITS = {
    "cpu": resource.RLIMIT_CPU,
    "memory": resource.RLIMIT_DATA,
    "processes": resource.RLIMIT_NPROC,
    "files": resource.RLIMIT_NOFILE,
    "file_size": resource.RLIMIT_FSIZE,
    "core": resource.RLIMIT_CORE,
    "locked": resource.RLIMIT_MEMLOCK,
    "queues": getattr(resource, "RLIMIT_MSGQUEUE", resource.RLIMIT_CORE),
}


def limit(limits: Mapping[str, int]) -> None:
    """Bound this process and what it starts; never above what bounds it already."""
    for name, value in limits.items():
        most = resource.getrlimit(_LIMITS[name])[1]
        # A program may say that its time is up before it is killed: a second later.
        soft, hard = _within(value, most), _within(value + 1 if name == "cpu" else value, most)
        resource.setrlimit(_LIMITS[name], (soft, hard))


def _within(value: int, most: int) -> int:
    return value if most == resource.RLIM_INFINITY else min(value, most)


# --- who it runs as ---------------------------------------------------------------------------------------------------


def uid_of_its_own(uid_map: str, pid: int) -> int | None:
    """A real uid that no other sandbox of this machine has, from the content of ``/proc/self/uid_map``; None where root
    of this user namespace is all that there is, and is root of nothing else.

    In the first user namespace, files of ``/proc/sys`` and of root are open to uid 0, whatever namespaces it is in:
    nothing that is not trusted may keep it. Raises OSError where there is no uid to change to.
    """
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    first, _outside, count = max(ranges, key=lambda one: one[2])
    if count > 2 * MANY:
        return int(first + 0x40000000 + pid % MANY) if count > 0x40000000 + MANY else int(first + MANY + pid % MANY)
    if count > 1000:
        half = min(count, LAST_OF_16_BITS) // 2
        return int(first + half + pid % half)
    if any(outside == 0 for _first, outside, _count in ranges):
        raise OSError("it runs as root, and has no other uid to change to")
    return None


def become(uid: int) -> None:
    """Change to a uid that is not root, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise OSError("it could not leave uid 0")
