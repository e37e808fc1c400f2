"""A policy says everything that a tool gets, and is refused where it would say more than it seems to."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.sandbox import SandboxLevel, SandboxLimits, SandboxPolicy
from stageflow_durable.sandbox.policy import check_file_name


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/1", "/sys", "/dev/shm", "/run", "/var/run", "/tmp", "/work"])
def test_paths_that_show_the_host_itself_are_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="would show the host itself"):
        SandboxPolicy(read_only=(path,))


@pytest.mark.parametrize("path", ["data", "./data", "/data/../etc", "//proc", "/data//x", "/data/", "/da\0ta", ""])
def test_paths_that_mean_another_one_are_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="no absolute path"):
        SandboxPolicy(read_only=(path,))


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\0b", "x" * 256, "a/" * 20 + "b"]
)
def test_names_of_files_that_lead_out_of_the_work_directory_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no name of a file in the work directory"):
        SandboxPolicy(outputs=(name,))
    with pytest.raises(ConfigurationError, match="files"):
        check_file_name(name, "files")


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "GLIBC_TUNABLES"])
@pytest.mark.parametrize("where", ["environment", "secrets"])
def test_variables_that_load_code_are_refused(where: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match="which code is loaded"):
        SandboxPolicy(**{where: {name: "/x"}})  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("name", ["", "A=B", "1A", "A B", "HOME", "TMPDIR", "STAGEFLOW_IDEMPOTENCY_KEY", "Ä"])
def test_other_names_that_are_no_variable_of_the_tool_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a variable"):
        SandboxPolicy(environment={name: "x"})


@pytest.mark.parametrize(
    "given",
    [
        {"read_only": "/usr"},
        {"outputs": "result.txt"},
        {"user": 0},
        {"user": True},
        {"user": -1},
        {"limits": {"wall": 3}},
        {"minimum_level": 9},
        {"minimum_level": "high"},
        {"environment": {"A": 1}},
        {"environment": {"A": "x\0--bind\0/\0/host"}},
        {"secrets": {"A": "x\0y"}},
        {"environment": {"A": "x"}, "secrets": {"A": "y"}},
    ],
    ids=str,
)
def test_what_is_no_such_setting_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SandboxPolicy(**given)


@pytest.mark.parametrize(
    ("name", "value"),
    [("wall", 0), ("wall", float("nan")), ("cpu", float("inf")), ("memory", 1.5), ("processes", 0), ("output", True)],
)
def test_limits_that_bound_nothing_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"SandboxLimits {name}: must be a number"):
        SandboxLimits(**{name: value})


def test_a_policy_does_not_tell_its_secrets() -> None:
    assert "s3cr3t" not in repr(SandboxPolicy(secrets={"API_KEY": "s3cr3t"}))


def test_nothing_less_than_a_container_is_used_unless_asked_for() -> None:
    assert SandboxPolicy().minimum_level is SandboxLevel.CONTAINER


def test_a_network_cannot_be_asked_for() -> None:
    with pytest.raises(TypeError, match="network"):
        SandboxPolicy(network="none")  # type: ignore[call-arg]  # there is none, and no setting that would be ignored
