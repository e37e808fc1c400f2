"""What the keeper decides and does outside of any sandbox."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from stageflow_durable.sandbox.keeper import bubblewrap
from stageflow_durable.sandbox.keeper.cgroups import NAME, Group, bases
from stageflow_durable.sandbox.keeper.staging import TooLarge, read_files, write_files
from stageflow_durable.sandbox.keeper.system import uid_of_its_own

# --- who it runs as ---------------------------------------------------------------------------------------------------


def test_each_sandbox_of_a_machine_has_a_uid_that_no_user_has() -> None:
    one, other = (uid_of_its_own("         0          0 4294967295\n", pid) for pid in (1000, 1001))
    assert one == 0x40000000 + 1000
    assert other == 0x40000000 + 1001


def test_in_a_container_with_its_own_users_it_is_one_of_those() -> None:
    found = {uid_of_its_own("0 100000 65536\n", pid) for pid in range(0, 4_000_000, 1013)}
    assert all(uid is not None and 30_000 < uid < 65534 for uid in found)


def test_where_root_is_only_a_user_there_is_nobody_to_become() -> None:
    assert uid_of_its_own("0 1000 1\n", 7) is None


def test_where_root_is_root_and_cannot_become_anybody_there_is_no_sandbox() -> None:
    with pytest.raises(OSError, match="no other uid"):
        uid_of_its_own("0 0 1\n", 7)


# --- cgroups ----------------------------------------------------------------------------------------------------------

V1 = """24 23 0:21 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
25 23 0:22 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
26 23 0:23 /docker/abc /sys/fs/cgroup/pids ro,relatime shared:3 - cgroup cgroup rw,pids
27 23 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
28 23 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
29 23 0:26 / /proc rw - proc proc rw
"""


def test_each_controller_has_a_path_of_its_own() -> None:
    own = "8:pids:/docker/abc\n4:memory:/agents/one\n2:cpuacct,cpu:/\n1:name=systemd:/x\n0::/user.slice\n"
    assert bases(own, V1) == {
        "pids": "/sys/fs/cgroup/pids",
        "memory": "/sys/fs/cgroup/memory/agents/one",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "": "/sys/fs/cgroup/unified/user.slice",
    }


def test_one_tree_for_all_controllers() -> None:
    unified = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    assert bases("0::/system.slice/worker.service\n", unified) == {"": "/sys/fs/cgroup/system.slice/worker.service"}


def test_what_a_group_tells_is_read_from_either_version(tmp_path: Path) -> None:
    """Files of the second version, as a kernel has them; no kernel of this machine bounds memory by it."""
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "memory.peak").write_text("1044480\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    group = Group({"": str(tmp_path)})
    assert group.bounds_memory
    assert group.killed_for_memory()
    assert group.memory_peak() == 1044480
    assert group.cpu_seconds() == 1.5


def test_a_group_without_bounds_says_so(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    assert not Group({"": str(tmp_path)}).bounds_memory
    assert not Group({}).bounds_memory
    assert Group({}).cpu_seconds() is None


def test_groups_are_named_by_their_keeper() -> None:
    assert NAME.startswith("stageflow-sandbox")


# --- files in and out -------------------------------------------------------------------------------------------------


def test_named_files_go_in_and_come_out(tmp_path: Path) -> None:
    write_files(str(tmp_path), {"a/b/c.txt": b"deep", "top": b"\0"}, None)
    assert read_files(str(tmp_path), ["a/b/c.txt", "top", "missing", "a/missing/x", "top/x"], 100) == {
        "a/b/c.txt": b"deep",
        "top": b"\0",
    }


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("key")
    return tmp_path / "secret"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def test_no_link_leads_out(work: Path, secret: Path) -> None:
    (work / "link").symlink_to(secret)
    (work / "directory").symlink_to(secret.parent)
    (work / "inner").symlink_to("plain")
    (work / "plain").write_text("x")
    (work / "hard").hardlink_to(secret)
    names = ["link", "directory/secret", "inner", "hard", "plain"]
    assert read_files(str(work), names, 100) == {"plain": b"x"}


def test_only_regular_files_come_out_and_nothing_is_waited_for(work: Path) -> None:
    os.mkfifo(work / "pipe")
    (work / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(work / "socket"))
        assert read_files(str(work), ["pipe", "directory", "socket"], 100) == {}


def test_files_are_bounded_together(work: Path) -> None:
    (work / "one").write_bytes(b"x" * 60)
    (work / "two").write_bytes(b"x" * 41)
    assert len(read_files(str(work), ["one", "two"], 101)) == 2
    with pytest.raises(TooLarge):
        read_files(str(work), ["one", "two"], 100)


def test_a_file_that_is_mostly_holes_is_not_read_whole(work: Path) -> None:
    with (work / "holes").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLarge):
        read_files(str(work), ["holes"], 100)


# --- bubblewrap -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b'{ "child-pid": 12 }\n{ "exit-code": 7 }\n', (12, 7)),
        (b'{ "child-pid": 12 }\n', (12, None)),
        (b"", (None, None)),
        (b"garbage\n", (None, None)),
    ],
)
def test_what_bubblewrap_did_not_say_is_not_known(said: bytes, told: tuple[int | None, int | None]) -> None:
    assert bubblewrap.status(said) == told


def test_an_error_of_c_has_its_number() -> None:
    from stageflow_durable.sandbox.keeper import system

    with pytest.raises(OSError, match="mount") as failed:
        system.mount("none", "/does/not/exist", "tmpfs")
    assert failed.value.errno in (errno.ENOENT, errno.EPERM)
