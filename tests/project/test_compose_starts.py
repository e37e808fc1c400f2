"""Each command of docker-compose.yml starts, is healthy by its own check, and ends within its grace period."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from stageflow_durable.embedded.ports import free_port
from tests.project.compose import Service, services
from tests.project.tree import ROOT
from tests.services.broker import BrokerService
from tests.services.process import Processes, end_group, eventually

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

BIN = Path(sys.executable).parent
SERVICES = services()


@dataclass
class Composed:
    """The services of this project on this machine's database and broker instead of the file's."""

    directory: Path
    urls: Mapping[str, str]
    processes: Processes
    port: int

    def environment(self, service: Service) -> dict[str, str]:
        """What the service gets, with the addresses of this test."""
        here = {"HOSTNAME": socket.gethostname(), "PATH": f"{BIN}:{os.environ['PATH']}"}
        return {**service.environment, **self.urls, **here}

    def words(self, words: list[str]) -> list[str]:
        """A command with the port and the scratch directory of this test."""
        return [
            word.replace("0.0.0.0", "127.0.0.1").replace("5555", str(self.port)).replace("/tmp", str(self.directory))
            for word in words
        ]

    def run(self, service: Service) -> subprocess.CompletedProcess[str]:
        """Run a job to its end."""
        return subprocess.run(
            self._program(service.command),
            cwd=ROOT,
            env=os.environ | self.environment(service),
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    def start(self, service: Service) -> subprocess.Popen[bytes]:
        """Start what stays up."""
        return self.processes.start(
            service.name, self._program(service.command), env=self.environment(service), cwd=ROOT
        )

    def is_healthy(self, service: Service) -> bool:
        """What the file's own health check says."""
        answer = subprocess.run(
            self._program(service.health_command),
            cwd=ROOT,
            env=os.environ | self.environment(service),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        return answer.returncode == 0

    def _program(self, words: list[str]) -> list[str]:
        program, *arguments = self.words(words)
        return [str(BIN / program) if (BIN / program).exists() else program, *arguments]


@pytest.fixture
def composed(tmp_path: Path, postgres_url: str, valkey_url: str, processes: Processes) -> Composed:
    """An empty database and broker, and the commands of the file against them."""
    urls = {
        "STAGEFLOW_DATABASE_URL": postgres_url,
        "STAGEFLOW_BROKER_URL": valkey_url,
        "STAGEFLOW_REDIS_URL": valkey_url,
    }
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Composed(scratch, urls, processes, free_port())


def test_given_an_empty_database_then_the_migrations_job_ends_well_twice(composed: Composed) -> None:
    for _ in range(2):
        job = composed.run(SERVICES["migrate"])
        assert job.returncode == 0, job.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker", "beat", "flower"])
def test_given_the_schema_then_the_role_starts_is_healthy_and_ends_in_time(composed: Composed, name: str) -> None:
    assert composed.run(SERVICES["migrate"]).returncode == 0
    service = SERVICES[name]
    process = composed.start(service)

    def healthy() -> bool:
        assert process.poll() is None, composed.processes.log(name)
        return composed.is_healthy(service)

    eventually(healthy, within=45, every=0.5, what=f"{name} to be healthy")
    grace = 60 if "stop_grace_period" in service.settings else 10
    status = end_group(process, within=grace)
    assert status != -signal.SIGKILL, f"{name} had to be killed:\n{composed.processes.log(name)}"


def test_the_redis_command_is_understood_by_a_server(
    tmp_path: Path, processes: Processes, valkey: BrokerService
) -> None:
    server = shutil.which("redis-server") or str(valkey.binary)
    here = ["--port", str(free_port()), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = processes.start("redis", [server, *SERVICES["redis"].command[1:], *here])
    eventually(lambda: "eady to accept connections" in processes.log("redis"), what="Redis to accept connections")
    assert end_group(process) == 0
