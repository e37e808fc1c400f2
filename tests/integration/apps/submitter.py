"""A process that submits one key many times at once: ``python -m tests.integration.apps.submitter '{"key": …}'``.

Reads from its argument: ``times``, ``threads``, ``client``, ``key``, ``input``, ``wait`` (for the result). Prints one
JSON line a submission.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from stageflow_durable import StageflowError
from tests.integration.apps.lanes import engine


def main(order: dict[str, Any]) -> None:
    """Submit from many threads, which start together."""
    threads = min(order["threads"], order["times"])
    start = Barrier(threads)
    with ThreadPoolExecutor(threads, initializer=start.wait) as pool:
        for answer in pool.map(lambda _: submit(order), range(order["times"])):
            print(json.dumps(answer), flush=True)


def submit(order: dict[str, Any]) -> dict[str, Any]:
    """One submission, and what came of it."""
    try:
        run = engine.enqueue("three", order["input"], client_id=order["client"], idempotency_key=order["key"])
        result = run.result(timeout=60) if order["wait"] else None
    except StageflowError as error:
        return {"error": type(error).__name__, "fields": list(getattr(error, "fields", ())), "message": str(error)}
    return {"run": run.run_id, "replayed": run.replayed, "result": result}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
