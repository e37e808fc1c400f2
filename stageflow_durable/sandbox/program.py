"""What is run in a sandbox: a command, or a function by the name of its module and its own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow_durable.duration import shown
from stageflow_durable.errors import ConfigurationError

CODE = "/code"
"""Where a function's own package is inside, and the packages that are installed."""

INSIDE = f"{CODE}/inside.py"
_OWN = str(Path(__file__).with_name("inside.py"))

Mounted = tuple[str, str, str]
"""``("bind", path of the host, path inside)``, ``("link", target, path inside)``, or ``("hide", "empty" or "nothing",
path inside)``.
"""


@dataclass(frozen=True, slots=True)
class Program:
    """``words``: what is executed, the first an absolute path or a name below ``PATH``. ``paths``: what it needs beside
    the policy's. ``value``: whether it writes a value to a descriptor of its own. ``name``: as errors call it.
    """

    words: tuple[str, ...]
    paths: tuple[Mounted, ...] = ()
    value: bool = False
    name: str = ""


def program_of(what: Sequence[str] | Callable[[Any], Any]) -> Program:
    """The program of a command or a function. Raises ConfigurationError."""
    given: Any = what
    if callable(given):
        return _of_function(given)
    words = tuple(given) if isinstance(given, list | tuple) else ()
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        raise ConfigurationError(
            f"a command is a list of texts, the program first, and no line for a shell; not {shown(given)}"
        )
    return Program(words, name=words[0])


def _of_function(function: Callable[[Any], Any]) -> Program:
    module, name = reference(function)
    places, paths = _module(module)
    interpreter = os.path.realpath(sys.executable)
    packages = {f"{CODE}/packages-{n}": path for n, path in enumerate(_packages()) if Path(path).is_dir()}
    # Neither site nor the files of site-packages that start code: nothing runs before the function's own module.
    words = (interpreter, "-I", "-S", "-B", INSIDE, module, name, *places, *packages)
    placed = [("bind", source, target) for target, source in {**packages, INSIDE: _OWN}.items()]
    return Program(words, (*_bound(list(_interpreter())), *placed, *paths), value=True, name=f"{module}.{name}")


def reference(function: Callable[[Any], Any]) -> tuple[str, str]:
    """Module and name by which a function is found again. Raises ConfigurationError for one that is not."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "<" in name:
        raise ConfigurationError(
            f"{shown(function)} goes into a sandbox by its name: give a function of a module that can be imported, "
            "no lambda, no function within another, none of the program that was started"
        )
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not function:
        raise ConfigurationError(f"{module}.{name} is not {shown(function)}: it cannot be found again by that name")
    return module, name


def _interpreter() -> Iterator[str]:
    """The interpreter with its library, as they are installed and not as an environment shows them."""
    yield os.path.realpath(sys.executable)
    for name in ("stdlib", "platstdlib"):
        yield sysconfig.get_path(name, vars={"base": sys.base_prefix, "installed_base": sys.base_prefix})
    library = sysconfig.get_config_var("INSTSONAME")
    directory = sysconfig.get_config_var("LIBDIR")
    if library and directory and (shared := Path(directory, library)).is_file():
        yield str(shared)


def _packages() -> list[str]:
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _module(name: str) -> tuple[list[str], list[Mounted]]:
    """Where a function's own package or module is found inside, and what of the host is there. Nothing else of the
    project, and no hidden file such as ``.env``.
    """
    top = name.partition(".")[0]
    file = inspect.getfile(importlib.import_module(top)) if _has_file(top) else None
    if file is None:
        raise ConfigurationError(f"module {top}: only what is in files can be mounted into a sandbox")
    path = Path(file).resolve()
    if any(path.is_relative_to(place) for place in (*_packages(), *_interpreter())):
        return [], []
    own = path.parent if path.name == "__init__.py" else path
    target = f"{CODE}/{top}" if own.is_dir() else f"{CODE}/{own.name}"
    return [CODE], [("bind", str(own), target), *_hidden(own, target)]


def _has_file(module: str) -> bool:
    return bool(getattr(sys.modules.get(module) or importlib.import_module(module), "__file__", None))


def _hidden(own: Path, target: str) -> Iterator[Mounted]:
    for directory, names, files in os.walk(own):
        inside = target + directory.removeprefix(str(own))
        for name in [one for one in names if one.startswith(".")]:
            names.remove(name)
            yield ("hide", "nothing", f"{inside}/{name}")
        for name in files:
            if name.startswith("."):
                yield ("hide", "empty", f"{inside}/{name}")


def _bound(paths: Sequence[str]) -> Iterator[Mounted]:
    for path in dict.fromkeys(paths):
        yield ("bind", path, path)


def mounted(read_only: Sequence[str], program: Program) -> list[Mounted]:
    """Everything that is mounted, parents first, none that a parent shows already."""
    found: dict[str, Mounted] = {}
    for path in read_only:
        real = Path(path)
        if real.is_symlink():
            found[path] = ("link", os.readlink(path), path)  # noqa: PTH115  # relative links stay relative
        elif real.exists():
            found[path] = ("bind", path, path)
    for one in program.paths:
        found.setdefault(one[2], one)
    ordered = sorted(found.values(), key=lambda one: one[2])
    bound = [source for kind, source, _target in ordered if kind == "bind"]
    return [one for one in ordered if not _is_shown(one, bound)]


def _is_shown(one: Mounted, bound: Sequence[str]) -> bool:
    kind, source, target = one
    return kind == "bind" and source == target and any(target.startswith(f"{other}/") for other in bound)
