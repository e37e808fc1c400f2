"""``python -m tests.benchmarks.profile FILE``: what a worker is busy with while it carries runs, by py-spy.

FILE gets the stacks, one a line with its samples (for a flame graph); what is printed is how they share out.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.bench import opened
from tests.benchmarks.sides import Durable
from tests.services.process import eventually

RATE = 100
"""Samples a second: more of them would measure py-spy."""

CHILD: Mapping[str, str] = {
    "lease and sweep, in a thread": r"Pulse\.",
    "ending a stage and beginning the next: the statement": (
        r"(Saving\._save_once\b.*(RawConnection\.|Driver\.|psycopg|Prepared))"
    ),
    "ending a stage and beginning the next: its values": r"Saving\._save_once\b",
    "the body and what is built for it": r"Executor\._(stage|run_in_place)\b",
    "beginning a run": r"Store\.begin\b",
    "publishing": r"Process\.publish\b|Publisher\.publish\b",
    "the message: the gate in Redis": r"Process\.first\b",
    "the message: Celery's tracing of a task": r"trace_task\b",
    "the message: taking it over from the parent": r"Worker\.workloop\b",
}
"""Parts of a child's work by a pattern for the stack; the first that fits has the sample."""

PARENT: Mapping[str, str] = {
    "acknowledging": r"Message\.ack|_unless_gone",
    "handing a task to the pool": r"Pool\.apply_async|_process_task|on_task_received|_write_job",
    "hearing from the pool": r"ResultHandler|on_result_readable|on_state_change",
    "receiving": r"on_readable|_brpop_read|on_poll_start",
    "the event loop": r"create_loop",
}
"""The same for the parent."""


def main(words: Sequence[str] | None = None) -> None:
    """Profile one process of a worker."""
    options = _parser().parse_args(words)
    with opened() as bench:
        side = bench.message if options.message else bench.durable
        carry(side, options.length, options.stages // options.length, options.file, parent=options.parent)
    found = shares(options.file.read_text(encoding="utf-8").splitlines(), PARENT if options.parent else CHILD)
    print(f"{sum(found.values()):,} samples")
    for part, count in found.most_common():
        print(f"{count / sum(found.values()):7.1%}  {part}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.profile", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--length", type=int, default=10, help="stages of a run (10)")
    parser.add_argument("--stages", type=int, default=30_000, help="of all runs together (30,000)")
    parser.add_argument("--message", action="store_true", help="a message a stage")
    parser.add_argument("--parent", action="store_true", help="the worker's parent instead of one of its children")
    return parser


def carry(side: Durable, length: int, lines: int, file: Path, *, parent: bool) -> None:
    """Let a warm worker carry that many runs, and sample one of its processes meanwhile."""
    side.pace(length, 2)
    until = side.finished() + lines
    for _ in range(lines):
        side.enqueue(length)
    pid = side.worker.pid if parent else _children(side.worker.pid)[0]
    side.worker.resume()
    with _sampled(pid, file):
        eventually(lambda: side.finished() >= until, within=600, what="all runs end")
    side.worker.pause()


@contextmanager
def _sampled(pid: int, file: Path) -> Iterator[None]:
    """Only of threads that hold the interpreter: who waits for an answer is not busy."""
    options = ["--format", "raw", "--output", str(file), "--pid", str(pid), "--rate", str(RATE), "--duration", "3600"]
    command: list[str | Path] = [Path(sys.executable).with_name("py-spy"), "record", "--gil", *options]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        spy.send_signal(signal.SIGINT)  # it writes what it has
        spy.wait(timeout=60)


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return sorted(map(int, listed.stdout.split()))


def shares(stacks: Iterable[str], parts: Mapping[str, str]) -> Counter[str]:
    """Samples by part; ``stacks`` as py-spy writes them: frames from the outermost, and a number."""
    found: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        found[next((part for part, fits in parts.items() if re.search(fits, stack)), "other")] += int(count)
    return found


if __name__ == "__main__":
    main()
