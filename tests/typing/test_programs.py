"""What mypy and pyright say of right and of wrong programs. A line that is wrong says so itself, with the code of mypy
and the rule of pyright: ``# E: arg-type / reportArgumentType``. No other line of a program may be refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.typing.checkers import CHECKERS, Checker, Said, ask

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("checkers")]

PROGRAMS = sorted(Path(__file__).with_name("programs").glob("*.py"))
_WRONG = re.compile(r"  # E: (?P<mypy>[\w-]+) / (?P<pyright>\w+)$")

Rules = dict[int, str]
"""By the number of the line."""


@pytest.fixture(scope="module")
def said() -> Mapping[Checker, list[Said]]:
    return {checker: ask(checker, PROGRAMS) for checker in CHECKERS}


def expected(program: Path, checker: Checker) -> Rules:
    lines = enumerate(program.read_text().splitlines(), 1)
    return {number: wrong[checker] for number, line in lines if (wrong := _WRONG.search(line))}


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_checker_refuses_the_lines_that_are_wrong_and_no_other(
    said: Mapping[Checker, list[Said]], program: Path, checker: Checker
) -> None:
    found = [one for one in said[checker] if one.file == program.name]
    wrong = expected(program, checker)
    assert {one.line for one in found} == wrong.keys(), found
    assert [number for number, rule in wrong.items() if (number, rule) not in {one[1:3] for one in found}] == [], found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_wrong_program_says_where_it_is_wrong_and_a_right_one_does_not(program: Path) -> None:
    assert program.stem.startswith(("right_", "wrong_"))
    assert bool(expected(program, "mypy")) is program.stem.startswith("wrong_")
    assert program.read_text().count("# E:") == len(expected(program, "mypy"))
