"""docker-compose.yml as values: services, and what Compose would put in for ``${VARIABLE:-default}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.project.tree import ROOT

FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<rule>:[?-](?P<text>[^}]*))?\}|\$\$")

GIVEN = {
    "POSTGRES_PASSWORD": "p" * 32,
    "REDIS_PASSWORD": "r" * 32,
    "STAGEFLOW_AUDIT_KEY": "a" * 32,
    "FLOWER_BASIC_AUTH": "admin:f",
}
"""Everything that has to be in ``.env``."""


class VariableMissing(Exception):
    """Compose would refuse to start: a required variable is not given."""


@dataclass(frozen=True)
class Service:
    """One service, with every variable put in."""

    name: str
    settings: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether it runs this project's image."""
        return "build" in self.settings

    @property
    def runs_on(self) -> bool:
        """Whether it is meant to stay up; a job is not."""
        return self.settings.get("restart") != "no"

    @property
    def command(self) -> list[str]:
        """What it runs, word by word."""
        return list(self.settings["command"])

    @property
    def environment(self) -> dict[str, str]:
        """The variables it gets."""
        return dict(self.settings.get("environment", {}))

    @property
    def health_command(self) -> list[str]:
        """What Compose runs to see whether it is healthy."""
        kind, *words = self.settings["healthcheck"]["test"]
        return words if kind == "CMD" else ["/bin/sh", "-c", *words]


def document(given: Mapping[str, str] = GIVEN) -> dict[str, Any]:
    """The whole file with ``given`` put in. Raises VariableMissing."""
    loaded = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    result: dict[str, Any] = _put_in(loaded, given)
    return result


def services(given: Mapping[str, str] = GIVEN) -> dict[str, Service]:
    """The services by name."""
    return {name: Service(name, settings) for name, settings in document(given)["services"].items()}


def _put_in(value: Any, given: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _put_in(item, given) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_in(item, given) for item in value]
    return _VARIABLE.sub(lambda found: _value_of(found, given), value) if isinstance(value, str) else value


def _value_of(found: re.Match[str], given: Mapping[str, str]) -> str:
    name, rule = found["name"], found["rule"]
    if name is None:
        return "$"
    if value := given.get(name):
        return value
    if rule and rule.startswith(":-"):
        return str(found["text"])
    raise VariableMissing(name)
