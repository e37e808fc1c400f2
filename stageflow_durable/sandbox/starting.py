"""Starting a keeper and waiting for its answer, in the thread that wants the result."""

from __future__ import annotations

import errno
import json
import os
import select
import selectors
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stageflow_durable.sandbox.errors import SandboxBusy, SandboxUnavailable
from stageflow_durable.sandbox.policy import SandboxLimits

ROOT = str(Path(__file__).resolve().parents[2])
KEEPER = """
import sys
sys.dont_write_bytecode = True
for name in ("stageflow_durable", "stageflow_durable.sandbox"):
    package = sys.modules[name] = type(sys)(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from stageflow_durable.sandbox.keeper.main import main
main()
"""
# The two packages are there without their own imports, which are a worker's and take as long as all the rest.

LOOK_SECONDS = 0.5
GRACE_SECONDS = 30.0
"""How long a keeper may take beyond the sandbox's own time, on a machine that is busy."""


def keep(job: Mapping[str, Any], limits: SandboxLimits, look: Callable[[], None]) -> dict[str, Any]:
    """Have a keeper run ``job`` and return its answer. ``look`` is called twice a second; what it raises, like whatever
    else is raised in this thread, ends the sandbox first. Raises SandboxUnavailable, or SandboxBusy if that
    passes, if there is no answer.

    The thread waits: the keeper ends with it, and so does the sandbox.
    """
    given = json.dumps({**job, "limits": asdict(limits), "parent": os.getpid()}).encode() + b"\n"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", KEEPER, ROOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},  # the keeper's own is nobody's to read either
        cwd="/",
        start_new_session=True,
        bufsize=0,
    ) as keeper:
        try:
            said = _exchanged(keeper, given, limits.wall + GRACE_SECONDS, look)
        finally:
            _end(keeper)
    return _answer(said, keeper.returncode)


def _exchanged(
    keeper: subprocess.Popen[bytes], given: bytes, patience: float, look: Callable[[], None]
) -> Mapping[str, bytearray]:
    """Hand over the job, and read until the keeper has closed both pipes."""
    assert keeper.stdin is not None and keeper.stdout is not None and keeper.stderr is not None
    until, looked = time.monotonic() + patience, time.monotonic()
    said = {"stdout": bytearray(), "stderr": bytearray()}
    with selectors.DefaultSelector() as selector:
        os.set_blocking(keeper.stdin.fileno(), False)
        selector.register(keeper.stdin, selectors.EVENT_WRITE)
        selector.register(keeper.stdout, selectors.EVENT_READ, said["stdout"])
        selector.register(keeper.stderr, selectors.EVENT_READ, said["stderr"])
        while len(selector.get_map()) > (keeper.stdin in selector.get_map()):
            for key, _events in selector.select(LOOK_SECONDS):
                if key.fileobj is keeper.stdin:
                    given = _handed(selector, keeper.stdin, given)
                elif data := os.read(key.fd, 1 << 16):
                    key.data.extend(data)
                else:
                    selector.unregister(key.fileobj)
            now = time.monotonic()
            if now - looked >= LOOK_SECONDS:
                look()
                looked = now
            if now > until:
                raise SandboxBusy(f"the keeper of a sandbox did not answer within {patience:g} s")
    return said


def _handed(selector: selectors.BaseSelector, stdin: Any, given: bytes) -> bytes:
    try:
        given = given[os.write(stdin.fileno(), given) :]
    except BlockingIOError:
        return given
    except BrokenPipeError:  # its stderr says why
        given = b""
    if not given:
        selector.unregister(stdin)  # and stays open: its end means that nobody waits
    return given


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """The end of its stdin tells the keeper to end the sandbox and itself. Of a keeper that does not, and is killed,
    nothing of the sandbox is left either.
    """
    for pipe in (keeper.stdin, keeper.stdout, keeper.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    try:
        _await(keeper.pid)
    finally:
        keeper.kill()  # if it is there still
        keeper.wait()


def _await(process: int) -> None:
    """Wait for a child's end, without asking again and again, and no longer than a keeper may take."""
    ended = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll(GRACE_SECONDS * 1000)
    finally:
        os.close(ended)


def _answer(said: Mapping[str, bytearray], code: int) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(bytes(said["stdout"]))
    except ValueError:
        last = bytes(said["stderr"]).decode("utf-8", "replace").strip().splitlines()[-1:]
        ended = f"the keeper of a sandbox ended with {code}: {''.join(last) or 'no word'}"
        raise (SandboxBusy if code < 0 else SandboxUnavailable)(ended) from None  # killed, or a mistake of ours
    if "failed" in answer:
        raise refusal(answer["failed"], answer.get("errno"))
    return answer


def refusal(said: str, number: int | None = None) -> SandboxUnavailable | SandboxBusy:
    """The error of a sandbox that could not be made: whether that passes."""
    busy = number in _PASSING or any(os.strerror(one) in said for one in _PASSING)
    return SandboxBusy(f"a sandbox could not be made now: {said}") if busy else SandboxUnavailable(said)


_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.EUSERS)


def packed(data: bytes) -> str:
    """Bytes as a job has them."""
    return b64encode(data).decode()
