"""What users import in their tests: a real engine in the test's own process, with a fake clock and crash points.

``engine_for_tests`` gives an engine whose broker, worker and clock are the test's; ``engine.drain()`` does the work.
A fixture for pytest is in :mod:`stageflow_durable.testing.plugin`.
"""

from __future__ import annotations

from stageflow_durable.testing.clock import FakeClock
from stageflow_durable.testing.engine import InProcessEngine, StillGoing, engine_for_tests, middle
from stageflow_durable.testing.faults import Crash, Faults, Point
from stageflow_durable.testing.messages import Messages
from stageflow_durable.testing.worker import InProcessWorker

__all__ = [
    "Crash",
    "FakeClock",
    "Faults",
    "InProcessEngine",
    "InProcessWorker",
    "Messages",
    "Point",
    "StillGoing",
    "engine_for_tests",
    "middle",
]
