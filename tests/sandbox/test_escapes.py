"""Each escape is tried by a real program in each backend, and beside it, where it has to succeed: an escape that never
works would prove nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stageflow_durable.sandbox import LimitExceeded, SandboxLevel, SandboxLimits, SandboxPolicy, ToolFailed, run
from stageflow_durable.sandbox.backends import Backend
from stageflow_durable.sandbox.keeper import landlock
from stageflow_durable.sandbox.policy import SYSTEM_PATHS
from tests.sandbox.escapes import ESCAPES, Escape
from tests.sandbox.outside import PYTHON, Outside

LIMITS = SandboxLimits(wall=30, cpu=10, memory=200 << 20, processes=32, disk=32 << 20, file_size=16 << 20)


def policy(backend: Backend, place: Outside, **options: object) -> SandboxPolicy:
    settings: dict[str, object] = {
        "read_only": (*SYSTEM_PATHS, str(place.tools), str(place.public)),
        "minimum_level": SandboxLevel.PROCESS,
        "backend": backend.name,
        "limits": LIMITS,
        "outputs": ("result.txt", "directory/id_rsa"),
    }
    return SandboxPolicy(**{**settings, **options})  # type: ignore[arg-type]  # they are checked where they arrive


def tried(escape: Escape, argument: object, backend: Backend, place: Outside) -> str:
    """What the hostile program said inside, and everything that came out with it."""
    try:
        result = run([PYTHON, place.hostile, escape.by, str(argument)], policy(backend, place))
    except LimitExceeded as error:
        return f"STOPPED at the limit of {error.limit}"
    except ToolFailed as error:
        return f"STOPPED {error}"
    return f"{result.stdout}{dict(result.files)}"


def beside(escape: Escape, argument: object, place: Outside, directory: Path) -> str:
    # What it mounts is mounted for it alone.
    command = ["unshare", "--mount", PYTHON, place.hostile, escape.by, str(argument)]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, timeout=60, check=False).stdout


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda one: f"{one.threat}-{one.name}")
def test_an_escape_is_stopped_inside_and_works_beside(
    escape: Escape, backend: Backend, place: Outside, tmp_path: Path
) -> None:
    if escape.landlock and backend.name == "process" and not landlock.version():
        pytest.skip("this kernel has no Landlock, without which it is not stopped")
    argument = escape.argument(place)
    said = tried(escape, argument, backend, place)
    if backend.name in escape.not_stopped:
        assert said.startswith("DONE"), "the documentation says that it is not stopped"
        return
    assert said.startswith("STOPPED"), said
    assert place.marker not in said
    clean(argument)
    if os.geteuid() != 0:
        return  # outside, whoever is not root may do little of it either
    control = escape.control(place) if escape.control else argument
    outside = beside(escape, control, place, tmp_path)
    clean(control)
    assert outside.startswith("DONE"), f"it does not work outside either: {outside}"


def clean(argument: object) -> None:
    if isinstance(argument, Path) and argument.name not in ("id_rsa", "readable") and argument.is_file():
        argument.unlink()
    elif str(argument).startswith(("/usr/local/bin/stageflow", "/hostile")):
        Path(str(argument)).unlink(missing_ok=True)
