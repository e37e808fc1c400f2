"""Landlock: the kernel lets a process see the named paths alone, without a namespace of its own."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Sequence

from stageflow_durable.sandbox.keeper import system

CREATE, ADD_RULE, RESTRICT = 444, 445, 446
READ_FILE, READ = 1 | 4, 1 | 4 | 8
READ_WRITE_FILE = 2 | 4
ACCESSES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""What can be refused of files, by version; later ones added nothing of files."""

TCP, SCOPES = 1 | 2, 1 | 2
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def version() -> int:
    """The version of Landlock that the kernel has; 0: none."""
    try:
        return system.syscall(CREATE, ctypes.c_void_p(0), ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


def confine(readable: Sequence[str], directory: str) -> int:
    """Let this process and what it starts read ``readable``, and change ``directory`` alone; neither listen nor connect
    by TCP, nor reach sockets and processes outside. Returns the version by which that is held; 0: nothing is. Raises
    OSError.
    """
    found = version()
    if not found:
        return 0
    accesses = ACCESSES[min(found, max(ACCESSES))]
    attributes = struct.pack("QQQ", accesses, TCP if found >= 4 else 0, SCOPES if found >= 6 else 0)
    size = 24 if found >= 6 else 16 if found >= 4 else 8
    rules = system.syscall(CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for path in readable:
        _allow(rules, path, READ)
    for path in DEVICES:
        _allow(rules, path, READ_WRITE_FILE)
    _allow(rules, directory, accesses)
    system.prctl(system.SET_NO_NEW_PRIVILEGES, 1)
    system.syscall(RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))
    os.close(rules)
    return found


def _allow(rules: int, path: str, access: int) -> None:
    """Nothing is allowed where there is nothing: a path may be missing."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            access &= READ_FILE | READ_WRITE_FILE
        rule = struct.pack("=Qi", access, opened)
        system.syscall(ADD_RULE, ctypes.c_int(rules), ctypes.c_int(1), ctypes.c_char_p(rule), ctypes.c_uint32(0))
    finally:
        os.close(opened)
