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

SHARE = 0.1
"""How many of the places are deadly: two for each thing that is done, before it and after it."""

OF_GROUPS = 0.1
"""How often a whole worker dies there, with all its children."""


def deadly(act: Callable[..., Any]) -> Callable[..., Any]:
    """``act``, whose process may die before it acts or, worse, right after: then nobody was told that it has."""

    @wraps(act)
    def acted(key: str, *given: Any) -> Any:
        place = f"{act.__name__} {' '.join(map(str, given[:2]))}"  # neither keys nor links: those have random parts
        _die(f"before {place}")
        done = act(key, *given)
        _die(f"after {place}")
        return done

    return acted


def _die(place: str) -> None:
    chance = random.Random(f"{os.environ['REFUNDS_SEED']} {place}")
    if chance.random() >= SHARE or not _first(place):
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
for name in ("mail", "pay_back", "take_back"):
    setattr(outside, name, deadly(getattr(outside, name)))
app = import_module("refunds").celery_app
