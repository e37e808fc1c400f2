"""The Python of a page of documentation as one program, with the line numbers of the page.

A comment on the line before a block says what to do with it:

``<!-- not executed: reason -->``   it is only shown
``<!-- file: shop.py -->``          it is a file beside the program, which may import it
``<!-- worker: shop -->``           the same, and a worker of that module runs while the program does
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_MARK = re.compile(r"<!-- (?P<what>not executed|file|worker): (?P<text>.+?) -->")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)")
_FIRST_LINE = re.compile(r"# (?P<name>\w+\.py)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: its first line (counted from 1), its lines, and the mark above it."""

    line: int
    language: str
    lines: tuple[str, ...]
    mark: str | None
    text: str

    @property
    def file(self) -> str | None:
        """The file it is to be written to: as marked, or as its first line says (``# shop.py``)."""
        if self.mark == "file":
            return self.text
        if self.mark == "worker":
            return f"{self.text}.py"
        named = _FIRST_LINE.match(self.lines[0]) if self.lines else None
        return named["name"] if named else None

    @property
    def padded(self) -> str:
        """Its text at the line where it stands on the page."""
        return "\n" * (self.line - 1) + "\n".join(self.lines) + "\n"


@dataclass
class Page:
    """What of a page is run."""

    files: dict[str, str] = field(default_factory=dict)
    program: list[str] = field(default_factory=list)
    worker: str | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is run."""
        return not self.files and not self.program

    def write(self, directory: Path) -> Path:
        """Write the files and the program below ``directory``; returns the program."""
        for name, text in self.files.items():
            (directory / name).write_text(text, encoding="utf-8")
        imports = [f"import {Path(name).stem}" for name in self.files] if not self.program else self.program
        program = directory / "page.py"
        program.write_text("\n".join(imports) + "\n", encoding="utf-8")
        return program


def blocks(text: str) -> list[Block]:
    """Every fenced block of a page."""
    found: list[Block] = []
    lines = text.splitlines()
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence["language"], fence["indent"])
            continue
        found.append(_block(lines, opened, number))
        opened = None
    if opened is not None:
        raise ValueError(f"line {opened[0] + 1}: the block is not closed")
    return found


def _block(lines: list[str], opened: tuple[int, str, str], end: int) -> Block:
    start, language, indent = opened
    mark = _MARK.fullmatch(lines[start - 1].strip()) if start else None
    inside = tuple(line.removeprefix(indent) for line in lines[start + 1 : end])
    return Block(start + 2, language, inside, mark["what"] if mark else None, mark["text"] if mark else "")


def page(text: str) -> Page:
    """What of the page ``text`` is run, in its order."""
    result = Page()
    for block in blocks(text):
        if block.language == "python":
            _add(result, block)
    return result


def _add(result: Page, block: Block) -> None:
    if block.mark == "not executed":
        result.reasons.append(block.text)
    elif block.file:
        result.files[block.file] = block.padded
        result.worker = block.text if block.mark == "worker" else result.worker
    else:
        result.program += [""] * (block.line - 1 - len(result.program)) + list(block.lines)
