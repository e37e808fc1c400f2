"""The port of a server: exchanged for another one until the server came up on it, kept from then on."""

from __future__ import annotations

from collections.abc import Callable

from stageflow_durable.embedded.ports import free_port, is_free
from tests.services.process import eventually

STARTS = 5


class Port:
    """``number``: on which; ``kept``: whether somebody may know it, who is to find the server there again."""

    def __init__(self) -> None:
        self.number = free_port()
        self.kept = False

    def comes_up(self, spawn: Callable[[], None], answers: Callable[[], bool]) -> bool:
        """Whether the server came up, within five starts: between looking and binding somebody may take its port."""
        for _ in range(STARTS):
            spawn()
            if answers():
                self.kept = True
                return True
            self._mend()
        return False

    def _mend(self) -> None:
        if self.kept:
            eventually(lambda: is_free(self.number), within=10, what=f"port {self.number} is free again")
        else:
            self.number = free_port()
