"""The line to a database server: whether it was closed at the other end.

After a restart of the database every connection that was idle meanwhile is dead, and a statement on it fails with
nobody knowing whether it was carried out. The socket knows beforehand: asking it costs a microsecond and sends nothing.
"""

from __future__ import annotations

import select

_CLOSED = getattr(select, "POLLRDHUP", 0)  # where there is none, POLLHUP is told anyway


class Line:
    """The socket of an idle connection."""

    def __init__(self, fileno: int) -> None:
        self._poll = select.poll()
        self._poll.register(fileno, _CLOSED)

    @property
    def closed(self) -> bool:
        """Whether the other end hung up. A host that vanished without a word is not noticed here."""
        return bool(self._poll.poll(0))
