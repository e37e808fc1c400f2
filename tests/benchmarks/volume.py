"""How much of everything is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Volume:
    """``share``: of the usual amount (``--quick``: a quarter). ``kills``: of processes, for each kind; ``finished``:
    runs that lie behind a sweep; ``stages``: after which memory is read for the last time.
    """

    share: float = 1.0
    kills: int = 3
    finished: int = 1_000_000
    stages: int = 100_000

    def some(self, usual: int) -> int:
        """The share of a usual amount, and never less than two."""
        return max(2, round(usual * self.share))
