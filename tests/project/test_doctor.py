"""``doctor`` and the page that promises what it looks at say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.project.tree import PACKAGE, ROOT, files, modules, parsed, shown

PAGE = ROOT / "docs" / "reference" / "doctor.md"
_MAKERS = {"Check", "judged", "ok", "skipped"}


def _sources() -> list[ast.Module]:
    return [
        parsed(module) for module in modules("stageflow_durable") if shown(module).startswith(f"{PACKAGE.name}/cli/")
    ]


def _strings(tree: ast.AST) -> dict[str, set[str]]:
    """Names that are given one text and no other, and that text."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, set()).add(node.value.value)
    return found


def _checks() -> Iterator[str]:
    """The name of each verdict that doctor may give; one that is made up of parts ends before the first of them."""
    for tree in _sources():
        known = _strings(tree)
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or ast.unparse(call.func).rpartition(".")[2] not in _MAKERS:
                continue
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Constant):
                yield str(first.value)
            elif isinstance(first, ast.JoinedStr) and isinstance(first.values[0], ast.Constant):
                yield str(first.values[0].value).strip()
            elif isinstance(first, ast.Name):
                yield from known.get(first.id, ())


def _promised() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)


def test_the_page_names_each_check_once_and_none_that_is_not_there() -> None:
    promised = _promised()
    assert sorted(promised) == sorted(set(promised))
    assert set(promised) == set(_checks())
    assert len(promised) > 30


def test_other_pages_promise_of_doctor_what_it_says() -> None:
    """Where a page quotes a verdict (``doctor`` and what it prints), doctor can print that."""
    printed = " ".join(map(ast.unparse, _sources()))
    quoted = [
        words.split()
        for page in files(".md")
        for words in re.findall(r"`doctor`: `([^`…]+)", page.read_text(encoding="utf-8"))
    ]
    assert quoted
    for words in quoted:  # names in them are the page's own
        assert any(" ".join(some) in printed for some in zip(words, words[1:], words[2:], strict=False)), words
