"""The system calls that nothing in a sandbox may make, as a program that the kernel runs at each call (seccomp, BPF).

A tool has no need of them, and each has led out of containers before: other processes' memory, keys, namespaces,
mounts, the kernel's own programs, terminals, sockets that no network namespace holds back.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping
from typing import NamedTuple

from stageflow_durable.sandbox.errors import SandboxUnavailable

NUMBERS: Mapping[str, tuple[int, int]] = {
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "seccomp": (317, 277),
}
"""Refused whatever their arguments: on x86-64, on ARM64."""

ONLY_ON_X86 = {"modify_ldt": 154, "iopl": 172, "ioperm": 173, "uselib": 134, "create_module": 174, "nfsservctl": 180}

CLONE, CLONE3, SOCKET, SOCKETPAIR, IOCTL = (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)
NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x80
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
UNIX, INET, INET6 = 1, 2, 10
STREAM, KIND_OF_SOCKET = 1, 0xF


class Machine(NamedTuple):
    """A kind of machine: where its numbers stand in the tables, and what the kernel calls it."""

    column: int
    audit: int


MACHINES = {"x86_64": Machine(0, 0xC000003E), "aarch64": Machine(1, 0xC00000B7)}

# The kernel hands over: number (0), kind of machine (4), arguments (from 16, eight bytes each, the low half first).
_NUMBER, _MACHINE, _ARGUMENT = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _refuse(number: int) -> int:
    return 0x00050000 | number


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _when(code: int, value: int, answer: int) -> bytes:
    """Answer if what is loaded fits, else go on."""
    return _step(code, value, 0, 1) + _step(_RETURN, answer)


def _of_call(number: int, body: bytes) -> bytes:
    """``body`` for this call alone; it always answers."""
    return _step(_EQUAL, number, 0, len(body) // 8) + body


def _argument(place: int) -> bytes:
    return _step(_LOAD, _ARGUMENT + 8 * place)


def program(machine: str | None = None, *, sockets: bool = True) -> bytes:
    """The filter's instructions. ``sockets``: whether IP sockets may be made, in a namespace that has no network.
    Raises SandboxUnavailable for a kind of machine whose numbers are not known.
    """
    name = machine or platform.machine()
    if name not in MACHINES:
        raise SandboxUnavailable(f"no filter of system calls is known for {name}; known are {', '.join(MACHINES)}")
    kind = MACHINES[name]
    numbers = sorted(number[kind.column] for number in NUMBERS.values())
    said = _step(_LOAD, _MACHINE) + _step(_EQUAL, kind.audit, 1, 0) + _step(_RETURN, _KILL)
    said += _step(_LOAD, _NUMBER)
    if kind.column == 0:
        # The same calls are there a second time, under other numbers, with pointers of 32 bits.
        said += _when(_AT_LEAST, 0x40000000, _refuse(errno.ENOSYS))
        numbers += ONLY_ON_X86.values()
    for number in numbers:
        said += _when(_EQUAL, number, _refuse(errno.EPERM))
    for call, body in _judged(sockets).items():
        said += _of_call(call[kind.column], body)
    return said + _step(_RETURN, _ALLOW)


def _judged(sockets: bool) -> Mapping[tuple[int, int], bytes]:
    """Calls that are judged by an argument."""
    allow, deny = _step(_RETURN, _ALLOW), _step(_RETURN, _refuse(errno.EPERM))
    families = (INET, INET6) if sockets else ()
    return {
        CLONE: _argument(0) + _when(_ANY_BIT, NEW_NAMESPACES, _refuse(errno.EPERM)) + allow,
        # Its flags are in memory, where no filter can look: programs then use the older call.
        CLONE3: _step(_RETURN, _refuse(errno.ENOSYS)),
        SOCKET: _argument(0)
        + b"".join(_when(_EQUAL, family, _ALLOW) for family in families)
        + _step(_RETURN, _refuse(errno.EAFNOSUPPORT)),
        # Two connected ends, as event loops have them. Datagrams could be sent to any other socket.
        SOCKETPAIR: _argument(0)
        + _step(_EQUAL, UNIX, 1, 0)
        + deny
        + _argument(1)
        + _step(_AND, KIND_OF_SOCKET)
        + _when(_EQUAL, STREAM, _ALLOW)
        + deny,
        IOCTL: _argument(1)
        + b"".join(_when(_EQUAL, request, _refuse(errno.EPERM)) for request in (TIOCSTI, TIOCLINUX, TIOCSETD))
        + allow,
    }
