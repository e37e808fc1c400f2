"""Whether an application can be imported, found out in a process of its own: ``python -m …importable shop:engine``."""

from __future__ import annotations

import subprocess
import sys

import click

from stageflow_durable.cli.failures import FAILED, one_line

PATIENCE_SECONDS = 60.0


def wrong_with(reference: str) -> str | None:
    """Why the application of that name cannot be imported as its files are now, in one line; None: it can."""
    try:
        tried = subprocess.run(
            [sys.executable, "-m", __name__, reference],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it could not be imported within {PATIENCE_SECONDS:.0f} s"
    if tried.returncode == 0:
        return None
    last = tried.stderr.strip().rpartition("\n")[2]
    return one_line(last) or f"importing it ended with status {tried.returncode}"


def main(reference: str) -> int:
    """Import it; what is wrong is one line on stderr."""
    from stageflow_durable.cli.application import load_application
    from stageflow_durable.errors import StageflowError

    try:
        load_application(reference)
    except click.ClickException as error:
        click.echo(error.message, err=True)
        return FAILED
    except StageflowError as error:
        click.echo(one_line(str(error)), err=True)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
