"""make and .ci/run: what they list, and what they say when the machine lacks something."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.project.tree import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PHONY = re.findall(r"^\.PHONY: (\w+)$", MAKEFILE, flags=re.MULTILINE)
VENV = ROOT / ".ci" / "venv"


def _run(command: Sequence[str | Path], path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ if path is None else {"PATH": str(path)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def _program(directory: Path, name: str, body: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    (directory / name).chmod(0o755)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A PATH with what every machine has, and no Python."""
    for tool in ("bash", "tail", "rm"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
    return tmp_path


def test_help_lists_every_target_and_is_the_default() -> None:
    listed = re.findall(r"^  make (\w+) +\S", _run(["make", "-s"]).stdout, flags=re.MULTILINE)
    assert listed == PHONY


def test_each_target_but_those_of_containers_makes_its_environment_first() -> None:
    rules = dict(re.findall(r"^(\w+):(.*?)##", MAKEFILE, flags=re.MULTILINE))
    without = {name for name, needs in rules.items() if "$(STAMP)" not in needs}
    assert without == {"help", "up", "down", "clean"}


@pytest.mark.parametrize("script", ["run", "sandbox", "venv"])
def test_the_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / ".ci" / script, os.X_OK)
    assert _run(["bash", "-n", ROOT / ".ci" / script]).returncode == 0


def test_ci_checks_and_tests_with_every_service_required() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert text.rstrip().endswith("make check test test-sandbox test-browser")
    assert "STAGEFLOW_REQUIRE_SERVICES=1" in text


def test_given_no_python_that_is_new_enough_then_one_line_says_what_to_install(bare: Path, tmp_path: Path) -> None:
    _program(bare, "python3", "exit 1")
    answer = _run(["bash", VENV, tmp_path / "venv"], bare)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1
    assert "needs Python 3.11 or newer: install one" in answer.stderr


def test_given_a_python_that_was_asked_for_and_is_old_then_it_is_named(bare: Path, tmp_path: Path) -> None:
    _program(bare, "python3.9", "exit 1")
    _program(bare, "python3", "exit 0")
    assert "and python3.9 is not" in _run(["bash", VENV, tmp_path / "venv", "python3.9"], bare).stderr


def test_given_a_python_without_venv_then_the_package_to_install_is_named(bare: Path, tmp_path: Path) -> None:
    _program(bare, "python3", '[ "$1" = -c ] || { echo "ensurepip is not available"; exit 1; }')
    answer = _run(["bash", VENV, tmp_path / "venv"], bare)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[0] == "ensurepip is not available"
    assert "apt-get install python3-venv" in answer.stderr
    assert not (tmp_path / "venv").exists()


def test_given_an_environment_that_works_then_it_is_kept(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    _program(tmp_path / "venv" / "bin", "python", "exit 0")
    assert _run(["bash", VENV, tmp_path / "venv"], bare).returncode == 0
