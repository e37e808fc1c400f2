"""What a hostile tool tries, one function each: run inside a sandbox it has to say STOPPED, run beside one DONE.

This file is the program itself: ``python hostile.py NAME ARGUMENT``. It uses the standard library alone.
"""

from __future__ import annotations

import array
import ctypes
import glob
import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)


class Stopped(Exception):
    """It did not work."""


def call(number: int, *arguments: object) -> int:
    answer: int = LIBC.syscall(number, *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def need(found: object, why: str) -> str:
    if not found:
        raise Stopped(why)
    return str(found)


# --- 1, 2: what the host and its processes know -----------------------------------------------------------------------


def read_file(path: str) -> str:
    return Path(path).read_text()


def read_environment(marker: str) -> str:
    return need([name for name, value in os.environ.items() if marker in value], "not in the environment")


def search_processes(backwards: str) -> str:
    """Environments and command lines of every process that there is; backwards, for its own have the argument."""
    marker, found = backwards[::-1], []
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
        with suppress(OSError):
            if marker.encode() in Path(path).read_bytes():
                found.append(path)
    return need(found, "no process has it")


def read_through_root(path: str) -> str:
    """By the root directories of other processes."""
    for root in glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd"):
        with suppress(OSError):
            return Path(root + path).read_text()
    raise Stopped("not below the root of any process")


def signal_others(number: str) -> str:
    """Whether another process can be sent a signal."""
    os.kill(int(number), 0)
    return "reached"


# --- 3, 4, 5, 6: files ------------------------------------------------------------------------------------------------


def link_result(path: str) -> str:
    os.symlink(path, "result.txt")
    return Path("result.txt").read_text()


def link_directory(path: str) -> str:
    """A directory on the way to the result leads elsewhere."""
    os.symlink(os.path.dirname(path), "directory")
    return Path("directory", os.path.basename(path)).read_text()


def hard_link(path: str) -> str:
    os.link(path, "result.txt")
    return Path("result.txt").read_text()


def climb(path: str) -> str:
    return Path("../" * 20 + path).read_text()


def bind_mount(path: str) -> str:
    os.mkdir("there")
    answer = LIBC.mount(os.path.dirname(path).encode(), b"there", b"", 4096, None)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    LIBC.umount2(b"there", 2)
    return "mounted"


def remount(path: str) -> str:
    """Make what is read-only writable."""
    if LIBC.mount(b"none", path.encode(), b"", 32 | 4096, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "remounted"


def write_file(path: str) -> str:
    Path(path).write_text("planted")
    return need(Path(path).exists(), "it is not there")


def open_by_handle(path: str) -> str:
    """By the number of the file alone, whatever directories stand before it."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    call(303, -100, path.encode(), handle, ctypes.byref(mount), 0)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    return os.read(call(304, directory, handle, os.O_RDONLY), 100).decode()


def make_device(_: str) -> str:
    """Whoever may make one may make the disk."""
    os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3))
    return "made"


def write_kernel_settings(path: str) -> str:
    """Opened for writing, written what it holds."""
    with open(path, "r+") as file:
        held = file.read()
        file.seek(0)
        file.write(held)
    return "written"


def write_cgroup(_: str) -> str:
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"):
        with suppress(OSError):
            made = f"{base}/hostile-{os.getpid()}"
            os.mkdir(made)
            os.rmdir(made)
            return made
    raise Stopped("no cgroup can be made")


# --- 7, 8, 9, 10: descriptors, terminals, sockets ---------------------------------------------------------------------


def inherited(marker: str) -> str:
    for descriptor in range(3, 1024):
        with suppress(OSError):
            if marker.encode() in os.pread(descriptor, 1000, 0):
                return f"by descriptor {descriptor}"
    raise Stopped("no descriptor has it")


def open_terminal(_: str) -> str:
    with open("/dev/tty", "r+b", buffering=0):
        return "opened"


def many_terminals(_: str) -> str:
    opened = os.posix_openpt(os.O_RDWR) if hasattr(os, "posix_openpt") else os.open("/dev/ptmx", os.O_RDWR)
    os.close(opened)
    return "opened"


def connect_path(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
        return made.recv(100).decode()


def connect_abstract(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\0" + name)
        return made.recv(100).decode()


def receive_descriptor(name: str) -> str:
    """A descriptor that a helper outside sends by an abstract socket."""
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\0" + name)
        _data, ancillary, _flags, _from = made.recvmsg(1, socket.CMSG_SPACE(4))
        numbers = array.array("i")
        numbers.frombytes(ancillary[0][2][:4])
        return os.read(numbers[0], 100).decode()


def datagram_pair(path: str) -> str:
    """A pair of datagram sockets may send to any other."""
    one, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"out", path)
    return "sent"


# --- 11, 12, 13: the network ------------------------------------------------------------------------------------------


def connect(address: str) -> str:
    host, _colon, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=3) as made:
        return made.recv(100).decode()


def send_datagram(address: str) -> str:
    host, _colon, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(3)
        made.sendto(b"out", (host, int(port)))
        return made.recv(100).decode()


def raw_socket(_: str) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "opened"


def packet_socket(_: str) -> str:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    return "opened"


def netlink_socket(_: str) -> str:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
    return "opened"


def machine_socket(_: str) -> str:
    """To the machine below this one: no namespace holds it back."""
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return "opened"


# --- 17: rights -------------------------------------------------------------------------------------------------------


def new_user_namespace(_: str) -> str:
    if LIBC.unshare(0x10000000) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "entered"


def clone_namespace(_: str) -> str:
    child = call(56, 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "cloned"


def become_root(_: str) -> str:
    os.setuid(0)
    return "uid 0"


def run_setuid(_: str) -> str:
    """Programs that are root whoever starts them."""
    own = os.geteuid()
    for path in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/usr/bin/newgrp"):
        with suppress(OSError):
            with subprocess.Popen([path, "--help"], stdout=-3, stderr=-3) as started:
                seen = Path(f"/proc/{started.pid}/status").read_text()
            uids = seen.partition("Uid:")[2].splitlines()[0].split()
            if own != 0 and uids[1] == "0":
                return path
    return need(own == 0, "none changes who it is")


def trace_parent(_: str) -> str:
    child = os.fork()
    if child == 0:
        time.sleep(20)
        os._exit(0)
    try:
        call(101, 16, child, 0, 0)
    finally:
        os.kill(child, 9)
    return "traced"


def capabilities(_: str) -> str:
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapBnd:")[2].split()[0], 16)
    return need(held, "none")


# --- 18: bombs --------------------------------------------------------------------------------------------------------


def fork_bomb(count: str) -> str:
    """As many processes as that, which wait."""
    children = []
    try:
        for _ in range(int(count)):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
    return f"{count} processes"


def memory_bomb(megabytes: str) -> str:
    held = [b"x" * (1 << 20) for _ in range(int(megabytes))]
    return f"{len(held)} MiB"


def shared_memory_bomb(megabytes: str) -> str:
    """Many processes, each of which stays below its own bound."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            held = [b"x" * (1 << 20) for _ in range(int(megabytes) // 8)]
            time.sleep(len(held))
            os._exit(0)
        children.append(child)
    time.sleep(2)
    alive = 0
    for child in children:
        alive += os.waitpid(child, os.WNOHANG)[0] == 0
        with suppress(ProcessLookupError):
            os.kill(child, 9)
    return need(alive == 8, "some were ended")


def disk_bomb(where_and_megabytes: str) -> str:
    where, _colon, megabytes = where_and_megabytes.rpartition(":")
    try:
        for number in range(int(megabytes)):
            Path(where, f"bomb-{number}").write_bytes(b"x" * (1 << 20))
    finally:
        for path in glob.glob(f"{where}/bomb-*"):
            os.unlink(path)
    return f"{megabytes} MiB"


def file_bomb(count: str) -> str:
    try:
        for number in range(int(count)):
            Path(f"bomb-{number}").touch()
    finally:
        for path in glob.glob("bomb-*"):
            os.unlink(path)
    return f"{count} files"


def descriptor_bomb(count: str) -> str:
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(int(count))]
    return f"{len(opened)} descriptors"


def output_flood(megabytes: str) -> str:
    for _ in range(int(megabytes)):
        os.write(1, b"x" * (1 << 20))
    return f"{megabytes} MiB"


def spin(_: str) -> str:
    while True:
        pass


# --- 19: outliving ----------------------------------------------------------------------------------------------------


def outlive(marker: str) -> str:
    """A grandchild in a session of its own, which holds no pipe of ours and is named by ``marker``."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for descriptor in range(256):
                with suppress(OSError):
                    os.close(descriptor)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(300)", marker])
        os._exit(0)
    time.sleep(0.3)
    return "started"


def ignore_signals(_: str) -> str:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(300)
    return "slept"


def kill_everything(_: str) -> str:
    """All that can be reached, the supervisor first."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in (os.getppid(), 1, -1):
        with suppress(OSError):
            os.kill(number, signal.SIGTERM)
            os.kill(number, signal.SIGKILL) if number > 1 else None
    return "killed"


# --- 20: results ------------------------------------------------------------------------------------------------------


def forge_result(_: str) -> str:
    """Write an answer as the keeper would to every descriptor that takes it, also of other processes."""
    forged = b'{"exit_code": 0, "over": null, "stdout": "Zm9yZ2Vk", "files": {}, "usage": {}, "exit-code": 0}\n'
    for descriptor in range(3, 64):
        with suppress(OSError):
            os.write(descriptor, forged)
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        if not path.endswith(("/0", "/1", "/2")):
            with suppress(OSError):
                opened = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                os.write(opened, forged)
                os.close(opened)
    sys.exit(7)


def main() -> None:
    name, argument = (*sys.argv[1:], "", "")[:2]
    try:
        print("DONE", globals()[name](argument), flush=True)
    except (Stopped, OSError, MemoryError, UnicodeDecodeError) as error:
        print("STOPPED", type(error).__name__, error, flush=True)


if __name__ == "__main__":
    main()
