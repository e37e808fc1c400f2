"""The ``stageflow`` command, and the same tree as ``celery stageflow``. Semantics: ``docs/reference/command.md``."""

from __future__ import annotations

import sys

from stageflow_durable.cli.root import stageflow

__all__ = ["celery_group", "main"]

celery_group = stageflow
"""The click group that the ``celery.commands`` entry point names."""


def main() -> None:
    """Run ``stageflow``; exits 0 when done, 1 when refused or failed, 2 on wrong usage, 130 on Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 gets "?" for a dash, never a traceback.
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="replace")
    stageflow.main(prog_name="stageflow")
