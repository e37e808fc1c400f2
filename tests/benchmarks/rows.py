"""The rows: which probes each needs, and what it makes of their samples. Numbers are those of the design's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks import start
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import Figure, Samples, at_least, at_most, plain, ratio
from tests.benchmarks.sides import Side
from tests.benchmarks.submission import Handed, Submissions

Probe = Callable[[str, Bench, float], dict[str, float]]
"""One measurement: samples by name, from the probe's own name and the share of its volume (``--quick``: a quarter)."""

WORKER, SERVICES, CALLER = " worker ms", " services ms", " caller ms"
"""What follows a probe's name in those of its CPU times."""


def _pace(side: Callable[[Bench], Side], length: int, lines: int) -> Probe:
    def probe(name: str, bench: Bench, share: float) -> dict[str, float]:
        pace = side(bench).pace(length, _some(lines, share))
        return {name: pace.rate, name + WORKER: pace.worker_ms, name + SERVICES: pace.services_ms}

    return probe


def _handed(submit: Callable[[Submissions, int], Handed], count: int) -> Probe:
    def probe(name: str, bench: Bench, share: float) -> dict[str, float]:
        handed = submit(bench.submissions, _some(count, share))
        return {name: handed.rate, name + CALLER: handed.cpu_ms}

    return probe


def _start_of(command: Sequence[str]) -> Probe:
    return lambda name, bench, share: {name: start.seconds(command)}


def _some(volume: int, share: float) -> int:
    return max(2, round(volume * share))


def _bare(bench: Bench) -> Side:
    return bench.bare.passing("number")


def _bare_1k(bench: Bench) -> Side:
    return bench.bare.passing("kilobyte")


PROBES: Mapping[str, Probe] = {
    "durable 10": _pace(lambda bench: bench.durable, 10, 150),
    "bare 10": _pace(_bare, 10, 100),
    "bare-1K 10": _pace(_bare_1k, 10, 100),
    "message 10": _pace(lambda bench: bench.message, 10, 80),
    "durable 100": _pace(lambda bench: bench.durable, 100, 15),
    "durable 1000": _pace(lambda bench: bench.durable, 1000, 2),
    "bare 100": _pace(_bare, 100, 10),
    "bare 1000": _pace(_bare, 1000, 2),
    "enqueue": _handed(Submissions.enqueue, 300),
    "apply_async": _handed(Submissions.apply_async, 300),
    "build and apply": _handed(Submissions.build_and_apply, 300),
    "commit": _handed(Submissions.commit, 300),
    "enqueue_many": _handed(Submissions.enqueue_many, 4),
    "import": _start_of(start.IMPORT),
    "import Engine": _start_of(start.IMPORT_ENGINE),
    "help": _start_of(start.HELP),
    "python": _start_of(start.NOTHING),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    title: str
    probes: tuple[str, ...]
    judge: Callable[[Samples], list[Figure]]


def _throughput(found: Samples) -> list[Figure]:
    ours, bare, kilobyte = found["durable 10"], found["bare 10"], found["bare-1K 10"]
    return [
        plain(1, "durable stages", "/s", ours), plain(1, "bare chain, links", "/s", bare),
        plain(1, "bare chain passing 1 KB, links", "/s", kilobyte),
        ratio(1, "durable over bare", ours, bare, at_least(2.7), due=at_least(1.5)),
        ratio(1, "durable over bare-1K", ours, kilobyte, at_least(3.5)),
        *_cpu(1, found, {"durable 10": "a durable stage", "bare 10": "a bare link"})]


def _cpu(row: int, found: Samples, named: Mapping[str, str]) -> list[Figure]:
    parts = {"the worker": WORKER, "database and broker": SERVICES}
    return [plain(row, f"CPU of {who}, {what}", "ms", found[probe + part])
            for who, part in parts.items() for probe, what in named.items()]


def _length(found: Samples) -> list[Figure]:
    return [
        plain(3, "durable, 100 stages a run", "/s", found["durable 100"]),
        ratio(3, "1,000 stages a run over 100", found["durable 1000"], found["durable 100"], at_least(0.9)),
        ratio(3, "10 stages a run over 100", found["durable 10"], found["durable 100"], at_least(0.6)),
        plain(3, "bare, 100 links a chain", "/s", found["bare 100"]),
        ratio(3, "bare: 1,000 links over 100", found["bare 1000"], found["bare 100"]),
        ratio(3, "durable over bare at 1,000", found["durable 1000"], found["bare 1000"])]


def _message(found: Samples) -> list[Figure]:
    ours = found["message 10"]
    return [
        plain(6, "durable, one message a stage", "/s", ours),
        ratio(6, "over bare-1K", ours, found["bare-1K 10"], at_least(1.0)),
        ratio(6, "over bare", ours, found["bare 10"], at_least(0.75)),
        *_cpu(6, found, {"message 10": "a durable stage with its message"})]


def _submission(found: Samples) -> list[Figure]:
    ours, bare = found["enqueue"], found["apply_async"]
    return [
        plain(7, "enqueue, runs", "/s", ours), plain(7, "apply_async of a bare chain of 10", "/s", bare),
        ratio(7, "enqueue over apply_async", ours, bare, at_least(1.0)),
        ratio(7, "enqueue over building the chain and apply_async", ours, found["build and apply"]),
        plain(7, "enqueue_many, runs", "/s", found["enqueue_many"], at_least(10_000)),
        plain(7, "one row of 1 KB inserted and committed", "/s", found["commit"]),
        plain(7, "CPU of the caller, enqueue", "ms", found["enqueue" + CALLER]),
        plain(7, "CPU of the caller, apply_async", "ms", found["apply_async" + CALLER])]


def _start(found: Samples) -> list[Figure]:
    return [
        plain(13, "import stageflow_durable", "s", found["import"], at_most(0.25)),
        plain(13, "stageflow --help", "s", found["help"], at_most(0.35)),
        plain(13, "from stageflow_durable import Engine", "s", found["import Engine"]),
        plain(13, "an interpreter that does nothing", "s", found["python"])]


ROWS: Mapping[int, Row] = {
    1: Row("throughput of runs of 10 stages", ("durable 10", "bare 10", "bare-1K 10"), _throughput),
    3: Row("length of runs", ("durable 10", "durable 100", "durable 1000", "bare 100", "bare 1000"), _length),
    6: Row("one message a stage", ("message 10", "bare 10", "bare-1K 10"), _message),
    7: Row("handing work in", ("enqueue", "apply_async", "build and apply", "enqueue_many", "commit"), _submission),
    13: Row("start of a process", ("import", "help", "import Engine", "python"), _start),
}


def probes_of(rows: Iterable[int]) -> list[str]:
    """What has to be measured for these rows, each once, in a fixed order."""
    wanted = {probe for row in rows for probe in ROWS[row].probes}
    return [name for name in PROBES if name in wanted]


def judge(rows: Iterable[int], found: Samples) -> list[Figure]:
    """The figures of these rows."""
    return [figure for row in rows for figure in ROWS[row].judge(found)]
