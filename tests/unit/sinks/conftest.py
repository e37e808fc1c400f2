"""One event, and a server that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from stageflow_durable.model.sinks import RunEvent


def event_of(number: int = 3, **data: Any) -> RunEvent:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return RunEvent("01RUN", number, "run.parked", at, "checkout", "web", "A-1", data or {"error": "what?"})


@dataclass
class Server:
    """``answers``: statuses in turn, the last again and again; ``asked``: path, headers and body of each request."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [204])
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    location: str = ""
    drip: bool = False
    keeps: bool = True
    connections: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            found.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append((self.path, dict(self.headers), body))
            if found.drip:
                while not over.wait(0.02):
                    self.wfile.write(b"H")
                return
            status = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            if found.location:
                self.send_header("Location", found.location)
            self.send_header("Content-Length", "0")
            if not found.keeps:
                self.close_connection = True
            self.end_headers()

        def log_message(self, *_given: Any) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads = True
    serving.handle_error = lambda *_given: None  # type: ignore[method-assign]  # a client that is gone
    found.url = f"http://127.0.0.1:{serving.server_address[1]}/hook"
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    yield found
    over.set()
    serving.shutdown()
    thread.join()
    serving.server_close()
