"""The wheel that is published: built, installed into an environment with nothing else, and a pipeline run from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.services.process import Processes, eventually

SHOP = """
from pydantic import BaseModel
from stageflow_durable import Engine, Pipeline

class Order(BaseModel):
    order_id: str

def reserve(ctx):
    return {"shelf": ctx.input.order_id}

async def ship(ctx):
    return "parcel for " + ctx.outputs["reserve"]["shelf"]

engine = Engine("shop", Pipeline("checkout", input_type=Order).stage("reserve", reserve).stage("ship", ship))
"""


def ran(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    ran(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory, cwd=ROOT)
    [made] = directory.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment that holds the wheel, and what it brings."""
    directory = tmp_path_factory.mktemp("clean")
    venv.create(directory, with_pip=True)
    scripts = directory / ("Scripts" if os.name == "nt" else "bin")
    install = ("-m", "pip", "install", "-q", "--disable-pip-version-check", f"{wheel}[embedded]")
    ran(scripts / "python", *install, cwd=directory)
    return scripts


def test_the_wheel_holds_everything_in_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = ran("git", "ls-files", "--cached", "--others", "--exclude-standard", "stageflow_durable", cwd=ROOT)
    assert held == {name for name in listed.splitlines() if (ROOT / name).exists()}
    assert "stageflow_durable/py.typed" in held
    assert any(name.startswith("stageflow_durable/state/migrations/versions/") for name in held)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)  # an index may be slow
def test_a_pipeline_runs_from_the_wheel_alone(clean: Path, tmp_path: Path, processes: Processes) -> None:
    assert ran(clean / "stageflow", "--version", cwd=tmp_path).startswith("stageflow 0.")
    assert str(ROOT) not in ran(
        clean / "python", "-c", "import stageflow_durable as s; print(s.__file__)", cwd=tmp_path
    )
    (tmp_path / "shop.py").write_text(SHOP)
    up = processes.start("up", [str(clean / "stageflow"), "--app", "shop:engine", "up", "--no-monitor"], cwd=tmp_path)
    eventually(lambda: "ready: checkout v1" in processes.log("up"), within=60, what="it is ready")

    [paste] = [line for line in processes.log("up").splitlines() if "in another terminal: " in line]
    assert paste.endswith("""stageflow --app shop:engine enqueue checkout --input '{"order_id": "x"}' --wait""")
    order = ("enqueue", "checkout", "--input", '{"order_id": "A-1"}', "--wait", "--timeout", "60")
    run_id, result = ran(clean / "stageflow", "--app", "shop:engine", *order, cwd=tmp_path).split("\n", 1)
    assert json.loads(result) == {"reserve": {"shelf": "A-1"}, "ship": "parcel for A-1"}
    eventually(lambda: f"run {run_id[:12]} checkout succeeded" in processes.log("up"), what="its end is told")

    up.terminate()
    assert up.wait(timeout=30) == 0
    log = processes.log("up")
    assert "stopping: " in log
    assert "; Ctrl-C again kills at once, and the next up carries on" in log
    assert "WARNING" not in log
    assert "Traceback" not in log
