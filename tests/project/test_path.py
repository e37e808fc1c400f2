"""What a reader opens to follow a stage: measured, and bounded. A bound is lowered when the path gets shorter, and
raised only together with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.project.path import Followed, of_a_stage, of_lost_work

# What they are today: items, answers and callbacks are asked for where a stage begins, who awaits a run where it ends;
# the store's verbs stand apart from its statements. A module that is one concern has lines that this path does not
# need: the bound of lines was 9,500 while the same stood in 57 modules, and 9,650 before publishing remembered that the
# broker is away. The goals are 15 modules and 3,000 lines for a stage, and 22 modules with lost work.
STAGE_MODULES, STAGE_LINES = 49, 9_720
LOST_MODULES = 79


@pytest.fixture
def followed(migrated_postgres_url: str, valkey_url: str) -> Iterator[Followed]:
    made = Followed(migrated_postgres_url, valkey_url)
    yield made
    made.close()


def test_a_stage_is_followed_in_few_modules(followed: Followed) -> None:
    path = of_a_stage(followed)
    assert "engine/body.py" in path.modules
    assert len(path.modules) <= STAGE_MODULES, str(path)
    assert path.lines <= STAGE_LINES, str(path)


def test_lost_work_is_followed_in_few_modules(followed: Followed) -> None:
    path = of_lost_work(followed)
    assert "transitions/take.py" in path.modules
    assert len(path.modules) <= LOST_MODULES, str(path)
