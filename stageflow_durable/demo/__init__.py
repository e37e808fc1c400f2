"""The main job on real input: orders against flaky services, workers killed on the way, books reconciled.

``stageflow demo`` calls :func:`run_demo`. The shop that it runs, :mod:`.shop`, is written as an application would be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stageflow_durable.demo.run import run_demo

__all__ = ["run_demo"]


def __getattr__(name: str) -> Any:
    # The services run as `python -m stageflow_durable.demo.services` and must not import the engine to do so.
    if name == "run_demo":
        from stageflow_durable.demo.run import run_demo

        return run_demo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
