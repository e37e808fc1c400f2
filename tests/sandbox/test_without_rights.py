"""A worker that is not root: a user namespace of the keeper stands for a uid of the sandbox's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stageflow_durable.sandbox.backends import Backend
from tests.sandbox.escapes import ESCAPES, Escape
from tests.sandbox.outside import PYTHON, Outside

PACKAGE = Path(__file__).parents[2] / "stageflow_durable"
USER = "54321"

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from stageflow_durable.sandbox import SYSTEM_PATHS, LimitExceeded, SandboxLimits, SandboxPolicy, ToolFailed, run
_library, backend, place, by, argument = sys.argv[1:]
limits = SandboxLimits(wall=20, cpu=10, memory=200 << 20, processes=32, disk=32 << 20, file_size=16 << 20)
policy = SandboxPolicy(backend=backend, minimum_level=1, limits=limits, read_only=(*SYSTEM_PATHS, place + "/tools"))
try:
    print(run(["/usr/bin/python3", place + "/tools/hostile.py", by, argument], policy).stdout)
except LimitExceeded as error:
    print("STOPPED", error)
"""

TRIED = [
    one
    for one in ESCAPES
    if one.threat in (1, 2, 17, 18) and not one.not_stopped and one.name not in ("terminals", "a program that is root")
]


@pytest.fixture(scope="module")
def library() -> Iterator[str]:
    """The library where anybody can read it: what sandboxes need of it needs nothing else."""
    with TemporaryDirectory() as made:
        shutil.copytree(PACKAGE, Path(made, PACKAGE.name), ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["chmod", "-R", "a+rX", made], check=True)
        yield made


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test is one of a worker without rights then")
@pytest.mark.parametrize("escape", TRIED, ids=lambda one: f"{one.threat}-{one.name}")
def test_an_escape_is_stopped_for_a_worker_without_rights(
    escape: Escape, backend: Backend, place: Outside, library: str
) -> None:
    if backend.name == "process":
        pytest.skip("it is for development: what it stops without rights is Landlock's and the filter's")
    become = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
    given = [library, backend.name, str(place.root), escape.by, str(escape.argument(place))]
    said = subprocess.run(
        [*become, PYTHON, "-c", WORKER, *given],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=True,
    ).stdout
    assert said.startswith("STOPPED"), said
    assert place.marker not in said
