"""What every peer carries: the same body as ours, and the two processes that carry it."""

from __future__ import annotations

import subprocess
import sys

PROCESSES = 2
PAD = 1000
READY = "ready to work"
"""What each of the processes prints where nothing else tells that it is."""


def output() -> dict[str, str]:
    """What a step leaves: 1 KB, as our stages do."""
    return {"pad": "x" * PAD}


def main(module: str) -> int:
    """Run a module in two processes of this group, until they end."""
    children = [subprocess.Popen([sys.executable, "-m", module]) for _ in range(PROCESSES)]
    return max(child.wait() for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
