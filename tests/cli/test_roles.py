"""worker, beat, flower, up and demo: what they hand over, and to whom."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable.cli.exposure import flower_arguments
from stageflow_durable.cli.roles import MONITOR, SHIM
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.settings import Settings
from stageflow_durable.settings.queues import QUEUE_NAME
from stageflow_durable.state import schema
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeApplication


@pytest.fixture(autouse=True)
def _application(engine: FakeApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEFLOW_APP", "shop:engine")
    engine.settings = Settings(queue="sf", database_url="sqlite:///shop.db", broker_url="memory://")
    monkeypatch.setattr("stageflow_durable.state.schema.current", lambda url: schema.head())
    engine.queues = ("sf", "gpu")


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that the process turned into."""
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _path, command: seen.append(command))
    return seen


def test_a_worker_is_celerys_with_the_queues_of_the_pipelines_and_what_the_caller_adds(
    invoke: Invoke, became: list[list[str]]
) -> None:
    assert invoke("worker", "-c", "4", "--loglevel=info", "-n", "w1@%h").exit_code == 0
    assert became == [
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            SHIM,
            "worker",
            "-Q",
            "sf,gpu",
            "-c",
            "4",
            "--loglevel=info",
            "-n",
            "w1@%h",
        ]
    ]
    assert os.environ["STAGEFLOW_APP"] == "shop:engine"


@pytest.mark.parametrize("given", [["-Q", "gpu"], ["--queues=gpu"], ["-Qgpu"], ["-X", "gpu"]])
def test_a_worker_serves_the_queues_that_the_caller_chooses(
    invoke: Invoke, became: list[list[str]], given: list[str]
) -> None:
    invoke("worker", *given)
    assert became[0][6:] == given


@pytest.mark.parametrize("role", ["worker", "up"])
@pytest.mark.parametrize("given", [["-Q", "gpu, cpu"], ["--queues=gpu,"], ["-Q"], ["-Qgpu,,"], ["-X", "a\tb"]])
def test_a_queue_that_the_caller_chooses_and_nobody_can_name_is_refused(
    invoke: Invoke, became: list[list[str]], role: str, given: list[str]
) -> None:
    result = invoke(role, *given)
    assert (result.exit_code, became) == (2, [])
    assert QUEUE_NAME in result.stderr


def test_the_beat_passes_on_what_follows(invoke: Invoke, became: list[list[str]]) -> None:
    invoke("beat", "--port=5556", "-l", "info")
    assert became == [[sys.executable, "-m", "celery", "-A", SHIM, "beat", "--port=5556", "-l", "info"]]


def test_flower_becomes_a_program_of_ours_that_serves_its_pages_and_our_urls(
    invoke: Invoke, became: list[list[str]]
) -> None:
    invoke("flower", "--port=5556")
    assert became == [[*MONITOR, "--address=127.0.0.1", "--port=5556"]]


@pytest.mark.parametrize(
    ("given", "environment", "file", "passed_on"),
    [
        (["--address=127.0.0.1"], {}, "", ["--address=127.0.0.1"]),
        (["--address=::1"], {}, "", ["--address=::1"]),
        (["--unix-socket=/run/flower"], {}, "", ["--unix-socket=/run/flower"]),
        (["--address=0.0.0.0"], {}, "", None),
        (["-address=0.0.0.0"], {}, "", None),
        (["--address="], {}, "", None),
        (["--address=10.0.0.1", "--basic-auth="], {}, "", None),
        ([], {"FLOWER_ADDRESS": "0.0.0.0"}, "", None),
        ([], {}, "address = '0.0.0.0'", None),
        (["--conf=other.py"], {}, "address = '0.0.0.0'", ["--address=127.0.0.1", "--conf=other.py"]),
        (["--address=0.0.0.0", "--basic-auth=a:b"], {}, "", ["--address=0.0.0.0", "--basic-auth=a:b"]),
        (["--address=0.0.0.0", "--basic_auth=a:b"], {}, "", ["--address=0.0.0.0", "--basic_auth=a:b"]),
        (["--address=0.0.0.0"], {"FLOWER_BASIC_AUTH": "a:b"}, "", ["--address=0.0.0.0"]),
        (["--address=0.0.0.0"], {"FLOWER_BASIC_AUTH": ""}, "", None),
        (["--address=0.0.0.0"], {"FLOWER_AUTH_PROVIDER": "x.Y"}, "", ["--address=0.0.0.0"]),
        (["--address=0.0.0.0"], {}, "basic_auth = ['a:b']", ["--address=0.0.0.0"]),
        (["--address=0.0.0.0"], {"FLOWER_CONF": "none.py"}, "basic_auth = ['a:b']", None),
    ],
)
def test_flower_listens_on_loopback_and_elsewhere_only_with_a_sign_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    environment: dict[str, str],
    file: str,
    passed_on: list[str] | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    if file:
        (tmp_path / "flowerconfig.py").write_text(file)
    assert flower_arguments(given, environment) == passed_on


