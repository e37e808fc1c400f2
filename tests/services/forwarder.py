"""A stretch of network of the tests' own: it carries bytes to a port of 127.0.0.1, until it is told to lose them."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class _Line:
    """One connection: the side that came to us, the side that we went to; ``dead``: bytes of either are lost."""

    near: socket.socket
    far: socket.socket
    dead: bool = False

    def close(self) -> None:
        for end in (self.near, self.far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Forwarder:
    """Connections to ``port`` go on to ``target``, another port of 127.0.0.1, which may change under way."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lines: list[_Line] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self) -> int:
        """Lose every byte of the connections that there are, in both directions, and close none: neither side is told.
        Later ones are carried. Returns how many connections are half-open now.
        """
        lines = [line for line in self._lines if not line.dead]
        for line in lines:
            line.dead = True
        return len(lines)

    def cut(self) -> None:
        """Close every connection."""
        lines, self._lines = self._lines, []
        for line in lines:
            line.close()

    def close(self) -> None:
        """Close every connection, and the port."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # nobody there: whoever came is told as he would have been
                    near.close()
                    continue
                line = _Line(near, far)
                self._lines.append(line)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(line, *ends), daemon=True).start()

    def _carry(self, line: _Line, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not line.dead:
                    target.sendall(data)
        if not line.dead:  # else that it was closed is lost as well
            line.close()
