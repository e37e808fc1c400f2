"""One process keeps the broker of a home: starting, attaching, crashing, carrying on."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from stageflow_durable.embedded import Embedded, attach, broker, keeping, start
from stageflow_durable.embedded.attachment import Answer, ping
from stageflow_durable.embedded.home import Home, HomeLock
from stageflow_durable.embedded.identity import Identity, identify, myself
from stageflow_durable.embedded.state import read_state
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Urls, load_settings
from tests.services.process import eventually

ROOT = Path(__file__).parents[3]
KEEPER = """
import sys, threading
from stageflow_durable.embedded import start
with start(sys.argv[1], say=print) as embedded:
    print(embedded.keeps, embedded.broker_pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def keeper(home: Home) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Another process that starts the home; ends when its standard input does. With its first line of output."""
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPER, str(home.root)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()
    finally:
        process.kill()
        process.communicate()


def client(urls: Urls) -> Redis:
    assert urls.redis_url is not None
    return Redis.from_url(urls.redis_url, socket_timeout=5)


def put(urls: Urls, key: str, value: str) -> None:
    with client(urls) as redis:
        redis.set(key, value)


def get(urls: Urls, key: str) -> object:
    with client(urls) as redis:
        return redis.get(key)


# --- starting and attaching -----------------------------------------------------------------------------------------


def test_given_nothing_runs_then_attach_finds_nothing_and_starts_nothing(home: Home) -> None:
    assert attach(home.root) is None
    assert not home.root.exists()


def test_given_a_running_home_then_others_attach_to_the_same_place(embedded: Embedded, home: Home) -> None:
    assert embedded.keeps
    assert attach(home.root) == embedded.urls
    assert embedded.urls.database_url == f"sqlite:///{home.root}/stageflow.db"
    assert load_settings(environment={}, home=home.root).require() == embedded.urls


def test_given_a_running_home_then_a_second_starter_attaches(embedded: Embedded, home: Home) -> None:
    with start(home.root) as second:
        assert (second.keeps, second.urls) == (False, embedded.urls)
    assert attach(home.root) == embedded.urls


def test_given_many_starters_at_once_then_exactly_one_keeps_the_broker(home: Home) -> None:
    found: list[Embedded] = []
    starters = [threading.Thread(target=lambda: found.append(start(home.root))) for _ in range(6)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(timeout=30)
    try:
        assert sorted(one.keeps for one in found) == [False] * 5 + [True]
        assert len({one.urls for one in found}) == 1
    finally:
        for one in found:
            one.close()


def test_given_another_process_keeps_it_then_this_one_attaches_until_that_ends(home: Home) -> None:
    with keeper(home) as (process, (keeps, _pid)):
        assert keeps == "True"
        with start(home.root) as second:
            assert not second.keeps
        process.communicate()
        assert attach(home.root) is None
    with start(home.root) as again:
        assert again.keeps


def test_given_it_was_stopped_then_the_next_start_has_port_password_and_data(home: Home) -> None:
    with start(home.root) as first:
        put(first.urls, "kept", "yes")
    assert attach(home.root) is None
    with start(home.root) as second:
        assert second.urls == first.urls
        assert get(second.urls, "kept") == b"yes"


def test_given_an_upgrade_then_it_runs_once_before_anybody_attaches(home: Home) -> None:
    seen: list[tuple[str, object]] = []

    def upgrade(url: str) -> None:
        seen.append((url, attach(home.root)))

    with start(home.root, upgrade=upgrade) as running, start(home.root, upgrade=upgrade):
        assert seen == [(running.urls.database_url, None)]


def test_given_an_upgrade_that_fails_then_the_home_is_free_again(home: Home) -> None:
    def upgrade(url: str) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        start(home.root, upgrade=upgrade)
    with start(home.root) as running:
        assert running.keeps


def test_given_a_holder_that_never_gets_ready_then_a_starter_gives_up_with_a_reason(home: Home) -> None:
    home.prepare()
    lock = HomeLock(home.lock)
    assert lock.acquire()
    with pytest.raises(ConfigurationError, match="does not get ready"):
        start(home.root, patience=0.2)
    lock.release()


def test_given_a_forked_child_then_it_neither_stops_the_broker_nor_holds_the_lock(
    embedded: Embedded, home: Home
) -> None:
    child = os.fork()
    if child == 0:
        embedded.close()
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        assert attach(home.root) == embedded.urls
        embedded.close()
        lock = HomeLock(home.lock)
        assert lock.acquire()
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- who may come in ------------------------------------------------------------------------------------------------


def test_given_a_running_home_then_the_broker_asks_for_its_password(embedded: Embedded) -> None:
    address, _, _ = embedded.urls.broker_url.rpartition("@")[2].partition("/")
    with (
        Redis.from_url(f"redis://{address}", socket_timeout=5) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()


def test_given_a_running_home_then_the_broker_listens_on_loopback_only(embedded: Embedded) -> None:
    with client(embedded.urls) as redis:
        assert redis.config_get("bind")["bind"] == "127.0.0.1"
        assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert redis.config_get("append*")["appendfsync"] == "everysec"
    listening = Path(f"/proc/{embedded.broker_pid}/net/tcp").read_text() if sys.platform == "linux" else ""
    assert f"00000000:{read_port(embedded):04X}" not in listening


def test_given_a_running_home_then_secrets_are_for_their_owner_and_in_no_command_line(
    embedded: Embedded, home: Home
) -> None:
    for file in (home.root / "password", home.root / "audit.key", home.valkey / "valkey.conf", home.state):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    command = subprocess.check_output(["ps", "-o", "args=", "-p", str(embedded.broker_pid)], text=True)
    assert "valkey" in command
    assert home.password() not in command
    assert home.password() not in repr(embedded.urls)


def read_port(embedded: Embedded) -> int:
    port = read_state(embedded.home.state).port
    assert port is not None
    return port


# --- crashes --------------------------------------------------------------------------------------------------------


def test_given_the_broker_is_killed_then_it_is_back_with_its_data_on_its_port(
    embedded: Embedded, home: Home, said: list[str]
) -> None:
    put(embedded.urls, "kept", "yes")
    killed = embedded.broker_pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: embedded.broker_pid not in (None, killed) and attach(home.root), what="the broker is back")
    assert get(embedded.urls, "kept") == b"yes"
    assert said[0] == "the broker ended (signal 9); starting it again"


def test_given_the_broker_is_being_restarted_then_attach_waits_for_it(embedded: Embedded, home: Home) -> None:
    assert embedded.broker_pid is not None
    os.kill(embedded.broker_pid, signal.SIGKILL)
    assert attach(home.root) == embedded.urls


def test_given_the_keeper_is_killed_then_nothing_is_left_and_the_next_start_has_the_data(home: Home) -> None:
    with keeper(home) as (process, (_keeps, pid)):
        urls = attach(home.root)
        assert urls is not None
        put(urls, "kept", "yes")
        process.kill()
        process.wait(timeout=10)
        assert attach(home.root) is None
        if sys.platform == "linux":
            eventually(lambda: identify(int(pid)) is None, what="the broker ended with its keeper")
    with start(home.root) as again:
        assert get(again.urls, "kept") == b"yes"


def test_given_a_broker_survived_its_keeper_then_the_next_start_ends_it_first(
    home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with keeper(home) as (process, (_keeps, pid)):
        urls = attach(home.root)
        assert urls is not None
        put(urls, "kept", "yes")
        # A stopped process does not see the kernel's SIGTERM: it is the orphan of systems without that.
        os.kill(int(pid), signal.SIGSTOP)
        process.kill()
        process.wait(timeout=10)
        assert identify(int(pid)) is not None
        monkeypatch.setattr(keeping, "ORPHAN_SECONDS", 0.3)
        with start(home.root, say=said.append) as again:
            assert identify(int(pid)) is None
            assert get(again.urls, "kept") == b"yes"
            assert again.urls == urls
    assert said[0].startswith(f"ending broker (pid {pid}), left over")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"port": 1}',
        json.dumps({"port": 6379, "keeper": {"pid": 1, "started": "1", "boot": "another"}, "children": {}}),
    ],
)
def test_given_a_stale_or_broken_state_file_then_nothing_runs_and_a_start_replaces_it(home: Home, content: str) -> None:
    home.prepare()
    home.state.write_text(content)
    assert attach(home.root) is None
    with start(home.root) as running:
        assert attach(home.root) == running.urls


def test_given_a_pid_that_now_means_another_process_then_it_is_not_ours(home: Home) -> None:
    mine = myself()
    assert mine.lives()
    assert not Identity(mine.pid, mine.started, "the boot before").lives()
    assert not Identity(mine.pid, "earlier", mine.boot).lives()


def test_given_somebody_elses_server_on_our_port_then_attach_refuses_it(embedded: Embedded, home: Home) -> None:
    port = read_port(embedded)
    assert ping(port, "guess") is Answer.REFUSED
    (home.root / "password").write_text("guess" * 4)
    assert attach(home.root) is None


# --- ports, files, disks --------------------------------------------------------------------------------------------


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_given_the_old_port_is_taken_then_another_is_used_and_said(home: Home, said: list[str]) -> None:
    home.prepare()
    with taken_port() as port:
        home.state.write_text(json.dumps({"port": port, "keeper": None, "children": {}}))
        with start(home.root, say=said.append) as running:
            assert f":{port}/" not in running.urls.broker_url
            assert get(running.urls, "nothing") is None
    assert said[0].startswith(f"port {port} is taken by another program")


def test_given_the_asked_for_port_is_taken_then_that_is_refused(home: Home) -> None:
    with taken_port() as port, pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 is taken"):
        start(home.root, port=port)
    with start(home.root) as running:
        assert running.keeps


def damage(home: Home, change: str) -> None:
    file = next((home.valkey / "appendonlydir").glob("*.incr.aof"))
    content = file.read_bytes()
    file.write_bytes(content[:-3] if change == "cut off" else content[:40] + b"\0garbage\r\n" * 9 + content[60:])


def fill(home: Home) -> None:
    with start(home.root) as running:
        for number in range(20):
            put(running.urls, f"k{number}", "v" * 50)


def test_given_an_append_only_file_cut_off_at_its_end_then_all_before_is_kept(home: Home) -> None:
    fill(home)
    damage(home, "cut off")
    with start(home.root) as running:
        assert (get(running.urls, "k18"), get(running.urls, "k19")) == (b"v" * 50, None)


def test_given_a_damaged_append_only_file_then_it_is_set_aside_with_a_line(home: Home, said: list[str]) -> None:
    fill(home)
    damage(home, "in the middle")
    with start(home.root, say=said.append) as running:
        assert get(running.urls, "k0") is None
        put(running.urls, "new", "yes")
    assert "was damaged and is now" in said[0]
    assert (home.valkey / "appendonlydir.damaged-1").is_dir()


def test_given_a_full_disk_then_it_says_so_before_it_starts(home: Home) -> None:
    with pytest.raises(ConfigurationError, match=r"the disk of .* is full \(3 KiB left\); make room"):
        home.prepare(free=lambda path: 3 * 1024)


def test_given_the_disk_fills_up_meanwhile_then_it_is_said_once_and_when_it_is_over(
    home: Home, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = ["ok"]
    monkeypatch.setattr(broker, "HEALTH_TURNS", 1)
    monkeypatch.setattr(broker, "ask", lambda *_: f"aof_last_write_status:{status[0]}\r\n".encode())
    with start(home.root, say=said.append):
        for status[0] in ("err", "ok"):
            before = len(said)
            eventually(lambda: len(said) > before, what="it is said")  # noqa: B023  # called at once
    assert [line.partition(" is full")[0].partition(" has ")[0] for line in said] == [
        f"the disk of {home.root}",
        "the disk",
    ]


def test_given_a_home_that_cannot_be_made_then_the_way_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="set STAGEFLOW_HOME"):
        start(tmp_path / "file" / ".stageflow")
