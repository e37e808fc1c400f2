"""Where settings come from: keyword arguments over the environment over pyproject.toml."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings.claims import claims_by
from stageflow_durable.settings.names import mistyped_keys, mistyped_variables
from stageflow_durable.settings.values import PARSERS, Settings, disagreements, parse_all, refuse, variable

Given = dict[str, tuple[object, str]]


def load_settings(
    *, environment: Mapping[str, str] | None = None, directory: Path | None = None, **keywords: object
) -> Settings:
    """The settings: ``keywords`` over ``environment`` (``STAGEFLOW_…``) over ``[tool.stageflow]`` in pyproject.toml.

    ``environment``: the process's by default. ``directory``: where the search for pyproject.toml begins and goes up,
    the current one by default. A keyword that is None and a variable that is empty count as not given. ``redis_url``
    not given is the broker's, if that speaks Redis; ``off``: None. A missing database or broker is no error yet
    (:meth:`Settings.require`). Raises :class:`ConfigurationError` with everything that is wrong.
    """
    variables = os.environ if environment is None else environment
    file, table = _pyproject(directory or Path.cwd())
    problems = mistyped_keys(keywords, "keyword ") + mistyped_variables(name for name in variables if variables[name])
    problems += mistyped_keys(table, f"{file} [tool.stageflow] ")
    given = _from_file(file, table) | _from_environment(variables) | _from_keywords(keywords)
    found, mistakes = parse_all({name: pair for name, pair in given.items() if name in PARSERS})
    refuse(problems + mistakes + disagreements(found))
    parsed = cast("dict[str, Any]", found)
    parsed.setdefault("redis_url", claims_by(parsed.get("broker_url")))
    return Settings(**parsed)


def check_keywords(keywords: Mapping[str, object], *, others: Iterable[str] = ()) -> None:
    """Raise ConfigurationError with every keyword that is no setting, or has a value that is none; None: not given.
    ``others``: what else may be meant by a mistyped name.
    """
    _found, mistakes = parse_all({name: pair for name, pair in _from_keywords(keywords).items() if name in PARSERS})
    refuse(mistyped_keys(keywords, "keyword ", others=others) + mistakes)


def _from_keywords(keywords: Mapping[str, object]) -> Given:
    return {name: (value, name) for name, value in keywords.items() if value is not None}


def _from_environment(variables: Mapping[str, str]) -> Given:
    found = {name: (variables.get(variable(name), "").strip(), variable(name)) for name in PARSERS}
    return {name: pair for name, pair in found.items() if pair[0]}


def _from_file(file: Path, table: Mapping[str, object]) -> Given:
    given: Given = {name: (value, f"{file} [tool.stageflow] {name}") for name, value in table.items()}
    if isinstance(table.get("home"), str):
        # Relative to the file that says so, wherever in the project the command is started.
        given["home"] = (file.parent / str(table["home"]), given["home"][1])
    return given


def _pyproject(start: Path) -> tuple[Path, dict[str, object]]:
    for directory in (start, *start.absolute().parents):
        file = directory / "pyproject.toml"
        if file.is_file():
            return file, _table(file)
    return start / "pyproject.toml", {}


def _table(file: Path) -> dict[str, object]:
    import tomllib

    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
    table = document.get("tool", {}).get("stageflow", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{file}: stageflow under [tool] must be a table")
    return table
