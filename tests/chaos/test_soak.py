"""A random mix of faults against a stream of sagas; ``make soak`` is the long version."""

from __future__ import annotations

import os

import pytest

from tests.chaos.site import ChaosSite
from tests.chaos.soak import soak
from tests.integration.engine.pairs import POSTGRES_VALKEY, on

pytestmark = [
    pytest.mark.process,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    on(POSTGRES_VALKEY, max_recoveries=200),
]

SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))


def test_given_a_mix_of_faults_when_it_is_over_then_the_books_outside_agree_with_every_run(site: ChaosSite) -> None:
    result = soak(site, SECONDS, seed=20)
    print("\n".join(result.lines()))
    assert result.problems == {}
    assert result.effects > 100 and result.undone > 0 and result.faults.total() >= 10
