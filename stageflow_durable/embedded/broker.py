"""Keeping one Valkey alive: a thread starts it, watches it and starts it again."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable

from stageflow_durable.embedded import valkey
from stageflow_durable.embedded.attachment import Answer, ask, ping
from stageflow_durable.embedded.children import Follower, Process, end, spawn
from stageflow_durable.embedded.home import Home
from stageflow_durable.embedded.identity import Identity, identify
from stageflow_durable.embedded.ports import free_port, is_free
from stageflow_durable.embedded.private import OTHERS
from stageflow_durable.errors import ConfigurationError

Say = Callable[[str], None]
START_SECONDS = 30.0
START_TRIES = 4
STOP_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 5.0
WATCH_SECONDS = 0.05
HEALTH_TURNS = 40
RELEASE_TURNS = 25


class Broker:
    """The Valkey of a home. ``started(port, process)`` is called after each start; ``say`` gets lines for people.

    ``port``: the one to use; None: ``before`` if it is free, so that those who know it find it again, else any.
    ``stands``: whether the home is still there.
    """

    def __init__(
        self,
        home: Home,
        *,
        port: int | None,
        before: int | None,
        say: Say,
        started: Callable[[int, Identity], None],
        stands: Callable[[], bool] = lambda: True,
    ) -> None:
        self._home = home
        self._program = valkey.binary()
        self._say = say
        self._started = started
        self._stands = stands
        self._fixed = port is not None
        self._process: Process | None = None
        self._stopping = threading.Event()
        self.port = self._choose(port or before)
        self._settled = threading.Event()
        self._error: Exception | None = None
        self._disk_full = False
        # The kernel ties the server to the thread that starts it, so one thread does, for as long as we live.
        self._thread = threading.Thread(target=self._keep, name="stageflow-broker", daemon=True)

    @property
    def pid(self) -> int | None:
        """The server's pid, None while it is down."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start the server; returns when it answers, or raises :class:`ConfigurationError` with the reason."""
        self._thread.start()
        self._settled.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop the server in order: what it has is on disk."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_SECONDS + START_SECONDS)

    def _choose(self, port: int | None) -> int:
        if port is None or self._becomes_free(port):
            return port or free_port()
        if self._fixed:
            raise ConfigurationError(f"port {port} of 127.0.0.1 is taken by another program; choose another, or none")
        other = free_port()
        self._say(f"port {port} is taken by another program; the broker listens on {other}")
        return other

    def _becomes_free(self, port: int) -> bool:
        # The threads of a killed server may hold its socket a moment longer than the server is seen to live.
        return any(is_free(port) or self._stopping.wait(0.02) for _ in range(RELEASE_TURNS))

    def _keep(self) -> None:
        try:
            self._first_start()
        except Exception as error:  # noqa: BLE001  # handed to the thread that called start()
            self._error = error
        self._settled.set()
        try:
            while self._error is None and not self._stopping.is_set():
                self._watch()
                self._restart()
        except OSError as error:
            self._say(self._cannot_be_kept(error))
        if self._process is not None:
            end(self._process, within=STOP_SECONDS)

    def _cannot_be_kept(self, error: OSError) -> str:
        if not self._stands():
            return f"{self._home.root} was deleted or replaced while it was in use: its broker is stopped"
        return f"the broker in {self._home.root} cannot be kept ({error.strerror}); it is stopped"

    def _first_start(self) -> None:
        for _ in range(START_TRIES):
            output = self._start_once()
            if output is None:
                return
            self._mend(output)
        raise ConfigurationError(f"the broker does not start; see {self._home.logs / 'valkey.log'}")

    def _restart(self) -> None:
        pause = 0.05
        while not self._stopping.wait(pause):
            output = self._start_once()
            if output is None or self._stopping.is_set():
                return
            # Everybody knows the old port: wait for it rather than take another.
            if valkey.cause_of_death(output) is valkey.Death.DAMAGED_FILE:
                self._mend(output)
            self._say(f"the broker does not start: {valkey.last_words(output)}; trying again")
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _start_once(self) -> str | None:
        """Start the server: None when it answers, else what it said before it ended."""
        log = self._home.logs / "valkey.log"
        config = valkey.configure(self._home, self.port)
        said = Follower(log)
        argv = [str(self._program), str(config)]
        self._process = spawn(argv, log=log, at_our_death=signal.SIGTERM, umask=OTHERS)
        if not self._answers(self._process):
            end(self._process, within=STOP_SECONDS)
            return "\n".join(said.lines())
        identity = identify(self._process.pid)
        if identity is not None:
            self._started(self.port, identity)
        return None

    def _answers(self, process: Process) -> bool:
        # As long as it reads its data it may take: a large file is no failure.
        waited = 0.0
        while process.poll() is None and waited < START_SECONDS:
            answer = ping(self.port, self._home.password())
            if answer is Answer.PONG:
                return True
            waited += 0.0 if answer is Answer.LOADING else 0.02
            if self._stopping.wait(0.02):
                break
        return False

    def _mend(self, output: str) -> None:
        cause = valkey.cause_of_death(output)
        if cause is valkey.Death.PORT_TAKEN:
            self.port = self._choose(self.port)
        elif cause is valkey.Death.DAMAGED_FILE:
            aside = valkey.set_aside(self._home)
            self._say(f"the broker's file was damaged and is now {aside}; recovery publishes its messages again")
        else:
            raise ConfigurationError(self._cannot_start(output))

    def _cannot_start(self, output: str) -> str:
        if valkey.cause_of_death(output) is valkey.Death.DISK_FULL:
            return f"the disk of {self._home.root} is full: make room, or set STAGEFLOW_HOME"
        return f"the broker does not start: {valkey.last_words(output)} (see {self._home.logs / 'valkey.log'})"

    def _watch(self) -> None:
        """Return when the server has ended or is to be stopped."""
        assert self._process is not None
        for turn in itertools.count(1):
            if self._stopping.wait(WATCH_SECONDS):
                return
            if (status := self._process.poll()) is not None:
                self._say(f"the broker ended ({_how(status)}); starting it again")
                return
            if turn % HEALTH_TURNS == 0:
                if not self._stands():
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._home.root))
                self._look_at_disk()

    def _look_at_disk(self) -> None:
        information = ask(self.port, self._home.password(), "INFO", "persistence")
        full = b"aof_last_write_status:err" in information
        if full != self._disk_full and information:
            self._disk_full = full
            self._say(
                f"the disk of {self._home.root} is full: the broker takes nothing until there is room; no run is lost"
                if full
                else "the disk has room again"
            )


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
