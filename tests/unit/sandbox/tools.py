"""Functions that tests send into sandboxes."""

from __future__ import annotations

from typing import Any


def double(given: Any) -> Any:
    """Twice what it gets."""
    return given * 2


class Tools:
    """Functions may be of classes."""

    @staticmethod
    def triple(given: Any) -> Any:
        """Three times what it gets."""
        return given * 3


renamed = double
