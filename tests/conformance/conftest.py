"""The engine's own conformance suite is run by hand until it and the engine agree everywhere: see CONTRIBUTING.md."""

from __future__ import annotations

import os

collect_ignore = [] if "STAGEFLOW_TEST_CONFORMANCE" in os.environ else ["engine"]
