"""Which blows fall, and when: planned from a seed, paced by progress, so that each lands while work is in flight."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """What is hit with SIGKILL."""

    CHILD = "pool child"
    WORKER = "whole worker"
    BROKER = "Valkey"


@dataclass(frozen=True, slots=True)
class Blow:
    """``target`` is hit once ``after`` runs are at rest."""

    after: int
    target: Target


def plan_blows(kills: int, runs: int, seed: int) -> list[Blow]:
    """``kills`` blows spread evenly over ``runs``; targets take turns, in an order that the seed decides."""
    turns = list(Target)
    targets = [turns[index % len(turns)] for index in range(kills)]
    random.Random(seed).shuffle(targets)  # noqa: S311  # a plan to be had again, not a secret
    return [Blow(runs * number // (kills + 1), target) for number, target in enumerate(targets, start=1)]
