"""What a stage's state costs in Python: to encode what it adds, and to fold what was saved before."""

from __future__ import annotations

import timeit
from types import SimpleNamespace
from typing import Any, cast

from stageflow_durable.codec import encode
from stageflow_durable.model.work import Saved
from tests.benchmarks.pipelines import line, output

try:
    from stageflow_durable.engine.run_outputs import RunOutputs
except ModuleNotFoundError:  # a commit to be compared with, where it had another name
    from stageflow_durable.engine.memory import Memory as RunOutputs  # type: ignore[import-not-found, no-redef]  # there it is

OUTPUTS = 20
BYTES = 10_000
"""Of all outputs together."""


def encode_ms(times: int) -> float:
    """Milliseconds for the 1 KB of one stage; the best of five, since everything else only adds."""
    value = output()
    return min(timeit.repeat(lambda: encode(value), number=times, repeat=5)) * 1000 / times


def fold_ms(times: int) -> float:
    """Milliseconds from the texts in the database's answer to the snapshot that a stage gets."""
    saved = {f"s{number}": Saved(encode({"pad": "x" * (BYTES // OUTPUTS - 10)}), 1) for number in range(OUTPUTS)}
    pipeline = line(OUTPUTS + 1)
    run = SimpleNamespace(id="r", pipeline="line", input=encode({"n": 1}), input_schema=1, metadata=encode({}))
    work = SimpleNamespace(run=run, plan=pipeline.plan, stage=f"s{OUTPUTS}", saved=saved)

    def fold() -> Any:
        return RunOutputs(cast("Any", None), pipeline).snapshot(cast("Any", work))

    assert len(fold().outputs) == OUTPUTS
    return min(timeit.repeat(fold, number=times, repeat=5)) * 1000 / times
