"""Work that is not trusted, in a sandbox: isolated, bounded, and nothing left of it. Each name is loaded at its first
use: a keeper imports this package too, and needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stageflow_durable.sandbox.backends import Verdict, probe
    from stageflow_durable.sandbox.errors import LimitExceeded, SandboxBusy, SandboxUnavailable, ToolFailed
    from stageflow_durable.sandbox.policy import SYSTEM_PATHS, SandboxLevel, SandboxLimits, SandboxPolicy
    from stageflow_durable.sandbox.result import SandboxResult
    from stageflow_durable.sandbox.running import run
    from stageflow_durable.sandbox.stage import SandboxStage

_WHERE = {
    "Verdict": "backends",
    "probe": "backends",
    "LimitExceeded": "errors",
    "SandboxBusy": "errors",
    "SandboxUnavailable": "errors",
    "ToolFailed": "errors",
    "SYSTEM_PATHS": "policy",
    "SandboxLevel": "policy",
    "SandboxLimits": "policy",
    "SandboxPolicy": "policy",
    "SandboxResult": "result",
    "run": "running",
    "SandboxStage": "stage",
}

__all__ = [
    "SYSTEM_PATHS",
    "LimitExceeded",
    "SandboxBusy",
    "SandboxLevel",
    "SandboxLimits",
    "SandboxPolicy",
    "SandboxResult",
    "SandboxStage",
    "SandboxUnavailable",
    "ToolFailed",
    "Verdict",
    "probe",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    return value
