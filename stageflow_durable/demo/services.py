"""The outside world: each service a process of its own, on a free loopback port, misbehaving on a seeded schedule.

``python -m stageflow_durable.demo.services bank --ledger bank.db --seed 1`` prints its port as its first line and
serves until its standard input closes, so that it never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from stageflow_durable.demo.bank import Bank
from stageflow_durable.demo.ledger import Answer, Ledger
from stageflow_durable.demo.mischief import RETRY_AFTER_SECONDS, SLOW_SECONDS, Fault, fault_for
from stageflow_durable.demo.warehouse import Warehouse

USAGE = "POST a JSON object with order_id, and an Idempotency-Key, to a known path"
HOST = "127.0.0.1"

Endpoint = Callable[[str, Mapping[str, Any]], Answer]
Schedule = Callable[[str, str, int], Fault]


class Service(Protocol):
    """What :class:`Counterpart` serves: endpoints by path, each ``(key, request) -> Answer``."""

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """What it can do, by path."""
        ...

    def loses_every_answer(self, path: str, request: Mapping[str, Any]) -> bool:
        """Whether this request's answer never arrives, however often it is asked."""
        ...


SERVICES: dict[str, type[Bank | Warehouse]] = {"bank": Bank, "warehouse": Warehouse}


class Counterpart(ThreadingHTTPServer):
    """One service behind HTTP. ``schedule(path, order_id, visit)`` decides the fate of each request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: Service, schedule: Schedule, *, pause: Callable[[float], object] | None = None) -> None:
        super().__init__((HOST, 0), Handler)
        self.service = service
        self.pause = pause or threading.Event().wait
        self.served: Counter[Fault] = Counter()
        self._schedule = schedule
        self._visits: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """The loopback port that it listens on."""
        return int(self.server_address[1])

    def fate(self, path: str, request: Mapping[str, Any]) -> Fault:
        """How this request goes; counted in ``served``."""
        order_id = str(request.get("order_id"))
        with self._lock:
            self._visits[path, order_id] += 1
            fault = self._schedule(path, order_id, self._visits[path, order_id])
            if fault is Fault.NONE and self.service.loses_every_answer(path, request):
                fault = Fault.LOST
            self.served[fault] += 1
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away (it was killed) is no news; anything else is printed as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request: the fate first, then the effect, then (perhaps) the answer."""

    server: Counterpart
    timeout = 10

    def do_GET(self) -> None:
        """``/stats``: requests by fate."""
        served = {str(fault): count for fault, count in self.server.served.items()}
        self._send(Answer(200, served) if self.path == "/stats" else Answer(404, {"error": "not here"}))

    def do_POST(self) -> None:
        """One action; a key and a JSON object with ``order_id`` are required."""
        key, request, endpoint = self._parts()
        if endpoint is None or request is None or not key:
            return self._send(Answer(400, {"error": USAGE}))
        return self._serve(self.server.fate(self.path, request), lambda: endpoint(key, request))

    def _parts(self) -> tuple[str | None, dict[str, Any] | None, Endpoint | None]:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.headers.get("Idempotency-Key"), _object(body), self.server.service.endpoints.get(self.path)

    def _serve(self, fault: Fault, act: Callable[[], Answer]) -> None:
        if fault is Fault.ERROR:
            return self._send(Answer(500, {"error": "internal error"}))
        if fault is Fault.BUSY:
            return self._send(Answer(429, {"error": "busy"}), {"Retry-After": str(RETRY_AFTER_SECONDS)})
        return self._act(fault, act)

    def _act(self, fault: Fault, act: Callable[[], Answer]) -> None:
        answer = _attempt(act)
        if fault is Fault.LOST:
            return self._hang_up()
        if fault is Fault.SLOW:
            self.server.pause(SLOW_SECONDS)
        return self._send(answer)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        standard = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in {**standard, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name for it
        """Say nothing: the ledger is the record."""


def _object(body: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict) and isinstance(value.get("order_id"), str):
            return value
    return None


def _attempt(act: Callable[[], Answer]) -> Answer:
    try:
        return act()
    except (KeyError, TypeError, ValueError) as error:
        return Answer(400, {"error": f"malformed request: {error!r}"})


def serve(name: str, ledger_path: Path, seed: int) -> None:
    """Serve until standard input closes."""
    kind = SERVICES[name]
    server = Counterpart(kind(Ledger(ledger_path, kind.schema)), lambda *visit: fault_for(seed, *visit))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.port, flush=True)  # noqa: T201  # its first line of output is its port
    sys.stdin.read()
    server.shutdown()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of one service process."""
    parser = argparse.ArgumentParser(prog="python -m stageflow_durable.demo.services", description=__doc__)
    parser.add_argument("name", choices=sorted(SERVICES))
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    serve(options.name, options.ledger, options.seed)


if __name__ == "__main__":
    main()