def test_flower_without_a_sign_in_on_another_address_is_refused_with_the_ways_out(
    invoke: Invoke, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    result = invoke("flower", "--address=0.0.0.0")
    assert (result.exit_code, became) == (1, [])
    assert "FLOWER_BASIC_AUTH=user:password" in result.stderr


def test_without_flower_the_way_out_is_to_install_it(
    invoke: Invoke, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    result = invoke("flower")
    assert (result.exit_code, became) == (1, [])
    assert "pip install 'stageflow_durable[flower]'" in result.stderr


def test_without_an_application_a_role_says_how_to_name_one(
    invoke: Invoke, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STAGEFLOW_APP")
    result = invoke("worker")
    assert (result.exit_code, became) == (2, [])
    assert "--app module:attribute" in result.stderr


def test_up_hands_over_settings_application_queues_and_the_schema_upgrade(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("stageflow_durable.embedded.up.run_up", _recording(seen, 0))
    assert invoke("up", "-c", "3", "--no-beat", "--no-monitor", "-l", "info").exit_code == 0
    assert seen["given"][1:] == (SHIM,)
    assert seen["given"][0].app == "shop:engine"
    assert (seen["concurrency"], seen["beat"], seen["flower"]) == (3, False, False)
    assert seen["worker_options"] == ("-Q", "sf,gpu", "-l", "info")
    assert seen["upgrade"].__name__ == "upgrade"


def test_up_that_reloads_looks_whether_the_application_can_be_imported(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("stageflow_durable.embedded.up.run_up", _recording(seen, 0))
    assert invoke("up", "--reload", "--no-monitor").exit_code == 0
    assert list(seen["reload"].directories) == [tmp_path]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "shop.py").write_text("from stageflow_durable import Engine\nengine = Engine('shop')\n")
    assert seen["reload"].wrong() is None
    (tmp_path / "shop.py").write_text("this is wrong")
    told = seen["reload"].wrong()
    assert "importing shop failed: NameError: name 'this' is not defined" in told
    assert "\n" not in told


def test_the_demo_hands_over_its_options_and_its_verdict_is_the_exit_code(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("stageflow_durable.demo.run.run_demo", _recording(seen, 1))
    assert invoke("demo", "--orders", "9", "--kills", "0", "--seed", "7").exit_code == 1
    assert (seen["orders"], seen["kills"], seen["seed"]) == (9, 0, 7)
    assert invoke("demo", "--orders", "301").exit_code == 2


def _recording(seen: dict[str, Any], answer: int) -> Callable[..., int]:
    def record(*given: Any, **named: Any) -> int:
        seen.update(named, given=given)
        return answer

    return record


@pytest.mark.parametrize("role", ["worker", "beat", "up"])
def test_without_a_schema_no_worker_starts_and_the_way_out_is_told(
    invoke: Invoke, became: list[list[str]], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setattr("stageflow_durable.state.schema.current", lambda url: None)
    result = invoke(role)
    assert (result.exit_code, became) == (1, [])
    assert f"has no schema of stageflow, this release needs {schema.head()}; run: stageflow db upgrade" in result.stderr


def test_before_a_newer_schema_a_worker_starts_as_in_a_rolling_deploy_and_says_so(
    invoke: Invoke, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stageflow_durable.state.schema.current", lambda url: "9999")
    result = invoke("worker")
    assert (result.exit_code, len(became)) == (0, 1)
    assert f"at schema 9999, which a newer release made; this one knows {schema.head()}" in result.stderr


def test_while_the_database_is_away_a_worker_starts_and_waits_for_it(
    invoke: Invoke, became: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(url: str) -> str:
        raise StoreUnavailable("the database did not answer")

    monkeypatch.setattr("stageflow_durable.state.schema.current", away)
    result = invoke("worker")
    assert (result.exit_code, len(became), result.stderr) == (0, 1, "stageflow: the database did not answer\n")


@pytest.mark.parametrize("role", ["worker", "beat", "flower"])
def test_with_nothing_set_and_nothing_running_a_role_tells_both_ways_out(
    invoke: Invoke, engine: FakeApplication, became: list[list[str]], role: str
) -> None:
    engine.settings = Settings(queue="sf")
    result = invoke(role)
    assert (result.exit_code, became) == (1, [])
    assert "STAGEFLOW_BROKER_URL" in result.stderr
    assert "stageflow up" in result.stderr
