"""The documentation holds: snippets run, links lead somewhere, tables and diagrams are those of the code."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import pytest

from stageflow_durable.cli.root import COMMANDS
from stageflow_durable.model.status import RUN_TRANSITIONS, STEP_TRANSITIONS, RunStatus, StageState, StepState
from stageflow_durable.settings import Settings
from tests.project.snippets import Page, blocks, page
from tests.project.tree import PACKAGE, ROOT, files, modules, shown
from tests.services.process import Processes, eventually

BIN = Path(sys.executable).parent
DOCS = ROOT / "docs"
PAGES = {shown(path): path for path in files(".md")}
every_page = pytest.mark.parametrize("name", PAGES)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- snippets ---------------------------------------------------------------------------------------------------------

RUN = {name: found for name, path in PAGES.items() if not (found := page(path.read_text(encoding="utf-8"))).is_empty}


@pytest.mark.process
@pytest.mark.redis
@pytest.mark.parametrize("name", RUN)
def test_the_python_of_a_page_runs(
    name: str, tmp_path: Path, sqlite_url: str, valkey_url: str, processes: Processes
) -> None:
    environment = {"STAGEFLOW_DATABASE_URL": sqlite_url, "STAGEFLOW_BROKER_URL": valkey_url, "PYTHONPATH": str(ROOT)}
    program = RUN[name].write(tmp_path)
    upgrade = processes.start("upgrade", [BIN / "stageflow", "db", "upgrade"], env=environment, cwd=tmp_path)
    assert upgrade.wait(timeout=60) == 0, processes.log("upgrade")
    _start_worker(RUN[name], processes, environment, tmp_path)
    run = processes.start("page", [sys.executable, "-X", "dev", str(program)], env=environment, cwd=tmp_path)
    try:
        assert run.wait(timeout=90) == 0, f"{name}:\n{processes.log('page')}"
    except subprocess.TimeoutExpired:
        pytest.fail(f"{name} does not end:\n{processes.log('page')}\n{processes.log('worker')}")


def _start_worker(found: Page, processes: Processes, environment: Mapping[str, str], directory: Path) -> None:
    if found.worker is None:
        return
    command = [sys.executable, "-m", "celery", "-A", found.worker, "worker", "--concurrency", "1", "--loglevel", "INFO"]
    processes.start("worker", command, env=environment, cwd=directory)
    eventually(lambda: " ready." in processes.log("worker"), within=30, what="the worker to be ready")


@every_page
def test_a_snippet_that_is_not_run_says_why(name: str) -> None:
    assert all(len(reason.split()) > 2 for reason in page(_text(name)).reasons)


@every_page
def test_every_block_has_a_language(name: str) -> None:
    assert [block.line for block in blocks(_text(name)) if not block.language] == []


# --- links ------------------------------------------------------------------------------------------------------------

_LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:)(?P<target>[^)#\s]*)(#(?P<anchor>[^)\s]+))?\)")


@every_page
def test_its_links_lead_to_files_and_headings(name: str) -> None:
    here = PAGES[name]
    for link in _LINK.finditer(_text(name)):
        target = here.parent / link["target"] if link["target"] else here
        assert target.exists(), f"{name}: {link[0]}"
        assert link["anchor"] is None or link["anchor"] in _anchors(target), f"{name}: {link[0]}"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "README.md"]
    while waiting:
        current = waiting.pop()
        reached.add(current)
        links = (current.parent / link["target"] for link in _LINK.finditer(current.read_text(encoding="utf-8")))
        waiting += [link.resolve() for link in links if link.suffix == ".md" and link.resolve() not in reached]
    assert {shown(path) for path in DOCS.rglob("*.md")} - {shown(path) for path in reached} == set()


def test_pages_that_the_code_points_to_exist() -> None:
    for module in modules("stageflow_durable", "workers", "tests"):
        for named in re.findall(r"docs/[\w/.-]+\.\w+", module.read_text(encoding="utf-8")):
            assert (ROOT / named).exists(), f"{shown(module)} points to {named}"


@every_page
def test_files_that_it_names_exist(name: str) -> None:
    named = re.findall(r"`((?:[\w.]+/)+\w+\.py)`", _text(name))
    assert [path for path in named if not any((home / path).exists() for home in (ROOT, PACKAGE, ROOT / "tests"))] == []


def test_decisions_are_numbered_without_gaps_and_have_every_part() -> None:
    decisions = sorted((DOCS / "adr").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(len(decisions)))
    for path in decisions:
        parts = re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences", "Rejected"], path.name


# --- what stands in the code too --------------------------------------------------------------------------------------

State = TypeVar("State", bound=StrEnum)
Moves = Mapping[str, set[str]]
_ARROW = re.compile(r"^ +(\w+) --> (\w+)( : .+)?$", flags=re.MULTILINE)


def _drawn(heading: str) -> Moves:
    text = _text("docs/explanation/state-machine.md").partition(f"\n## {heading}\n")[2]
    diagram = text.partition("```mermaid")[2].partition("```")[0]
    moves: dict[str, set[str]] = {}
    for source, target, _reason in _ARROW.findall(diagram):
        moves.setdefault(source, set()).add(target)
    return moves


def _coded(transitions: Mapping[State, frozenset[State]]) -> Moves:
    return {str(source): {str(target) for target in targets} for source, targets in transitions.items() if targets}


def test_the_diagram_of_a_run_is_the_table_of_the_code() -> None:
    assert _drawn("A run") == _coded(RUN_TRANSITIONS)
    assert set(RUN_TRANSITIONS) == set(RunStatus)


def test_the_diagram_of_a_saga_step_is_the_table_of_the_code() -> None:
    assert _drawn("A saga step") == _coded(STEP_TRANSITIONS)
    assert set(STEP_TRANSITIONS) == set(StepState)


def test_the_diagram_of_a_stage_has_every_state() -> None:
    moves = _drawn("A stage")
    assert set(moves).union(*moves.values()) == set(StageState)


def test_every_move_of_a_diagram_has_a_reason() -> None:
    arrows = _ARROW.findall(_text("docs/explanation/state-machine.md"))
    assert [arrow for arrow in arrows if not arrow[2]] == []


def test_the_reference_of_settings_lists_each_with_its_variable() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", _text("docs/reference/settings.md"), flags=re.MULTILINE)
    assert listed == [(field.name, f"STAGEFLOW_{field.name.upper()}") for field in dataclasses.fields(Settings)]


def test_the_reference_of_commands_lists_each() -> None:
    listed = re.findall(r"^\| `stageflow (\w+)", _text("docs/reference/command.md"), flags=re.MULTILINE)
    assert set(listed) == set(COMMANDS)


def test_the_readme_names_extras_that_there_are() -> None:
    extras = tomllib.loads(_text("pyproject.toml"))["project"]["optional-dependencies"]
    named = set(
        re.findall(r"^\| `(\w+)` \| ", _text("README.md").partition("| extra |")[2].partition("##")[0], re.MULTILINE)
    )
    in_commands = {
        one for found in re.findall(r"pip install '[^']*\[([\w,]+)\]", _text("README.md")) for one in found.split(",")
    }
    assert named >= in_commands
    assert named <= set(extras)
