"""The other durable engines as sides: a server, two processes that work, and a client that hands in."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from stageflow_durable.embedded.ports import free_port
from tests.benchmarks.installed import HYPERCORN, PYTHON, TEMPORAL, restate
from tests.benchmarks.peers.line import READY
from tests.benchmarks.sides import Side
from tests.benchmarks.worker import CHILDREN, ROOT, Group, clean
from tests.services.process import end_group, eventually

PACKAGE = "tests.benchmarks.peers"
Command = Sequence[str | Path]

WARM = 5
"""Answers that are waited for before the measured ones."""

STREAMS = "4"
"""Invocations on one of Restate's connections to its service: few, or one of the two processes gets them all."""


class Client:
    """The peer's client in the peers' environment: a line there, a line back."""

    def __init__(self, module: str, environment: Mapping[str, str], directory: Path) -> None:
        self._log = directory / f"{module}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-m", f"{PACKAGE}.{module}"],
                env=clean(environment),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._hear()

    def ask(self, **asked: Any) -> Any:
        """One question, its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client has ended:\n{self._log.read_text(errors='replace')[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End it, and its pipes."""
        end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


class Peer(Side):
    """Lines of steps by another engine."""

    def __init__(self, worker: Group, services: tuple[int, ...], client: Client) -> None:
        self._client = client
        super().__init__(worker, services)

    def enqueue(self, length: int) -> None:
        """One workflow."""
        self._client.ask(start=length)

    def finished(self) -> int:
        """Workflows whose result is there."""
        return int(self._client.ask(finished=True)["finished"])

    def waited_ms(self, length: int, times: int) -> list[float]:
        """Milliseconds from starting a workflow of that many steps to its result, one after the other."""
        with self._awake():
            for _ in range(WARM):
                self._client.ask(answer=length)
            return [float(self._client.ask(answer=length)["ms"]) for _ in range(times)]

    def close(self) -> None:
        """End client and worker."""
        self._client.close()
        super().close()


class Peers:
    """Starts the engines; all of it ends with the stack."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory

    def dbos(self, database: str, postgres: int) -> Peer:
        """DBOS on an empty database of the benchmark's PostgreSQL, whose process id is given."""
        environment = {"BENCH_DATABASE_URL": database}
        migrate: Command = [PYTHON.with_name("dbos"), "migrate", "--sys-db-url", database]
        subprocess.run(migrate, check=True, capture_output=True, timeout=60)
        worker = self._twice("dbos_app", environment)
        eventually(lambda: worker.log().count(READY) == CHILDREN, within=60, what="two executors of DBOS")
        return self._peer("dbos_client", worker, postgres, environment)

    def restate(self) -> Peer:
        """Restate's server as it starts by default, with a service on two processes of hypercorn."""
        ingress, admin, service = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
        program = restate()
        assert program is not None
        command: Command = [program, "--no-logo", "--base-dir", self._directory / "restate"]
        server = self._start("restate", command, _restate_settings(_address(ingress), _address(admin)))
        serve: Command = [HYPERCORN, "-w", str(CHILDREN), "-b", _address(service), f"{PACKAGE}.restate_app:app"]
        worker = self._start("restate_app", serve, {})
        for url in (f"{admin}/health", f"{ingress}/restate/health", service):
            eventually(partial(_answers, url), within=60, what=f"{url} answers")
        environment = {"BENCH_INGRESS": ingress, "BENCH_ADMIN": admin, "BENCH_SERVICE": service}
        return self._peer("restate_client", worker, server.pid, environment)

    def temporal(self) -> Peer:
        """Temporal's development server, keeping its state in a file."""
        port, file = free_port(), self._directory / "temporal.sqlite"
        where = ["--ip", "127.0.0.1", "--port", str(port), "--db-filename", str(file)]
        command: Command = [TEMPORAL, "server", "start-dev", "--headless", "--log-level", "error", *where]
        server = self._start("temporal", command, {"TEMPORAL_VERSION_CHECK_DISABLED": "1", "DO_NOT_TRACK": "1"})
        eventually(lambda: _open(port), within=60, what="Temporal answers")
        environment = {"BENCH_TEMPORAL": f"127.0.0.1:{port}"}
        return self._peer("temporal_client", self._twice("temporal_app", environment), server.pid, environment)

    def _peer(self, client: str, worker: Group, service: int, environment: Mapping[str, str]) -> Peer:
        side = Peer(worker, (service,), Client(client, environment, self._directory))
        self._stack.callback(side.close)
        return side

    def _twice(self, module: str, environment: Mapping[str, str]) -> Group:
        return self._start(module, [PYTHON, "-m", f"{PACKAGE}.line", f"{PACKAGE}.{module}"], environment)

    def _start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> Group:
        group = Group(name, command, environment, self._directory)
        self._stack.callback(group.close)
        return group


def _restate_settings(ingress: str, admin: str) -> dict[str, str]:
    """Loopback only, and nothing told to anybody."""
    return {
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_BIND_PORT": str(free_port()),
        "RESTATE_INGRESS__BIND_ADDRESS": ingress,
        "RESTATE_ADMIN__BIND_ADDRESS": admin,
        "RESTATE_NODE_NAME": "bench",
        "RESTATE_LOG_FILTER": "warn",
        "RESTATE_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT": STREAMS,
    }


def _open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _address(url: str) -> str:
    return url.removeprefix("http://")


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
