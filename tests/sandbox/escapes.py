"""The escapes, as a table: the number of the threat, what the hostile program does, with what, and who does not stop
it. What stands here is what docs/explanation/sandbox.md says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.sandbox.outside import Outside


class Escape(NamedTuple):
    """``by``: the function of ``hostile.py``. ``not_stopped``: backends that let it happen. ``control``: the argument
    outside, where it is another one. ``landlock``: whether the backend ``process`` stops it by Landlock alone.
    """

    threat: int
    name: str
    by: str
    argument: Callable[[Outside], object] = lambda _place: ""
    not_stopped: frozenset[str] = frozenset()
    control: Callable[[Outside], object] | None = None
    landlock: bool = False


PROCESS = frozenset({"process"})


def _started(place: Outside) -> str:
    place.bystander()
    return place.marker[::-1]


ESCAPES = (
    Escape(19, "a process beside it", "signal_others", lambda place: place.bystander().pid),
    Escape(1, "a key of the user", "read_file", lambda place: place.secret),
    Escape(1, "a file that anybody may read", "read_file", lambda place: place.readable, landlock=True),
    Escape(1, "the machine's passwords", "read_file", lambda _: "/etc/shadow"),
    Escape(2, "environments and command lines", "search_processes", _started, landlock=True),
    Escape(2, "files below the root of a process", "read_through_root", lambda place: place.secret),
    Escape(3, "a result that is a link", "link_result", lambda place: place.secret),
    Escape(3, "a result below a link", "link_directory", lambda place: place.secret),
    Escape(4, "a result that is a hard link", "hard_link", lambda place: place.readable, landlock=True),
    Escape(4, "up and out", "climb", lambda place: place.secret),
    Escape(4, "a bind mount", "bind_mount", lambda place: place.secret),
    Escape(4, "read-only made writable", "remount", lambda place: place.public, control=lambda _: "/dev/shm"),
    Escape(4, "a file by its handle", "open_by_handle", lambda place: place.secret),
    Escape(4, "a device", "make_device"),
    Escape(5, "a protected file that is not there yet", "write_file", lambda place: place.public / "new"),
    Escape(5, "a program in the path", "write_file", lambda _: "/usr/local/bin/stageflow-hostile"),
    Escape(5, "beside the work directory", "write_file", lambda _: "/hostile"),
    Escape(6, "code that every start of Python runs", "write_file", lambda place: place.public / "planted.pth"),
    Escape(6, "sitecustomize", "write_file", lambda place: place.tools / "sitecustomize.py"),
    Escape(6, "a hook of git", "write_file", lambda place: place.public / "pre-commit"),
    Escape(9, "a socket of a service", "connect_path", Outside.unix),
    Escape(9, "a datagram to a service", "datagram_pair", Outside.datagrams),
    Escape(10, "an abstract socket", "connect_abstract", Outside.abstract),
    Escape(10, "a descriptor that is handed over", "receive_descriptor", Outside.descriptor),
    Escape(11, "TCP", "connect", Outside.tcp),
    Escape(11, "TCP by IPv6", "connect", lambda place: place.tcp("::1")),
    Escape(11, "raw IP", "raw_socket"),
    Escape(11, "frames", "packet_socket"),
    Escape(11, "netlink", "netlink_socket"),
    Escape(11, "the machine below", "machine_socket"),
    Escape(12, "UDP", "send_datagram", Outside.udp),
    Escape(13, "another address of this machine", "connect", lambda place: place.tcp("127.0.0.2")),
    Escape(17, "a user namespace", "new_user_namespace"),
    Escape(17, "a namespace by clone", "clone_namespace"),
    Escape(17, "uid 0", "become_root"),
    Escape(17, "a program that is root", "run_setuid"),
    Escape(17, "tracing", "trace_parent"),
    Escape(17, "capabilities", "capabilities", landlock=True),
    Escape(17, "what the kernel runs at a crash", "write_kernel_settings", lambda _: "/proc/sys/kernel/core_pattern"),
    Escape(17, "a cgroup", "write_cgroup"),
    Escape(18, "processes", "fork_bomb", lambda _: 400),
    Escape(18, "memory", "memory_bomb", lambda _: 400),
    Escape(18, "memory by many", "shared_memory_bomb", lambda _: 400),
    Escape(18, "the disk", "disk_bomb", lambda _: ".:200", PROCESS),
    Escape(18, "files", "file_bomb", lambda _: 20000, PROCESS),
    Escape(18, "the disk below /tmp", "disk_bomb", lambda _: "/tmp:200", landlock=True),
    Escape(18, "memory below /dev/shm", "disk_bomb", lambda _: "/dev/shm:200", landlock=True),
    Escape(18, "descriptors", "descriptor_bomb", lambda _: 600, control=lambda _: 600),
    Escape(18, "terminals", "many_terminals"),
)
