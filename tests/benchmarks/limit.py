"""What the database and its disk allow two processes, whatever stands before them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import IO

from stageflow_durable import Engine, Submission
from tests.benchmarks.pipelines import name_of
from tests.benchmarks.worker import CHILDREN, ROOT


class Limit:
    """Runs that are handed in as always and carried by loops of raw statements."""

    def __init__(self, engine: Engine, database_url: str) -> None:
        self._engine = engine
        self.url = database_url.replace("+psycopg", "")

    def rate(self, length: int, lines: int) -> float:
        """Stages a second by as many processes as a worker has children."""
        found = self._engine.enqueue_many(name_of(length), [Submission({"n": number}) for number in range(lines)])
        runs = [handle.run_id for handle in found]
        loops = [self._loop(length) for _ in range(CHILDREN)]
        began = time.perf_counter()
        for number, loop in enumerate(loops):
            _pipe(loop.stdin).write(json.dumps(runs[number::CHILDREN]) + "\n")
            _pipe(loop.stdin).flush()
        failed = [loop.args for loop in loops if loop.wait()]
        took = time.perf_counter() - began
        for loop in loops:
            _pipe(loop.stdin).close()
            _pipe(loop.stdout).close()
        if failed:
            raise RuntimeError(f"{failed} failed")
        return lines * length / took

    def _loop(self, length: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.benchmarks.raw_loop", self.url, str(length)]
        made = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _pipe(made.stdout).readline()
        return made

    def close(self) -> None:
        """Give back connections."""
        self._engine.close()


def _pipe(found: IO[str] | None) -> IO[str]:
    assert found is not None
    return found
