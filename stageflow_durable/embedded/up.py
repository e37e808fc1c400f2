"""``stageflow up``: broker, workers, beat and monitor of one machine, in the foreground, until Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from stageflow_durable.embedded.home import Home, HomeLock
from stageflow_durable.embedded.keeping import Embedded, Upgrade, start
from stageflow_durable.embedded.ports import free_port, is_free
from stageflow_durable.embedded.private import secret
from stageflow_durable.embedded.processes import QUICK_DEATHS, Role, Say, Supervisor
from stageflow_durable.embedded.single import only_one
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Settings, Urls, safe_url

FLOWER_PORT = 5555
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_up(
    settings: Settings,
    app: str,
    *,
    concurrency: int = 2,
    beat: bool = True,
    flower: bool = False,
    monitor: Sequence[str] | None = None,
    out: Say = print,
    upgrade: Upgrade | None = None,
    worker_options: Sequence[str] = (),
    watched: Callable[[Urls, str | None], AbstractContextManager[Watching]] | None = None,
    reload: Reload | None = None,
) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP; returns the exit status. Call it from the main thread.

    With database and broker set, they are used; with neither, the broker of ``settings.home`` is started (or attached
    to), and ``upgrade(database_url)`` called before the first worker. ``app``: what ``celery -A`` takes.
    ``monitor``: the command that runs Flower, left out: Celery's. ``worker_options`` are added to the worker's
    command. ``watched``: entered while they run, told where database and broker are, and the monitor's address.
    ``reload``: when a Python file changes, the roles finish what they run and start again. A second
    signal kills at once. Raises :class:`ConfigurationError`, also when an ``up`` runs in the home already.
    """
    home = Home(settings.home)
    home.prepare()
    with (
        only_one(home, settings.app or app) as lock,
        stopping_on_signals() as stop,
        _place(settings, home, upgrade, out) as (urls, embedded),
    ):
        roles = roles_of(settings, urls, app, concurrency=concurrency, beat=beat, worker_options=worker_options)
        page = None
        if flower:
            page = f"http://127.0.0.1:{_flower_port(out, settings.public_url)}"
            roles.append(_flower(home, roles[0], monitor or celery(app, "flower"), page, out))
        out(f"database {safe_url(urls.database_url)}")
        out(f"broker   {safe_url(urls.broker_url)}")
        out("Ctrl-C stops all; the next `stageflow up` carries on")
        changed = embedded.record if embedded is not None else None
        with (
            nullcontext(Watching()) if watched is None else watched(urls, page) as watching,
            _renewal(reload, watching, out) as renew,
        ):
            supervisor = Supervisor(
                roles,
                logs=home.logs,
                out=out,
                changed=changed,
                doing=lambda name: watching.at_work() if name == "worker" else "",
                deaths=QUICK_DEATHS if reload is None else 1,
            )
            return _supervise(supervisor, stop, lock, home, out, watching, renew)


@dataclass(frozen=True, slots=True)
class Reload:
    """When to start again: when a Python file below ``directories`` has changed, and ``wrong()`` knows nothing, in one
    line, that keeps the application from being imported.
    """

    directories: Sequence[Path]
    wrong: Callable[[], str | None]


class Watching:
    """What whoever watches the roles knows; this one knows nothing."""

    def at_work(self) -> str:
        """Which stages run, for people; empty where none does."""
        return ""

    def stopping(self, *, again: bool) -> None:
        """The roles are being stopped; ``again``: to be started again."""


@contextmanager
def _renewal(reload: Reload | None, watching: Watching, out: Say) -> Iterator[Callable[[], bool] | None]:
    """What says whether the roles are to start again; None: never."""
    if reload is None:
        yield None
        return
    from stageflow_durable.embedded.reload import changes

    with changes(reload.directories) as changed:

        def renew() -> bool:
            what = changed()
            if what is None:
                return False
            wrong = reload.wrong()
            if wrong is not None:
                out(f"{what} changed: {wrong}; what runs goes on with the code of before")
                return False
            at = watching.at_work()
            out(f"{what} changed: starting again{f', once it has finished {at}' if at else ''}")
            watching.stopping(again=True)
            return True

        yield renew


