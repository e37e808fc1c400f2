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


def load_application(reference: str) -> Application:
    """The Engine that ``reference`` names; the working directory is importable. Fails with one line and the way out."""
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


def _meant(reference: str) -> str:
    """What somebody may have meant by the name of a module that is not there."""
    name, colon, attribute = reference.partition(":")
    module = re.sub(r"\.py$", "", name).strip("./").replace("/", ".")
    if module != name:
        return f"did you mean --app {module}:{attribute or 'engine'}?"
    parent, dot, last = name.rpartition(".")
    if dot and not colon and _is_there(parent):
        return f"between module and attribute stands a colon: did you mean --app {parent}:{last}?"
    if near := difflib.get_close_matches(name, [path.stem for path in Path.cwd().glob("*.py")], n=1):
        return f"did you mean --app {near[0]}:{attribute or 'engine'}?"
    if found := next(Path.cwd().glob(f"*/{name.replace('.', '/')}.py"), None):
        return f"there is {found.relative_to(Path.cwd())}: run it from {found.parent.name}/, or set PYTHONPATH"
    return "run from the directory that holds it, or mend the name"


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
    close = _engines(module) or difflib.get_close_matches(name, vars(module), n=1)
    return f"; did you mean --app {module.__name__}:{close[0]}?" if close else "; name the Engine that it builds"


def _engine(found: object, module: ModuleType, reference: str) -> Application:
    if not _is_engine(found):
        engines = ", ".join(f"--app {module.__name__}:{name}" for name in _engines(module))
        instead = f"did you mean {engines}?" if engines else "name what Engine(…) returned: engine = Engine('shop', …)"
        raise Misuse(f"--app {reference} is of type {type(found).__name__}, not an Engine; {instead}")
    return cast("Application", found)


def _is_engine(value: object) -> bool:
    from stageflow_durable import Engine

    return isinstance(value, Engine)
