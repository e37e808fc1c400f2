"""Finding the application's Engine by its name, ``module:attribute``; a wrong name is told exactly what is wrong."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from stageflow_durable.cli.failures import Failure, Misuse
from stageflow_durable.cli.ports import Application
from stageflow_durable.errors import StageflowError

_NAME_IT = "name what Engine(…) returned, assigned to a variable of the module: engine = Engine('shop', …)"


def load_application(reference: str) -> Application:
    """The Engine that ``reference`` names; the working directory is importable. Fails with one line and the way out."""
    if instead := _of_a_path(reference):
        raise Misuse(f"--app {reference!r} is a path, not the name of a module; {instead}")
    module_name, colon, attribute = reference.partition(":")
    if not module_name or (colon and not attribute):
        raise Misuse(f"--app {reference!r} is not of the form module:attribute, e.g. --app shop:engine")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise Misuse(f"--app {reference!r}: {module_name} is not the name of a module; {_meant(reference)}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    module = _module(module_name, reference)
    found = _attribute(module, attribute, reference) if attribute else _only_engine(module)
    return _engine(found, module, reference)


def _module(name: str, reference: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise _not_found(error, name, reference) from error
    except StageflowError:
        raise
    except Exception as error:
        raise Failure(
            f"--app {reference}: importing {name} failed: {type(error).__name__}: {error}{_where(error)}; "
            f"the whole traceback: python -c 'import {name}'"
        ) from error


def _not_found(error: ModuleNotFoundError, name: str, reference: str) -> Failure:
    missing = error.name or name
    if name == missing or name.startswith(missing + "."):
        return Misuse(f"--app {reference}: no module {missing!r} in {Path.cwd()} or on PYTHONPATH; {_meant(reference)}")
    return Failure(f"--app {reference}: {name} needs module {missing!r}, which is not installed{_where(error)}")


def _of_a_path(reference: str) -> str | None:
    """How the module of a file is named, where somebody gave the file's path; None where it is no path."""
    path, attribute = _split_path(reference)
    if not re.search(r"[/\\]|\.py$", path):
        return None
    file = Path(path.replace("\\", "/")).expanduser()
    named = file.with_suffix("") if file.suffix == ".py" else file
    if named.name == "__init__":
        named = named.parent
    here = Path.cwd()
    inside = named.relative_to(here) if named.is_absolute() and named.is_relative_to(here) else named
    if not inside.is_absolute() and inside.parts and inside.parts[0] != "..":
        return f"did you mean --app {'.'.join(inside.parts)}:{attribute}?"
    top = _package_root(named)
    dotted = ".".join(named.relative_to(top).parts)
    return f"a module is imported by its name: cd {top} && stageflow --app {dotted}:{attribute} …"


def _split_path(reference: str) -> tuple[str, str]:
    """The path and the attribute; the colon behind a drive is neither."""
    path, colon, attribute = reference.rpartition(":")
    if not colon or re.search(r"[/\\]", attribute):
        return reference, "engine"
    return path, attribute or "engine"


def _package_root(named: Path) -> Path:
    """The directory from which a file is importable: above every package that it is in."""
    root = named.parent
    while (root / "__init__.py").is_file() and root != root.parent:
        root = root.parent
    return root


def _meant(reference: str) -> str:
    """What somebody may have meant by the name of a module that is not there."""
    name, colon, attribute = reference.partition(":")
    parent, dot, last = name.rpartition(".")
    if dot and not colon and _is_there(parent):
        return f"between module and attribute stands a colon: did you mean --app {parent}:{last}?"
    if near := difflib.get_close_matches(name, [path.stem for path in Path.cwd().glob("*.py")], n=1):
        return f"did you mean --app {near[0]}:{attribute or 'engine'}?"
    if found := next(Path.cwd().glob(f"*/{name.replace('.', '/')}.py"), None):
        return f"there is {found.relative_to(Path.cwd())}: run it from {found.parent.name}/, or set PYTHONPATH"
    return "run from the directory that holds it, or correct the name"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""  # its own text names the place
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""


def engine_named_to_celery(named: str) -> str | None:
    """``module:attribute`` of the engine in the module of ``celery -A named``; None unless it holds exactly one."""
    module = sys.modules.get(named.partition(":")[0])
    engines = _engines(module) if module else []
    return f"{module.__name__}:{engines[0]}" if module and len(engines) == 1 else None


def _only_engine(module: ModuleType) -> object:
    engines = _engines(module)
    if len(engines) != 1:
        listed = ", ".join(f"{module.__name__}:{name}" for name in engines) or f"{module.__name__}:NAME"
        raise Misuse(f"--app {module.__name__}: it holds {len(engines)} engines; name the one: {listed}")
    return cast("object", getattr(module, engines[0]))


def _engines(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if _is_engine(value)]


def _attribute(module: ModuleType, dotted: str, reference: str) -> object:
    found: Any = module
    for name in dotted.split("."):
        if not hasattr(found, name):
            raise Misuse(f"--app {reference}: {module.__name__} has no attribute {name!r}{_instead(module, name)}")
        found = getattr(found, name)
    return cast("object", found)


def _instead(module: ModuleType, name: str) -> str:
    engines = _engines(module)
    if not engines:
        return f"; {_NAME_IT}"
    close = difflib.get_close_matches(name, engines, n=1) or engines[:1]
    return f"; did you mean --app {module.__name__}:{close[0]}?"


def _engine(found: object, module: ModuleType, reference: str) -> Application:
    if not _is_engine(found):
        engines = ", ".join(f"--app {module.__name__}:{name}" for name in _engines(module))
        instead = f"did you mean {engines}?" if engines else _NAME_IT
        what = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise Misuse(f"--app {reference} is {what}, not an Engine; {instead}")
    return cast("Application", found)


def _is_engine(value: object) -> bool:
    from stageflow_durable import Engine

    return isinstance(value, Engine)