def roles_of(
    settings: Settings,
    urls: Urls,
    app: str,
    *,
    concurrency: int = 2,
    beat: bool = True,
    worker_options: Sequence[str] = (),
) -> list[Role]:
    """The worker and, with ``beat``, the beat: what to run, with which environment, in which order to stop."""
    environment = settings.environment() | urls.environment() | {"PYTHONUNBUFFERED": "1"}
    worker = ["worker", f"--concurrency={concurrency}", f"--hostname=worker-{os.getpid()}@%h", *worker_options]
    roles = [Role("worker", celery(app, *worker), environment, rank=0)]
    if beat:
        schedule = ["--quiet", "beat", f"--schedule={settings.home / 'celerybeat-schedule'}", "--pidfile="]
        roles.append(Role("beat", celery(app, *schedule), environment, rank=1, stop_seconds=5.0, private=True))
    return roles


def celery(app: str, *arguments: str) -> list[str]:
    """The command line of Celery, with this Python."""
    return [sys.executable, "-m", "celery", "-A", app, *arguments]


class Stop:
    """What the signals said: ``event`` is set by the first, ``hurry`` true from the second on."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.hurry = False

    def on_signal(self, number: int, frame: object) -> None:
        """The handler."""
        self.hurry = self.event.is_set()
        self.event.set()


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Inside, SIGINT, SIGTERM and SIGHUP (a closed terminal) ask to stop instead of ending the process."""
    stop = Stop()
    before = {number: signal.signal(number, stop.on_signal) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _place(settings: Settings, home: Home, upgrade: Upgrade | None, out: Say) -> Iterator[tuple[Urls, Embedded | None]]:
    if settings.database_url or settings.broker_url:
        yield settings.require(), None
        return
    with start(home.root, upgrade=upgrade, say=out) as embedded:
        # A key that is set is everybody's: workers that signed with the home's own would seem to have forged histories.
        yield replace(embedded.urls, audit_key=settings.audit_key or embedded.urls.audit_key), embedded


def _supervise(
    supervisor: Supervisor,
    stop: Stop,
    lock: HomeLock,
    home: Home,
    out: Say,
    watching: Watching | None = None,
    renew: Callable[[], bool] | None = None,
) -> int:
    gone = False
    try:
        ended = supervisor.run(stop.event, lock.stood, renew, lambda: stop.hurry or not lock.stands)
    except FileNotFoundError as error:  # a part of the home is deleted before its lock is
        gone = error.filename is not None and home.root in Path(error.filename).parents
        if not gone:
            raise
        return 1
    else:
        if ended:
            watching = watching or Watching()
            at = watching.at_work()
            what = f"waiting for {at}" if at else "no stage is seen to run"
            watching.stopping(again=False)
            out(f"stopping: {what}; Ctrl-C again kills at once, and the next up carries on")
        return 0 if ended else 1
    finally:
        gone = gone or not lock.stands
        if gone:
            out(f"{home.root} was deleted or replaced while it was in use: everything is stopped; start again")
        supervisor.stop(lambda: stop.hurry or gone)  # what they would still save has no place


def _flower_port(out: Say, public_url: str | None) -> int:
    if importlib.util.find_spec("flower") is None:
        raise ConfigurationError("the monitor needs Flower: pip install 'stageflow_durable[flower]'")
    port = FLOWER_PORT
    if not is_free(port):
        port = free_port()
        out(f"monitor  port {FLOWER_PORT} is taken by another program: {port} is used instead")
        if public_url is not None and urlsplit(public_url).port == FLOWER_PORT:
            out(
                f"monitor  STAGEFLOW_PUBLIC_URL={public_url} is that other program's address, where no callback and no "
                f"link reaches this engine: end that program, or set it to port {port}"
            )
    return port


def _flower(home: Home, worker: Role, command: Sequence[str], page: str, out: Say) -> Role:
    file = home.root / "flower.password"
    # In the environment: a command line is for everybody on the machine to read.
    environment = dict(worker.environment) | {"FLOWER_BASIC_AUTH": f"stageflow:{secret(file)}"}
    out(f"monitor  {page} (user stageflow, password in {file})")
    # Below an error it tells its list of tasks, and that workers which only just start do not answer it yet.
    argv = [*command, "--address=127.0.0.1", f"--port={urlsplit(page).port}", "--logging=error"]
    return Role("flower", argv, environment, rank=1, stop_seconds=5.0)
