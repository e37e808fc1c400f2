"""How long a process takes from its start to its end, for the figures that a person waits for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

STAGEFLOW = str(Path(sys.executable).parent / "stageflow")
NOTHING = (sys.executable, "-c", "pass")
IMPORT = (sys.executable, "-c", "import stageflow_durable")
IMPORT_ENGINE = (sys.executable, "-c", "from stageflow_durable import Engine")
HELP = (STAGEFLOW, "--help")


def seconds(command: Sequence[str], times: int = 5) -> float:
    """The median of some starts."""
    return median(_once(command) for _ in range(times))


def _once(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began
