"""A process that claims one key from many threads at once: ``python -m … URL KEY THREADS STARTED GO``; prints the
answers.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conformance.idempotency.backends import Backend, store_at


def claims(backend: Backend, key: str, threads: int) -> Counter[str]:
    """How often each kind of answer was given to ``threads`` claims at once."""
    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(lambda number: backend.claim(key, owner=f"thread-{number}"), range(threads)))
    return Counter(type(answer).__name__ for answer in answers)


def main(url: str, key: str, threads: int, started: Path, go: Path) -> None:
    """Wait for the starting signal, claim, print."""
    backend = Backend(store_at(url), url=url)
    backend.claim("warm-up")
    started.touch()
    while not go.exists():
        time.sleep(0.002)
    print(json.dumps(claims(backend, key, threads)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
