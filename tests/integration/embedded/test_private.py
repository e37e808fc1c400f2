"""A home that was there before: whose it is, who may read it, and what ends when it is taken away."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest

from stageflow_durable.embedded import Embedded, attach, start
from stageflow_durable.embedded.attachment import stopped
from stageflow_durable.embedded.home import Home
from stageflow_durable.embedded.single import only_one
from stageflow_durable.embedded.up import _supervise
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Settings
from stageflow_durable.state.schema import upgrade
from tests.services.process import Processes, eventually

ROOT = Path(__file__).parents[3]
ENGINE = "from stageflow_durable import *\nengine = Engine('shop', pipelines=[Pipeline('p').stage('s', len)])\n"
ENGINE += "celery_app = engine.celery_app\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(home: Home) -> dict[str, str]:
    found = {}
    for path in [home.root, *home.root.rglob("*")]:
        with suppress(FileNotFoundError):  # a broker that runs replaces its files
            if mode(path) & 0o077:
                found[str(path.relative_to(home.root))] = oct(mode(path))
    return found


def test_given_an_open_directory_when_it_becomes_a_home_then_it_and_all_in_it_are_closed(home: Home) -> None:
    home.root.mkdir(parents=True, mode=0o755)
    home.root.chmod(0o755)
    before = os.umask(0o022)
    try:
        with start(home.root, upgrade=upgrade) as running:
            assert running.keeps
            assert home.database.with_name("stageflow.db").stat().st_size
            assert open_to_others(home) == {}
    finally:
        os.umask(before)


def test_given_files_that_others_could_read_then_they_are_closed_and_passwords_made_anew(home: Home) -> None:
    home.prepare()
    password, audit = home.password(), home.audit_key()
    for path in (home.root, home.logs, home.root / "password", home.root / "audit.key"):
        path.chmod(0o755)
    home.database.touch(mode=0o644)
    home.prepare()
    assert open_to_others(home) == {}
    assert home.password() != password
    assert home.audit_key() == audit, "histories are signed with it"


def test_given_files_that_are_open_in_a_closed_directory_then_nobody_read_them_and_passwords_stay(home: Home) -> None:
    home.prepare()
    password = home.password()
    (home.root / "password").chmod(0o644)
    home.prepare()
    assert (home.password(), mode(home.root / "password")) == (password, 0o600)


def test_given_an_open_directory_that_holds_something_else_then_it_is_refused_with_both_ways_out(home: Home) -> None:
    home.root.mkdir(parents=True)
    home.root.chmod(0o755)
    (home.root / "index.html").touch()
    with pytest.raises(ConfigurationError, match=r"more than this \(index.html\).*STAGEFLOW_HOME, or .*chmod 700"):
        home.prepare()
    assert mode(home.root) == 0o755, "somebody may need it so"
    home.root.chmod(0o700)
    home.prepare()


@pytest.mark.parametrize("name", ["stageflow.db", "password", "lock", "log/worker.log", "valkey/valkey.conf"])
def test_given_a_link_that_somebody_put_there_then_nothing_is_written_through_it(home: Home, name: str) -> None:
    home.prepare()
    target = home.root.parent / "theirs"
    (home.root / name).unlink(missing_ok=True)
    (home.root / name).symlink_to(target)
    with pytest.raises(ConfigurationError, match="no plain file or directory"):
        start(home.root)
    assert not target.exists()


@pytest.mark.parametrize("text", ["", "short"])
def test_given_a_password_that_is_none_then_the_broker_does_not_start_without_one(home: Home, text: str) -> None:
    home.prepare()
    (home.root / "password").write_text(text)
    with pytest.raises(ConfigurationError, match="holds no secret"):
        start(home.root)


def test_given_a_home_whose_path_ends_a_url_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no question mark"):
        Home(tmp_path / "what?").prepare()


@pytest.mark.parametrize("name", ["100% mine", "a home é", "with#hash"])
def test_given_a_home_with_letters_that_mean_something_elsewhere_then_it_works(tmp_path: Path, name: str) -> None:
    with start(tmp_path / name, upgrade=upgrade):
        assert (tmp_path / name / "stageflow.db").stat().st_size


def test_given_a_home_that_is_deleted_then_its_broker_is_stopped_with_one_line(
    home: Home, embedded: Embedded, said: list[str]
) -> None:
    import shutil

    pid = embedded.broker_pid
    assert pid is not None
    shutil.rmtree(home.root)
    eventually(lambda: embedded.broker_pid is None, what="the broker is stopped")
    assert said == [f"{home.root} was deleted or replaced while it was in use: its broker is stopped"]
    embedded.close()
    assert not home.root.exists(), "closing writes nothing into what is there now"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(ENGINE)
    return tmp_path


def environment(shop: Path) -> dict[str, str]:
    ambient = {name: value for name, value in os.environ.items() if not name.startswith(("STAGEFLOW_", "FLOWER_"))}
    return ambient | {"PYTHONPATH": f"{ROOT}:{shop}"}


@pytest.mark.process
def test_given_a_home_that_is_deleted_under_up_then_up_ends_with_one_line_and_leaves_nobody_behind(
    shop: Path, processes: Processes
) -> None:
    import shutil

    argv = [sys.executable, "-m", "stageflow_durable.cli", "--app", "shop:engine", "up", "--no-monitor", "-c", "1"]
    up = processes.start("up", argv, env=environment(shop), cwd=shop)
    eventually(lambda: "Ctrl-C stops all" in processes.log("up"), within=40, what="it is up")
    eventually((shop / ".stageflow/log/worker.log").exists, within=20, what="the worker starts")
    shutil.rmtree(shop / ".stageflow", ignore_errors=True)
    assert up.wait(30) == 1
    log = processes.log("up")
    assert log.count("was deleted or replaced while it was in use") == 1
    assert "Traceback" not in log
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert [line for line in left.splitlines() if str(shop / ".stageflow") in line] == []


@pytest.mark.process
@pytest.mark.parametrize(
    "more",
    [{"STAGEFLOW_PUBLIC_URL": "https://shop.example/x"}, {"STAGEFLOW_AUDIT_KEY": "one for everybody " * 3}],
    ids=["the home's key", "a key that is set"],
)
def test_given_what_needs_the_audit_key_then_up_and_who_asks_beside_it_have_the_same_one(
    shop: Path, processes: Processes, more: dict[str, str]
) -> None:
    (shop / "shop.py").write_text(ENGINE.replace("'s', len", "'s', lambda ctx: 1"))
    command, env = [sys.executable, "-m", "stageflow_durable.cli", "--app", "shop:engine"], environment(shop) | more
    processes.start("up", [*command, "up", "--no-monitor", "-c", "1"], env=env, cwd=shop)
    eventually(lambda: "ready: " in processes.log("up"), within=60, what="it is ready")

    def said(*words: str) -> str:
        ran = subprocess.run([*command, *words], env=env, cwd=shop, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    assert '"s": 1' in said("enqueue", "p", "--input", "{}", "--wait", "--timeout", "60")
    assert said("audit", "verify").endswith("all whole\n")


def test_given_a_home_of_which_a_part_is_gone_then_up_says_that_it_was_deleted(tmp_path: Path) -> None:
    home, said = Home(tmp_path / "home"), list[str]()
    supervisor = Mock(run=Mock(side_effect=FileNotFoundError(2, "gone", str(home.root / "log/beat.log"))))
    assert _supervise(supervisor, Mock(), Mock(stands=True), home, said.append) == 1
    assert said == [f"{home.root} was deleted or replaced while it was in use: everything is stopped; start again"]
    supervisor.run.side_effect = FileNotFoundError(2, "gone", "/nowhere/of/ours")
    with pytest.raises(FileNotFoundError):
        _supervise(supervisor, Mock(), Mock(stands=True), home, said.append)


@as_root
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open to read"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda home: attach(home.root, patience=0.1),
        lambda home: stopped(Settings(home=home.root)),
        lambda home: home.prepare(),
        lambda home: only_one(home, "shop:engine").__enter__(),
    ],
    ids=["attach", "look at a stopped one", "start", "up"],
)
def test_given_another_users_home_then_it_is_said_whose_it_is_in_one_line(
    home: Home, closed: bool, ask: Callable[[Home], object]
) -> None:
    with start(home.root, upgrade=upgrade):
        home.audit_key()
    for path in home.root.parents[:-2]:
        path.chmod(0o755)
    home.root.chmod(0o700 if closed else 0o755)
    said = as_nobody(lambda: ask(home))
    assert "belongs to root, and this is nobody; run as that user" in said.replace("nobody: run", "nobody; run")
    assert "STAGEFLOW_HOME" in said
    assert "\n" not in said


def as_nobody(do: Callable[[], object]) -> str:
    """What ConfigurationError says to another user; in a process of its own, since there is no way back."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing was raised"
        try:
            os.setgroups([])
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            do()
        except ConfigurationError as error:
            said = str(error)
        except BaseException as error:  # noqa: BLE001  # told to the test
            said = repr(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.mark.process
@pytest.mark.parametrize("words", [["worker"], ["beat"], ["flower"], ["inspect", "ping"], ["status"]])
def test_given_no_settings_then_celerys_commands_end_with_one_line_and_both_ways_out(
    shop: Path, words: list[str]
) -> None:
    done = celery(shop, words)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith("stageflow: no database and no broker: set STAGEFLOW_DATABASE")
    )
    assert "`stageflow up`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"STAGEFLOW_DATABASE_URL": "postgresql://u@127.0.0.1:1/x?pgbouncer=true"}, "invalid connection option"),
        ({"STAGEFLOW_DATABASE_URL": "sqlite:////x.db", "STAGEFLOW_LEASE_SECONDS": "x"}, "STAGEFLOW_LEASE_SECONDS"),
        ({"STAGEFLOW_DATABASE_URL": "mysql://u:pa55word@h/x"}, "mysql:// is not supported"),
    ],
)
def test_given_settings_that_no_stage_could_run_with_then_the_worker_does_not_start_and_says_why(
    shop: Path, settings: dict[str, str], says: str
) -> None:
    done = celery(shop, ["worker", "-c", "1"], STAGEFLOW_BROKER_URL="redis://127.0.0.1:1/0", **settings)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("stageflow: ")
    assert says in last
    assert "Traceback" not in done.stderr
    assert "pa55word" not in done.stderr


def celery(shop: Path, words: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "celery", "-A", "shop", *words]
    run = subprocess.Popen(
        argv,
        cwd=shop,
        env=environment(shop) | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = run.communicate(timeout=60)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(argv, run.returncode, out, err)
