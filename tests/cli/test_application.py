"""``--app module:attribute``: found in the working directory, and what is wrong with a wrong one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from stageflow_durable import Engine
from stageflow_durable.cli import celery_group
from stageflow_durable.cli.application import load_application
from stageflow_durable.engine.operations import Operations

if TYPE_CHECKING:
    from stageflow_durable.cli import ports

SHOP = """
from stageflow_durable import Engine, Pipeline

def charge(ctx):
    return {"paid": ctx.input["amount_cents"]}

engine = Engine("shop", [Pipeline("checkout").stage("charge", charge)])
celery_app = engine.celery_app
other = 7

class Holder:
    engine = engine
"""


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "till.py").write_text(SHOP)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("shop", "broken", "needy", "two", "only_the_class"):
            del sys.modules[name]


def enqueue(*app: str) -> Result:
    return CliRunner().invoke(celery_group, [*app, "enqueue", "checkout", "--input", "{}"], prog_name="stageflow")


@pytest.mark.parametrize("reference", ["shop:engine", "shop:Holder.engine", "shop"])
def test_the_engine_is_found_in_the_working_directory(reference: str) -> None:
    found = load_application(reference)
    assert isinstance(found, Engine)
    assert list(found.pipelines) == ["checkout"]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("shpo:engine", "no module 'shpo' in"),
        ("shop.sub:engine", "no module 'shop.sub'"),
        ("shop:engin", "shop has no attribute 'engin'; did you mean --app shop:engine?"),
        ("shop:other", "--app shop:other is of type int, not an Engine"),
        ("shop:", "not of the form module:attribute"),
        (":engine", "not of the form module:attribute"),
        ("shop:celery_app", "not an Engine; did you mean --app shop:engine?"),
        ("shop.engine", "between module and attribute stands a colon: did you mean --app shop:engine?"),
        ("shop.py:engine", "did you mean --app shop:engine?"),
        ("./shop.py", "did you mean --app shop:engine?"),
        ("shpo", "did you mean --app shop:engine?"),
        ("till:engine", "there is src/till.py: run it from src/, or set PYTHONPATH"),
        ("nowhere:engine", "run from the directory that holds it, or correct the name"),
        ("src/till.py:engine", "did you mean --app src.till:engine?"),
        ("src\\till.py:engine", "did you mean --app src.till:engine?"),
        ("{here}/shop.py:engine", "did you mean --app shop:engine?"),
        ("{here}/shop.py", "did you mean --app shop:engine?"),
        ("{here}/src/pack/__init__.py:app", "did you mean --app src.pack:app?"),
        ("{other}/till.py:engine", "cd {other} && stageflow --app till:engine"),
        ("{other}/pack/sub.py:engine", "cd {other} && stageflow --app pack.sub:engine"),
        ("../shop.py:engine", "cd .. && stageflow --app shop:engine"),
        ("C:\\work\\shop.py:engine", "not the name of a module"),
        ("only_the_class:Engine", "is the class Engine, not an Engine; name what Engine(…) returned"),
        ("only_the_class:engin", "has no attribute 'engin'; name what Engine(…) returned"),
        ("only_the_class:make", "is of type function, not an Engine; name what Engine(…) returned"),
    ],
)
def test_a_wrong_name_is_one_line_that_says_which_part_is_wrong_and_the_way_out(
    tmp_path_factory: pytest.TempPathFactory, reference: str, says: str
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "pack").mkdir()
    (other / "pack" / "__init__.py").touch()
    Path("only_the_class.py").write_text("from stageflow_durable import Engine\ndef make(): return Engine('x')\n")
    places = {"here": str(Path.cwd()), "other": str(other)}
    result = enqueue("--app", reference.format(**places))
    assert (result.exit_code, result.stdout) == (2, "")
    assert says.format(**places) in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_a_name_the_three_ways_to_give_one_are_told() -> None:
    result = enqueue()
    assert result.exit_code == 2
    for way in ("--app module:attribute", "STAGEFLOW_APP", "[tool.stageflow]"):
        assert way in result.stderr


def test_the_name_may_come_from_the_environment_or_from_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.stageflow]\napp = "nowhere:engine"\n')
    assert "no module 'nowhere'" in enqueue().stderr
    monkeypatch.setenv("STAGEFLOW_APP", "elsewhere:engine")
    assert "no module 'elsewhere'" in enqueue().stderr
    assert "no module 'here'" in enqueue("--app", "here:engine").stderr


def test_a_module_that_breaks_while_it_is_imported_is_told_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    result = enqueue("--app", "broken:engine")
    assert result.exit_code == 1
    assert "importing broken failed: ZeroDivisionError: division by zero" in result.stderr
    assert "broken.py:2)" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_module_that_needs_another_is_not_taken_for_missing(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import not_installed_here\n")
    result = enqueue("--app", "needy:engine")
    assert result.exit_code == 1
    assert "needy needs module 'not_installed_here', which is not installed" in result.stderr


def test_a_pipeline_with_mistakes_is_told_as_the_engine_tells_it(tmp_path: Path) -> None:
    lines = ("from stageflow_durable import Engine, Pipeline", "engine = Engine('x', [Pipeline('p')])")
    (tmp_path / "broken.py").write_text("\n".join(lines))
    result = enqueue("--app", "broken:engine")
    assert (result.exit_code, result.stderr) == (1, "stageflow: pipeline 'p': it has no stages\n")


def test_of_two_engines_one_has_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text("from stageflow_durable import Engine\na = Engine('a')\nb = Engine('b')\n")
    assert "holds 2 engines; name the one: two:a, two:b" in enqueue("--app", "two").stderr


def test_with_nothing_set_and_nothing_running_both_ways_out_are_told() -> None:
    result = enqueue("--app", "shop:engine")
    assert result.exit_code == 1
    assert "STAGEFLOW_DATABASE_URL" in result.stderr
    assert "stageflow up" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("named", ["shop", "shop:celery_app"])
def test_under_celery_the_engine_stands_beside_the_application_that_celery_was_given(named: str) -> None:
    group = click.Group("celery", params=[click.Option(["-A", "--app"], type=click.UNPROCESSED)])
    group.add_command(celery_group)
    load_application("shop")  # as Celery has done by then
    result = CliRunner().invoke(group, ["-A", named, "stageflow", "enqueue", "chekout", "--input", "{}"])
    assert result.exit_code == 1
    assert result.stderr.startswith("stageflow: no pipeline 'chekout' in this engine; it knows: checkout.")


def test_celery_itself_knows_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "shop", "stageflow", "show", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'x' is too short for a run id" in done.stderr


def _the_real_ones_fit(engine: Engine, operations: Operations) -> tuple[ports.Application, ports.Operations]:
    """Read by mypy, not run."""
    return engine, operations
