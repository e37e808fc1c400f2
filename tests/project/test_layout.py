"""How the tree looks: small functions, documented names, nothing of the machine it was written on."""

from __future__ import annotations

import ast
import inspect
import re
import statistics
import tomllib
from pathlib import Path

import pytest

import stageflow_durable
from tests.project.tree import PACKAGE, ROOT, files, functions, modules, parsed, shown

LIBRARY = modules("stageflow_durable", "workers")
EVERY_MODULE = modules("stageflow_durable", "workers", "tests")
FUNCTION_LINES = 60
TEXT = files(".py", ".md", ".toml", ".yml", ".yaml", ".mako", ".cfg", ".ini", ".jsonl", ".lua", "")
PUBLIC = sorted(stageflow_durable.__all__)


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its docstring aside."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_no_function_is_long() -> None:
    long = {
        f"{shown(module)}:{node.lineno} {node.name}": _lines(node)
        for module in EVERY_MODULE
        if module.parent.name != "versions"  # a migration is one list of statements
        for node in functions(module)
        if _lines(node) > FUNCTION_LINES
    }
    assert long == {}


def test_functions_of_the_library_are_small_as_a_rule() -> None:
    lengths = [_lines(node) for module in LIBRARY for node in functions(module)]
    assert statistics.median(lengths) <= 5
    assert statistics.quantiles(lengths, n=10)[-1] <= 20


def test_modules_say_what_they_are_for() -> None:
    assert [shown(module) for module in LIBRARY if parsed(module).body and not ast.get_docstring(parsed(module))] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(stageflow_durable, name)
    if inspect.isclass(value) or callable(value):
        own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own
        assert not own.startswith(f"{name}("), "a signature that a dataclass wrote is no documentation"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_methods_are_documented(name: str) -> None:
    value = getattr(stageflow_durable, name)
    if inspect.isclass(value):
        bare = [
            key
            for key, member in vars(value).items()
            if not key.startswith("_") and inspect.isfunction(member) and not member.__doc__
        ]
        assert bare == []


def test_the_top_level_is_small_and_sorted() -> None:
    assert len(set(PUBLIC)) == len(stageflow_durable.__all__)
    assert len(PUBLIC) <= 60


def test_a_typed_package_says_so() -> None:
    assert (PACKAGE / "py.typed").exists()


# What would tie the tree to one machine or one index.
FOREIGN = (
    re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|mnt|opt)/\w"),
    re.compile(r"(?i)\b(?:pypi\.\w+|pythonhosted|artifactory|nexus)\b"),
)


@pytest.mark.parametrize("path", [path for path in TEXT if path != Path(__file__)], ids=shown)
def test_nothing_of_one_machine_is_in_the_tree(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    assert [found[0] for pattern in FOREIGN for found in pattern.finditer(text)] == []


_UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")


def test_nothing_is_left_for_later() -> None:
    texts = {shown(path): path.read_text(encoding="utf-8", errors="replace") for path in TEXT}
    assert [name for name, text in texts.items() if _UNFINISHED.search(text)] == []


_SWITCHED_OFF = re.compile(
    r"#\s*(?:noqa|type:\s*ignore|pragma:\s*no cover)(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*|\[[\w\-, ]+\])?(?P<rest>.*)"
)


def test_every_rule_that_is_switched_off_has_its_reason_beside_it() -> None:
    bare = [
        f"{shown(module)}:{number}"
        for module in EVERY_MODULE
        for number, line in enumerate(module.read_text(encoding="utf-8").splitlines(), 1)
        if (found := _SWITCHED_OFF.search(line)) and not re.search(r"\w+\W+\w+", found["rest"])
    ]
    assert bare == []


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_project_and_its_extras_are_declared() -> None:
    project = PYPROJECT["project"]
    assert project["requires-python"] == ">=3.11"
    extras = {"embedded", "postgres", "flower", "all"}
    assert extras <= set(project["optional-dependencies"])


def test_the_pure_rooms_of_the_linter_are_closed_to_every_dependency() -> None:
    contracts = {contract["id"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    names = {re.split(r"[<>=\[ ]", dependency)[0] for dependency in PYPROJECT["project"]["dependencies"]}
    assert names <= set(contracts["standard-library"]["forbidden_modules"])
