"""Where Flower would listen, and whether it would ask who comes: it shows arguments, and can revoke."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stageflow_durable.web.exposure import is_loopback

LOOPBACK = "127.0.0.1"
_ASKS = frozenset({"basic_auth", "auth", "auth_provider"})


def flower_arguments(given: Sequence[str], environment: Mapping[str, str]) -> list[str] | None:
    """What Flower is started with: on loopback unless told otherwise. None: it would show everything to whoever reaches
    another address.
    """
    options = dict(_options(given, environment))
    if options.get("unix_socket"):
        return list(given)
    if "address" not in options:
        return [f"--address={LOOPBACK}", *given]
    return list(given) if is_loopback(options["address"]) or _ASKS & options.keys() else None


def _options(given: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What Flower reads, the weaker first: the environment, its file, the command line. Empty ones say nothing."""
    prefix = "FLOWER_"
    found = [(name.removeprefix(prefix), value) for name, value in environment.items() if name.startswith(prefix)]
    words = [word.lstrip("-").partition("=") for word in given if word.startswith("-")]
    line = [(name, value) for name, _equals, value in words]
    conf = {_known(name): value for name, value in (*found, *line)}.get("conf", "flowerconfig.py")
    for name, value in (*found, *_of_file(conf), *line):
        # An address that is empty is every address.
        if value or _known(name) == "address":
            yield _known(name), value


def _of_file(conf: str) -> Iterator[tuple[str, str]]:
    """Options of Flower's own file, which is Python that it runs: names that are assigned at its top."""
    try:
        text = Path(conf).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    import ast

    try:
        tree = ast.parse(text)
    except SyntaxError:  # Flower says so itself
        return
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value.value if isinstance(node.value, ast.Constant) else "set"
            yield node.targets[0].id, str(value or "")


def _known(name: str) -> str:
    return name.lower().replace("-", "_")
