"""Many runs that wait, and a signal to each: none is lost, and how many a second are taken.

``python -m tests.benchmarks.signals`` measures SQLite; ``--url`` another database, whose schema is up to date.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

from stageflow_durable import Pipeline, RunStatus, Submission
from stageflow_durable.testing import engine_for_tests

RUNS = 10_000
WAITING = (
    Pipeline("waiting")
    .wait_for("word", {"type": "string"}, timeout=86_400)
    .stage("after", lambda ctx: ctx.outputs["word"])
)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.signals", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--url")
    asked = parser.parse_args()
    with engine_for_tests([WAITING], database_url=asked.url) as engine:
        made = engine.enqueue_many("waiting", [Submission({})] * asked.runs)
        runs = [*made]
        began = time.monotonic()
        engine.work()
        came = time.monotonic()
        with ThreadPoolExecutor(asked.threads) as threads:
            list(threads.map(lambda run: engine.signal(run.run_id, "word", run.run_id), runs))
        sent = time.monotonic()
        engine.work()
        ended = time.monotonic()
        lost = [run for run in runs if run.status() is not RunStatus.SUCCEEDED]
        wrong = [run for run in runs if run.outputs()["word"] != run.run_id]
    assert (lost, wrong) == ([], [])
    for what, since, until in (
        ("came to their wait", began, came),
        ("took their signal", came, sent),
        ("ended", sent, ended),
    ):
        print(f"{asked.runs:,} runs {what} in {until - since:.1f} s, {asked.runs / (until - since):,.0f} a second")


if __name__ == "__main__":
    main()
