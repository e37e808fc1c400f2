"""The ``stageflow`` command, and the same tree as ``celery stageflow``. Semantics: ``docs/reference/command.md``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from stageflow_durable.cli.root import stageflow

__all__ = ["celery_group", "main"]

celery_group = stageflow
"""The click group that the ``celery.commands`` entry point names."""


def _is_celerys_flower(arguments: list[str]) -> bool:
    program = Path(arguments[0] if arguments else "")
    by_name = program.name == "celery" or program.parts[-2:] == ("celery", "__main__.py")
    return by_name and "flower" in arguments[1:]


if _is_celerys_flower(sys.argv):  # it imports the plugins of ``celery.commands`` before it builds its Flower
    with suppress(ImportError):
        from stageflow_durable.web.flower_command import join

        join()


def main() -> None:
    """Run ``stageflow``; exits 0 when done, 1 when refused or failed, 2 on wrong usage, 130 on Ctrl-C."""
    _with_all_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 gets "?" for a dash, never a traceback.
        if callable(reconfigure := getattr(stream, "reconfigure", None)):
            reconfigure(errors="replace")
    try:
        stageflow.main(prog_name="stageflow")
    finally:
        _leave_nothing_unwritten()


def _with_all_streams() -> None:
    """A stream that is closed is opened on nothing: else the next file, a database say, would get its number."""
    out = sys.stdout
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115  # as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # as long as that
    if out is None:
        sys.exit("stageflow: standard output is closed; to discard what is printed: > /dev/null")


def _leave_nothing_unwritten() -> None:
    """What could not be written was told; Python's own attempt at the end would add a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
