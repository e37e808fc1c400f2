"""The repository's own files, as the tests of the project look at them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "stageflow_durable"


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Every file of the project with one of ``suffixes`` (all when none is given), sorted; nothing built or cached."""
    return tuple(path for path in _listed() if not suffixes or path.suffix in suffixes)


@cache
def _listed() -> tuple[Path, ...]:
    """What git knows or would add. A clone that belongs to somebody else is read all the same."""
    asked = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(sorted(path for name in set(names) if name and (path := ROOT / name).is_file()))


def modules(*folders: str) -> tuple[Path, ...]:
    """The Python files below ``folders`` of the project."""
    return tuple(path for path in files(".py") if path.relative_to(ROOT).parts[0] in folders)


@cache
def parsed(module: Path) -> ast.Module:
    """The syntax tree of ``module``."""
    return ast.parse(module.read_text(encoding="utf-8"), str(module))


def functions(module: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of ``module``."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def shown(path: Path) -> str:
    """``path`` as the project knows it."""
    return path.relative_to(ROOT).as_posix()
