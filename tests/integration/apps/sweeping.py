"""A process that does nothing but sweep until its gate opens: ``python -m tests.integration.apps.sweeping GATE``."""

from __future__ import annotations

import os
import sys

from tests.integration.apps.lanes import engine
from tests.integration.apps.ledger import Ledger

if __name__ == "__main__":
    sweeps = 0
    while not Ledger.here().is_open(sys.argv[1]):
        report = engine.sweep()
        assert not report.problems, report.problems
        sweeps += 1
        Ledger.here().open(f"sweeping-{os.getpid()}")
    print(sweeps)
