"""Run a command that does not outlive its parent: ``launch.py PARENT SIGNAL COMMAND…``.

Started by path, and standard library only, so that it costs a few milliseconds. Asking the kernel between fork and exec
instead would run Python in a process that may have forked while another thread held a lock.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, number: int, command: list[str]) -> None:
    """Become ``command``, to be sent signal ``number`` when ``parent`` dies (elsewhere than Linux: never)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before we could ask
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # no shell is meant


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
