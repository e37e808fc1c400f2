"""The example's application, in processes that die around what they do outside.

``celery -A tests.acceptance.refunds.dying worker`` runs it. ``REFUNDS_SEED`` decides where they die; ``REFUNDS_DEATHS``
is a directory that remembers it, so that nobody dies twice at one place.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

SHARES = {"mail": 0.08, "pay_back": 0.25, "take_back": 0.25}
"""What is done outside, and how many of its places are deadly: one before it and one after it, each time. The bank's
are many: money that is moved twice has to be seen.
"""

OF_GROUPS = 0.1
"""How often a whole worker dies there, with all its children."""


def deadly(act: Callable[..., Any]) -> Callable[..., Any]:
    """``act``, whose process may die before it acts or, worse, right after: then nobody was told that it has."""

    @wraps(act)
    def acted(key: str, *given: Any) -> Any:
        place = f"{act.__name__} {' '.join(map(str, given[:2]))}"  # neither keys nor links: those have random parts
        _die(f"before {place}", SHARES[act.__name__])
        done = act(key, *given)
        _die(f"after {place}", SHARES[act.__name__])
        return done

    return acted


def _die(place: str, share: float) -> None:
    chance = random.Random(f"{os.environ['REFUNDS_SEED']} {place}")
    if chance.random() >= share or not _first(place):
        return
    if chance.random() < OF_GROUPS:
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _first(place: str) -> bool:
    try:
        Path(os.environ["REFUNDS_DEATHS"], place.replace("/", " ")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


outside: Any = import_module("outside")
for name in SHARES:
    setattr(outside, name, deadly(getattr(outside, name)))
app = import_module("refunds").celery_app
