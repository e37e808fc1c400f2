"""From the first order to the last one at rest: look, let due blows fall, start again what died, look again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from stageflow_durable.demo.chaos import Blow, Target
from stageflow_durable.demo.progress import Progress, Reporter

LOOK_SECONDS = 0.2


class Scene(Protocol):
    """What is driven: the processes of the demo and the engine's view of its runs."""

    def statuses(self) -> Mapping[str, int]:
        """Runs by status."""
        ...

    def spoiled(self) -> int:
        """Requests that a service has spoiled so far."""
        ...

    def strike(self, target: Target) -> str | None:
        """SIGKILL such a target; what was hit, or None when there is none to hit just now."""
        ...

    def heal(self) -> None:
        """Start again whatever died."""
        ...


def drive(
    scene: Scene,
    total: int,
    blows: Sequence[Blow],
    reporter: Reporter,
    *,
    patience: float,
    clock: Callable[[], float],
    pause: Callable[[float], object],
    look: float = LOOK_SECONDS,
) -> Progress:
    """Until ``total`` runs are at rest, or ``patience`` seconds have passed, with a look each ``look`` seconds; the
    last look.
    """
    began = clock()
    due, kills = list(blows), list[str]()
    while True:
        progress = Progress(total, scene.statuses(), tuple(kills), scene.spoiled(), clock() - began)
        reporter.show(progress)
        if progress.done or progress.seconds > patience:
            return progress
        kills += _let_fall(scene, due, progress)
        scene.heal()
        pause(look)


def _let_fall(scene: Scene, due: list[Blow], progress: Progress) -> list[str]:
    """At most one blow a look: the damage of each is to be repaired under way, not in one go."""
    if not due or progress.at_rest < due[0].after:
        return []
    hit = scene.strike(due[0].target)
    if hit is None:
        return []
    due.pop(0)
    return [hit]
