"""What can isolate a program, and whether it does so here: tried, not looked up."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.sandbox import calls
from stageflow_durable.sandbox.errors import SandboxBusy, SandboxUnavailable
from stageflow_durable.sandbox.policy import SandboxLevel, SandboxLimits, SandboxPolicy
from stageflow_durable.sandbox.program import CODE, INSIDE, Mounted, Program, mounted
from stageflow_durable.sandbox.starting import keep, packed, refusal


@dataclass(frozen=True, slots=True)
class Order:
    """One run of a program: its stdin, files of its work directory, and variables."""

    program: Program
    policy: SandboxPolicy
    stdin: bytes = b""
    files: Mapping[str, bytes] | None = None
    variables: Mapping[str, str] | None = None


class Backend(Protocol):
    """Something that isolates programs."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def level(self) -> SandboxLevel:
        """How much it isolates."""

    @property
    def not_stopped(self) -> str:
        """What it does not stop, in one sentence; empty: nothing that the suite of escapes tries."""

    def run(self, order: Order, look: Callable[[], None]) -> dict[str, Any]:
        """The keeper's answer, as :func:`~stageflow_durable.sandbox.result.read_result` reads it. Raises
        SandboxUnavailable if the sandbox could not be made.
        """


PATH = "/usr/local/bin:/usr/bin:/bin"


def job_of(order: Order, backend: str, *, sockets: bool) -> dict[str, Any]:
    """What every keeper is told."""
    policy = order.policy
    return {
        "backend": backend,
        "command": order.program.words,
        "paths": mounted(policy.read_only, order.program),
        "value": order.program.value,
        "env": {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": "/work",
            "TMPDIR": "/tmp",  # noqa: S108  # the sandbox's own
            **policy.environment,
            **(order.variables or {}),
        },
        "stdin": packed(order.stdin),
        "files": {name: packed(data) for name, data in (order.files or {}).items()},
        "outputs": policy.outputs,
        "user": policy.user,
        "filter": packed(calls.program(sockets=sockets)),
    }


class Bubblewrap:
    """Namespaces by ``bwrap``, as a user without rights: the default."""

    name = "bubblewrap"
    level = SandboxLevel.CONTAINER
    not_stopped = "a flaw of the kernel that both share"

    def run(self, order: Order, look: Callable[[], None]) -> dict[str, Any]:
        """See :class:`Backend`."""
        program = shutil.which("bwrap", path=f"{PATH}:/usr/sbin:/sbin")
        if program is None:
            raise SandboxUnavailable("there is no bwrap; install it (apt-get install bubblewrap)")
        job = {**job_of(order, self.name, sockets=True), "program": program}
        answer = keep(job, order.policy.limits, look)
        if answer["exit_code"] is None and answer["over"] is None:
            raise refusal(f"bwrap did not start the program: {last_line(answer)}")
        return answer


class Process:
    """A process with bounds, a uid of its own where the worker is root, and Landlock and a filter of calls where the
    kernel has them.
    """

    name = "process"
    level = SandboxLevel.PROCESS
    not_stopped = "it sees the machine's processes and users; what it may read is held by Landlock alone, if at all"

    def run(self, order: Order, look: Callable[[], None]) -> dict[str, Any]:
        """See :class:`Backend`."""
        job = job_of(order, self.name, sockets=False)
        words = [_where(word, job["paths"]) for word in job["command"]]
        words[0] = shutil.which(words[0], path=job["env"]["PATH"]) or words[0]
        paths = [(kind, source, source) for kind, source, _target in job["paths"] if kind == "bind"]
        job |= {"command": words, "paths": paths, "directory": tempfile.gettempdir()}
        return keep(job, order.policy.limits, look)


def _where(word: str, paths: Sequence[Mounted]) -> str:
    """Where the host has what a sandbox with mounts would have below ``/code``."""
    below = {target: source for kind, source, target in paths if kind == "bind" and target.startswith(f"{CODE}/")}
    if word == CODE:
        own = [
            source for target, source in below.items() if Path(target).name == Path(source).name and target != INSIDE
        ]
        return str(Path(own[0]).parent) if own else word
    return below.get(word, word)


def last_line(answer: Mapping[str, Any]) -> str:
    """The last thing that was written to stderr."""
    from base64 import b64decode

    lines = b64decode(answer.get("stderr", "")).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else "it said nothing"


BACKENDS: tuple[Backend, ...] = (Bubblewrap(), Process())
"""In the order in which they are asked; the policy's level leaves out those that isolate less."""


# --- whether they work here -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a backend works here, as a trivial program showed. ``reason``: why not, or None."""

    backend: str
    level: SandboxLevel
    works: bool
    reason: str | None
    not_stopped: str


_PROBED = Program(("/bin/sh", "-c", 'read word && echo "it $word"'))
_LIMITS = SandboxLimits(wall=20)
_verdicts: dict[str, tuple[Verdict, float]] = {}
AGAIN_SECONDS = 30.0
"""How long a verdict that something does not work is kept: it may have been installed since, or allowed."""


def probe(*, anew: bool = False) -> tuple[Verdict, ...]:
    """Run a trivial program in each backend and say which of them work, and why not. That one works is kept for as long
    as this process lives, unless asked ``anew``; that one does not, for half a minute.
    """
    return tuple(verdict(backend, anew=anew) for backend in BACKENDS)


def verdict(backend: Backend, *, anew: bool = False, now: Callable[[], float] = time.monotonic) -> Verdict:
    """Whether one backend works here."""
    kept = _verdicts.get(backend.name)
    if anew or kept is None or not (kept[0].works or now() - kept[1] < AGAIN_SECONDS):
        reason = _tried(backend)
        found = Verdict(backend.name, backend.level, reason is None, reason, backend.not_stopped)
        kept = _verdicts[backend.name] = (found, now())
    return kept[0]


def _tried(backend: Backend) -> str | None:
    from base64 import b64decode

    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    policy = SandboxPolicy(limits=_LIMITS, minimum_level=SandboxLevel.PROCESS)
    try:
        answer = backend.run(Order(_PROBED, policy, b"works\n"), lambda: None)
    except (SandboxUnavailable, SandboxBusy) as error:
        return str(error)
    said = b64decode(answer["stdout"])
    return None if said == b"it works\n" else f"a trivial program said {said[:100]!r}, and {last_line(answer)!r}"


def chosen(policy: SandboxPolicy, backends: Sequence[Backend] | None = None) -> Backend:
    """The first backend that works here and isolates as much as the policy asks. Raises SandboxUnavailable, with the
    reason of each, where there is none: nothing less is ever used instead.
    """
    backends = BACKENDS if backends is None else backends
    if policy.backend is not None and policy.backend not in [one.name for one in backends]:
        known = ", ".join(one.name for one in backends)
        raise ConfigurationError(f"SandboxPolicy backend: no backend {policy.backend!r}; known are {known}")
    reasons = []
    for backend in backends:
        if backend.level < policy.minimum_level:
            reasons.append(f"{backend.name} is of level {backend.level.name}")
        elif policy.backend in (None, backend.name):
            found = verdict(backend)
            if found.works:
                return backend
            reasons.append(f"{backend.name}: {found.reason}")
    raise SandboxUnavailable(
        f"nothing here isolates at level {policy.minimum_level.name}, and nothing was run ({'; '.join(reasons)}); "
        "see: stageflow sandbox probe"
    )
