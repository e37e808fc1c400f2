"""What stands outside of a sandbox and must not be reached: files, processes, sockets; all of a test's own."""

from __future__ import annotations

import array
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
"""The system's: a user of its own may not get to the one that runs the tests."""


class Outside:
    """A directory with secrets and sockets, a bystander, and listeners; each holds ``marker``."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.marker = f"marker-{token_hex(8)}"
        self.root = Path(tempfile.mkdtemp(prefix="outside-"))
        stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.root.chmod(0o755)
        self.public = self._directory("public")
        self.tools = self._directory("tools")
        shutil.copy(HERE / "hostile.py", self.tools)
        self.secret = self.root / "id_rsa"
        self.secret.write_text(self.marker)
        self.secret.chmod(0o600)
        self.readable = self.root / "readable"
        self.readable.write_text(self.marker)
        self.readable.chmod(0o644)

    def _directory(self, name: str) -> Path:
        made = self.root / name
        made.mkdir(0o755)
        return made

    @property
    def hostile(self) -> str:
        """The program of Python."""
        return str(self.tools / "hostile.py")

    def compiled(self) -> str:
        """The program of C."""
        made = self.tools / "hostile"
        if not made.exists():
            subprocess.run(["cc", "-O1", "-o", made, HERE / "hostile.c"], check=True)
            made.chmod(0o755)
        return str(made)

    def bystander(self) -> subprocess.Popen[bytes]:
        """A process of the same user, with the marker in its environment and its command line."""
        started = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(300)", self.marker], env={"DATABASE_URL": self.marker}
        )
        self._stack.callback(started.wait)
        self._stack.callback(started.kill)
        return started

    # --- sockets ------------------------------------------------------------------------------------------------------

    def unix(self) -> str:
        """A pathname socket in a directory that the sandbox can read."""
        path = str(self.public / "docker.sock")
        self._serve(socket.AF_UNIX, path)
        Path(path).chmod(0o777)
        return path

    def datagrams(self) -> str:
        path = str(self.public / "log.sock")
        made = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        made.bind(path)
        Path(path).chmod(0o777)
        return path

    def abstract(self, send: Callable[[socket.socket], None] | None = None) -> str:
        name = f"outside-{token_hex(8)}"
        self._serve(socket.AF_UNIX, f"\0{name}", send)
        return name

    def descriptor(self) -> str:
        def send(client: socket.socket) -> None:
            with self.secret.open("rb") as file:
                client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])

        return self.abstract(send)

    def tcp(self, host: str = "127.0.0.1") -> str:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = self._serve(family, (host, 0))
        return f"{host}:{made.getsockname()[1]}"

    def udp(self) -> str:
        made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind(("127.0.0.1", 0))

        def answer() -> None:
            with suppress(OSError):
                while True:
                    _data, client = made.recvfrom(100)
                    made.sendto(self.marker.encode(), client)

        threading.Thread(target=answer, daemon=True).start()
        return f"127.0.0.1:{made.getsockname()[1]}"

    def _serve(
        self, family: socket.AddressFamily, address: Any, send: Callable[[socket.socket], None] | None = None
    ) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family))
        made.bind(address)
        made.listen()

        def answer() -> None:
            with suppress(OSError):
                while True:
                    client, _from = made.accept()
                    with client, suppress(OSError):
                        (send or (lambda one: one.sendall(self.marker.encode())))(client)

        threading.Thread(target=answer, daemon=True).start()
        return made


@contextmanager
def outside() -> Iterator[Outside]:
    with ExitStack() as stack:
        yield Outside(stack)
