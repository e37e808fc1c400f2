"""How a sandbox fails: it is not to be had, or what ran in it did."""

from __future__ import annotations

from typing import Any

from stageflow_durable.errors import ConfigurationError, PermanentError, TransientError


class SandboxUnavailable(ConfigurationError):
    """Nothing here isolates as the policy asks; nothing was run."""


class SandboxBusy(TransientError):
    """The machine had no processes, memory or namespaces left for a sandbox; nothing was run. It passes."""


class ToolFailed(PermanentError):
    """What ran in a sandbox ended with another exit code than 0; ``result``, a SandboxResult, has what it wrote."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class LimitExceeded(ToolFailed):
    """What ran in a sandbox was ended at a limit; ``limit`` names it."""

    def __init__(self, message: str, result: Any = None, *, limit: str = "") -> None:
        super().__init__(message, result)
        self.limit = limit
