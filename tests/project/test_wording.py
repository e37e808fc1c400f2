"""What users read says message, fix and allowed: the field's words, not the project's own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.project.tree import files, modules, parsed, shown

OWN_WORDS = re.compile(r"\b(nudg\w*|mend(s|ed|ing)?|(il)?legal)\b", re.IGNORECASE)
PAGES = ("README.md", "docs/how-to", "docs/reference", "docs/explanation")


def _sentences(module: Path) -> Iterator[str]:
    """Texts with more than a word: messages, log lines, helps. Docstrings count where click shows them."""
    tree = parsed(module)
    shows_docstrings = shown(module).startswith("stageflow_durable/cli/")
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    shown_ones = [node.value for node in constants if shows_docstrings or id(node) not in alone]
    return (text for text in shown_ones if isinstance(text, str) and " " in text.strip())


def _is_schema(module: Path) -> bool:
    """Names of columns are the database's."""
    return "migrations" in module.parts or module.name == "tables.py"


def test_messages_log_lines_and_helps_use_the_words_of_the_field() -> None:
    own = {
        f"{shown(module)}: {found[0]!r} in {text!r}"
        for module in modules("stageflow_durable", "workers")
        for text in _sentences(module)
        if not _is_schema(module) and (found := OWN_WORDS.search(text))
    }
    assert own == set()


def test_pages_use_the_words_of_the_field() -> None:
    own = {
        f"{shown(page)}: {line}"
        for page in files(".md")
        if shown(page).startswith(PAGES)
        for line in page.read_text(encoding="utf-8").splitlines()
        if OWN_WORDS.search(line)
    }
    assert own == set()


def test_the_words_are_found_where_they_stand() -> None:
    own = ["2 nudge(s) are left", "mend: x", "what is legal"]
    assert [text for text in (*own, "amended", "legally") if OWN_WORDS.search(text)] == own
