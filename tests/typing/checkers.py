"""What mypy and pyright say of programs, line by line. Both read all programs in one go, as strictly as they can."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from tests.project.tree import ROOT

Checker = Literal["mypy", "pyright"]
CHECKERS: tuple[Checker, ...] = ("mypy", "pyright")

_MYPY = re.compile(r"(?P<file>.+?):(?P<line>\d+): (?P<kind>error|note): (?P<text>.*?)(?:  \[(?P<rule>[\w-]+)\])?$")
_MYPY_OPTIONS = ("--strict", "--no-error-summary", "--hide-error-context", "--no-pretty")


class Said(NamedTuple):
    """One error, or one revealed type (``rule`` is None)."""

    file: str
    line: int
    rule: str | None
    text: str


def ask(checker: Checker, files: Sequence[Path]) -> list[Said]:
    """What a checker says of files. Raises AssertionError where it could not read them."""
    return {"mypy": _mypy, "pyright": _pyright}[checker](files)


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def _mypy(files: Sequence[Path]) -> list[Said]:
    with TemporaryDirectory() as cache:  # a cache of their own: two processes of these tests that fill one break it
        done = _run("mypy", f"--cache-dir={cache}", *_MYPY_OPTIONS, *files)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = []
    for line in done.stdout.splitlines():
        said = _MYPY.fullmatch(line)
        assert said, f"mypy could not read it: {line}"
        revealed = re.fullmatch(r'Revealed type is "(.*)"', said["text"])
        if said["kind"] == "error" or revealed:
            text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", revealed[1]) if revealed else said["text"]
            found.append(Said(Path(said["file"]).name, int(said["line"]), said["rule"], text))
    return found


def _pyright(files: Sequence[Path]) -> list[Said]:
    done = _run("pyright", "--outputjson", "--pythonpath", sys.executable, *files)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(files)
    found = []
    for one in told["generalDiagnostics"]:
        revealed = re.fullmatch(r'Type of ".*" is "(.*)"', one["message"], re.DOTALL)
        text, rule = (revealed[1], None) if revealed else (one["message"], one.get("rule", "syntax"))
        found.append(Said(Path(one["file"]).name, one["range"]["start"]["line"] + 1, rule, text))
    return found
