"""One sandbox from its start to its end: made, started, watched, ended, cleared away."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from stageflow_durable.sandbox.keeper import bubblewrap, landlock, staging, system
from stageflow_durable.sandbox.keeper.cgroups import Group
from stageflow_durable.sandbox.keeper.watching import Watch, family, processes_of, reap

TYPE_CHECKING = False  # typing itself would cost a third of the keeper's start
if TYPE_CHECKING:
    from typing import Any, NoReturn

VALUE = 3
"""The descriptor by which a function's value comes out."""

FAILURE = 13
"""The one by which the keeper's child says why it did not become the program; no program has it."""

STATUS_BYTES = 4096
PATIENCE = 10.0


class Sandbox:
    """What the keeper keeps. ``job``: what to run and its bounds, as :mod:`stageflow_durable.sandbox.starting` writes
    it.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job
        self.limits: Mapping[str, Any] = job["limits"]
        self.uid: int | None = None
        self.keeper = os.getpid()
        self.first = 0
        self.group = Group({})
        self.root = ""

    def kept(self) -> dict[str, Any]:
        """Run it; the answer says how it ended. Raises OSError for what cannot be made, Abandoned."""
        system.prctl(system.SET_SUBREAPER, 1)
        self.uid = self._own_uid()
        made = self.job["backend"] == "bubblewrap"
        command = self._staged() if made else self._in_directory()
        try:
            return self._run(command)
        finally:
            self.group.remove()
            if not made:
                _remove(self.root)

    def _own_uid(self) -> int | None:
        if os.geteuid() != 0:
            return None
        if self.job["user"] is not None:
            return int(self.job["user"])
        with open("/proc/self/uid_map") as file:
            return system.uid_of_its_own(file.read(), os.getpid())

    # --- what is run --------------------------------------------------------------------------------------------------

    def _staged(self) -> Command:
        """In namespaces of its own, below a directory that only they have."""
        sources = [source for kind, source, _target in self.job["paths"] if kind == "bind"]
        staging.enter_namespace()
        staged = staging.Staging(sources, self.limits["disk"], self.limits["disk_files"], self.uid)
        staged.write(self.job["files"])
        self.root = f"{staged.root}/work"
        said = bubblewrap.arguments(self.job, staged)
        given = {
            bubblewrap.ARGUMENTS: bubblewrap.descriptor("\0".join(said).encode() + b"\0"),
            bubblewrap.FILTER: bubblewrap.descriptor(self.job["filter"]),
        }
        program = [self.job["program"], "--args", str(bubblewrap.ARGUMENTS), "--", *self.job["command"]]
        return Command(program, {}, given, bubblewrap.OVERHEAD, status=True)

    def _in_directory(self) -> Command:
        """Beside everything else, with bounds alone."""
        self.root = f"{self.job['directory']}/stageflow-sandbox-{os.urandom(8).hex()}"
        os.mkdir(self.root, 0o700)
        staging.write_files(self.root, self.job["files"], self.uid)
        if self.uid is not None:
            os.chown(self.root, self.uid, self.uid)
        here = {"HOME": self.root, "TMPDIR": self.root}
        return Command(self.job["command"], {**self.job["env"], **here}, {}, 0, directory=self.root)

    # --- its life -----------------------------------------------------------------------------------------------------

    def _run(self, command: Command) -> dict[str, Any]:
        limits = self.limits
        self.group = Group.made(limits["memory"], limits["processes"] + command.overhead)
        pipes = Pipes(command.status, self.job["value"])
        began = time.monotonic()
        self.first = os.fork()
        if self.first == 0:
            self._become(command, pipes)
        watch = self._watch(pipes, command)
        try:
            watch.until_its_end()
        finally:
            ended = reap(self._kill, PATIENCE)
        watch.drain()
        seconds = time.monotonic() - began
        return self._answer(watch, command, ended.get(self.first, 0), seconds)

    def _watch(self, pipes: Pipes, command: Command) -> Watch:
        pipes.close_theirs()
        for descriptor in command.given.values():
            os.close(descriptor)
        limits = self.limits
        most = {"stdout": limits["output"], "stderr": limits["output"], "value": limits["output"]}
        most |= {"status": STATUS_BYTES, "failure": STATUS_BYTES}
        return Watch(
            self.first,
            0,
            reads=pipes.reads,
            most=most,
            feed=pipes.feed,
            given=self.job["stdin"],
            group=self.group,
            limits=limits,
        )

    def _kill(self) -> None:
        """End all of it: its group, its namespace's processes, and what was handed to the keeper."""
        self.group.kill()
        for number in family(self.keeper)[1:]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if self.uid is not None and self.job["user"] is None and self.job["backend"] == "process":
            _kill_all_of(self.uid)

    def _answer(self, watch: Watch, command: Command, status: int, seconds: float) -> dict[str, Any]:
        failure = bytes(watch.seen.pop("failure")).decode("utf-8", "replace")
        if failure:
            return {"failed": failure}
        ended = os.waitstatus_to_exitcode(status)
        code: int | None = 128 - ended if ended < 0 else ended  # as shells and bubblewrap say it
        if command.status:
            code = bubblewrap.status(bytes(watch.seen.pop("status")))[1]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = self.group.cpu_seconds()
        answer: dict[str, Any] = {
            **watch.seen,
            "exit_code": code,
            "over": watch.over,
            "usage": {
                "wall_seconds": round(seconds, 3),
                "cpu_seconds": round(used.ru_utime + used.ru_stime if cpu is None else cpu, 3),
                "memory_bytes": self.group.memory_peak() or max(watch.peak, used.ru_maxrss * 1024),
            },
        }
        answer["over"] = self._reached(answer)
        return {**answer, **self._taken_out(answer)}

    def _reached(self, answer: Mapping[str, Any]) -> str | None:
        """The limit that ended it, whoever did: the keeper or the kernel."""
        if answer["over"]:
            return str(answer["over"])
        if self.group.killed_for_memory():
            return "memory"
        killed = answer["exit_code"] in (128 + signal.SIGXCPU, 128 + signal.SIGKILL)
        return "cpu" if killed and answer["usage"]["cpu_seconds"] >= self.limits["cpu"] * 0.95 else None

    def _taken_out(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        if answer["over"]:
            return {"files": {}}
        try:
            return {"files": staging.read_files(self.root, self.job["outputs"], self.limits["output"])}
        except staging.TooLarge:
            return {"files": {}, "over": "output"}

    # --- in the child -------------------------------------------------------------------------------------------------

    def _become(self, command: Command, pipes: Pipes) -> NoReturn:
        """Become the program. What keeps it from that is written to its stderr, as its own last word."""
        try:
            self.group.enter()
            os.setsid()
            system.limit(self._bounds(command.overhead))
            pipes.place(command.given)
            if self.uid is not None:
                system.become(self.uid)
            system.die_with(self.keeper)
            if not command.status:
                self._confine(command)
            os.execve(command.words[0], command.words, dict(command.environment))  # noqa: S606  # no shell
        except BaseException as error:  # noqa: BLE001  # a fork of the keeper must not go on as one
            os.write(FAILURE, f"{command.words[0]}: {error}".encode()[:STATUS_BYTES])
        os._exit(127)

    def _confine(self, command: Command) -> None:
        os.chdir(command.directory)
        landlock.confine([target for _kind, _source, target in self.job["paths"]], command.directory)
        if self.job["filter"]:
            system.filter_calls(self.job["filter"])

    def _others(self) -> int:
        """What counts as well where the sandbox has no uid of its own: the keeper in their user namespace, or
        everything of the user.
        """
        if self.uid is not None:
            return 0
        return 1 if self.job["backend"] == "bubblewrap" else processes_of(os.getuid())

    def _bounds(self, overhead: int) -> dict[str, int]:
        names = ("cpu", "memory", "files", "file_size")
        limits = {name: int(self.limits[name]) for name in names}
        limits["cpu"] = max(1, round(self.limits["cpu"] + 0.5))
        limits["processes"] = self.limits["processes"] + overhead + self._others()
        return {**limits, "core": 0, "locked": 0, "queues": 0}


class Command:
    """What is executed: its words, environment, further descriptors by number, processes that are not the program's,
    its directory, and whether it tells its status by a descriptor.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        given: dict[int, int],
        overhead: int,
        *,
        status: bool = False,
        directory: str = "/",
    ) -> None:
        self.words, self.environment, self.given = list(words), environment, given
        self.overhead, self.status, self.directory = overhead, status, directory


class Pipes:
    """Pipes between the keeper and what it keeps: always pipes, for a regular file is overwritten by some."""

    def __init__(self, status: bool, value: bool) -> None:
        self._theirs: dict[int, int] = {}
        self.reads: dict[str, int] = {}
        self._theirs[0], self.feed = os.pipe()
        for name, number, wanted in (
            ("stdout", 1, True),
            ("stderr", 2, True),
            ("value", VALUE, value),
            ("status", bubblewrap.STATUS, status),
            ("failure", FAILURE, True),
        ):
            if wanted:
                self.reads[name], self._theirs[number] = os.pipe()

    def close_theirs(self) -> None:
        """In the keeper: keep our ends alone, so that theirs end with them."""
        for descriptor in self._theirs.values():
            os.close(descriptor)

    def place(self, given: Mapping[int, int]) -> None:
        """In the child: every descriptor where it is expected, and no other."""
        wanted = {**self._theirs, **given}
        high = {number: _moved(descriptor) for number, descriptor in wanted.items()}
        for number, descriptor in high.items():
            os.dup2(descriptor, number, inheritable=number != FAILURE)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in wanted:
                with suppress(OSError):
                    os.close(number)


def _moved(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)


def _remove(directory: str) -> None:
    """However deep its directories lie in each other; no link is followed."""
    with suppress(OSError):
        os.waitpid(os.posix_spawn("/bin/rm", ["rm", "-rf", "--", directory], {}), 0)


def _kill_all_of(uid: int) -> None:
    """End every process of a uid that only this sandbox has, in one call: none of them can fork away from it."""
    helper = os.fork()
    if helper == 0:
        with suppress(BaseException):
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        os._exit(0)
    with suppress(ChildProcessError):
        os.waitpid(helper, 0)
