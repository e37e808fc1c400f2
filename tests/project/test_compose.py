"""docker-compose.yml is valid, safe and starts what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project.compose import FILE, GIVEN, Service, VariableMissing, document, services
from tests.project.tree import ROOT

SERVICES = services()
TOP = {"name", "services", "volumes", "networks", "x-app"}
KNOWN = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "environment",
    "healthcheck",
    "image",
    "init",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "volumes",
}
HEALTH = {"test", "interval", "timeout", "retries", "start_period"}
DURATION = re.compile(r"(\d+h)?(\d+m)?(\d+s)?")

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def test_it_has_every_role() -> None:
    assert set(SERVICES) == {"postgres", "redis", "migrate", "worker", "beat", "flower"}


def test_it_uses_only_keys_of_the_compose_specification() -> None:
    assert set(document()) <= TOP
    assert {key for service in SERVICES.values() for key in service.settings} <= KNOWN


@every_service
def test_a_service_that_stays_up_has_a_health_check_with_bounds(service: Service) -> None:
    if not service.runs_on:
        assert "healthcheck" not in service.settings
        return
    check = service.settings["healthcheck"]
    assert {"test", "interval", "timeout", "retries"} <= set(check) <= HEALTH
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert all(DURATION.fullmatch(check[key]) for key in ("interval", "timeout"))


@every_service
def test_what_is_published_is_bound_to_loopback(service: Service) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.settings.get("ports", []))


@every_service
def test_what_a_service_waits_for_exists_and_can_get_there(service: Service) -> None:
    for name, wanted in service.settings.get("depends_on", {}).items():
        other = SERVICES[name]
        expected = "service_healthy" if other.runs_on else "service_completed_successfully"
        assert wanted == {"condition": expected}


@every_service
def test_named_volumes_are_declared(service: Service) -> None:
    assert {volume.partition(":")[0] for volume in service.settings.get("volumes", [])} <= set(document()["volumes"])


@every_service
def test_our_containers_have_no_privileges(service: Service) -> None:
    if service.is_ours:
        assert service.settings["cap_drop"] == ["ALL"]
        assert service.settings["read_only"] is True


def test_images_are_pinned_to_a_major_version() -> None:
    assert all(re.search(r":\d|:local$", service.settings["image"]) for service in SERVICES.values())


@pytest.mark.parametrize("name", GIVEN)
def test_given_a_missing_secret_then_compose_refuses(name: str) -> None:
    with pytest.raises(VariableMissing, match=name):
        document({key: value for key, value in GIVEN.items() if key != name})


def test_redis_keeps_every_message() -> None:
    options = dict(zip(*[iter(SERVICES["redis"].command[1:])] * 2, strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_a_stopped_worker_hands_its_work_back() -> None:
    assert SERVICES["worker"].environment["REMAP_SIGTERM"] == "SIGQUIT"
    assert SERVICES["worker"].settings["stop_grace_period"] == "60s"


def test_flower_has_a_password() -> None:
    assert SERVICES["flower"].environment["FLOWER_BASIC_AUTH"] == GIVEN["FLOWER_BASIC_AUTH"]


def test_make_up_writes_every_secret_that_compose_asks_for(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    subprocess.run(["make", "-s", ".env"], cwd=tmp_path, check=True, capture_output=True)
    written = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    assert set(written) == set(GIVEN)
    assert all(re.fullmatch(r"(admin:)?[0-9a-f]{32}", value) for value in written.values())
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == kept
    assert {source for source in sources if not (ROOT / source).exists()} == set()


def test_compose_itself_accepts_it() -> None:
    compose = next((command for command in (["docker", "compose"], ["docker-compose"]) if _works(command)), None)
    if compose is None:
        pytest.skip("docker compose is not installed; the other tests of this file check the structure")
    asked = [*compose, "--file", str(FILE), "config", "--quiet"]
    answer = subprocess.run(asked, env=os.environ | GIVEN, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
