"""What is measured: each probe gives samples by name, once a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

from tests.benchmarks import answers, snapshots, start
from tests.benchmarks.bench import Bench
from tests.benchmarks.checks import share_of
from tests.benchmarks.history import WAL
from tests.benchmarks.peer import Peer
from tests.benchmarks.sides import Side
from tests.benchmarks.submission import Handed, Submissions
from tests.benchmarks.volume import Volume

Probe = Callable[[str, Bench, Volume], dict[str, float]]
"""One measurement: samples by name, from the probe's own name and how much is to be done."""

WORKER, SERVICES, CALLER = " worker ms", " services ms", " caller ms"
"""What follows a probe's name in those of its CPU times."""

TOGETHER = " cpu ms"
"""The same, of all who take part."""

ASKED = "ask "
"""What precedes a question in its probe's name."""

MEDIAN, P99, MOST = " p50", " p99", " max"
"""What follows a probe's name in those of its distribution."""

LEASES = (2, 5, 10)
TABLES = ("runs", "strands", "attempts", "checkpoints", "events")
SWEEPS, PRUNED = 51, 10
"""Sweeps of each side, in turn; batches."""

DRAINED, DUE, LISTED = 40_000, 6000, 50_000
"""Runs that wait at once: when every worker dies, for one moment, and for a person's command."""

BEFORE, FRESH = " before", " fresh"
"""What follows a probe's name in what it is compared with."""
WAITS, WITHIN = 600, 60.0
"""Waits that are due at random within so many seconds."""

ANSWERS, PEER_ANSWERS, CALLERS = 200, 50, 1000
"""Answers that one caller waits for, one after the other; callers that wait in one process."""

SHARE, QUERIES = " share", " queries"
"""What follows a probe's name in what waiting costs."""

FEWER_STAGES = 10
"""By what the first reading of memory comes before the last."""


def _pace(side: Callable[[Bench], Side], length: int, lines: int) -> Probe:
    def probe(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
        pace = side(bench).pace(length, volume.some(lines))
        return {name: pace.rate, name + WORKER: pace.worker_ms, name + SERVICES: pace.services_ms}

    return probe


def _handed(submit: Callable[[Submissions, int], Handed], count: int) -> Probe:
    def probe(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
        handed = submit(bench.submissions, volume.some(count))
        return {name: handed.rate, name + CALLER: handed.cpu_ms}

    return probe


def _start_of(command: Sequence[str]) -> Probe:
    return lambda name, bench, volume: {name: start.seconds(command)}


def _raw(length: int, lines: int) -> Probe:
    return lambda name, bench, volume: {name: bench.limit.rate(length, volume.some(lines))}


def _check(store: str, times: int) -> Probe:
    def probe(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
        found = bench.checks.of(store, volume.some(times))
        points = {
            f"{store} {call}{point}": value
            for call, both in found.items()
            for point, value in zip((MEDIAN, P99), both, strict=True)
        }
        return {name: found["hit"][0], **points}

    return probe


def _python(measure: Callable[[int], float], times: int) -> Probe:
    return lambda name, bench, volume: {name: measure(volume.some(times))}


def _children(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    with bench.deaths(10) as deaths:
        return _spread(name, [deaths.of_child() for _ in range(volume.kills)])


def _workers(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    """All leases at once: most of it is waiting."""
    with ExitStack() as stack:
        all_deaths = [stack.enter_context(bench.deaths(lease, number)) for number, lease in enumerate(LEASES)]
        pool = stack.enter_context(ThreadPoolExecutor(len(LEASES)))
        took = pool.map(lambda deaths: [deaths.of_worker() for _ in range(volume.kills)], all_deaths)
        by_lease = dict(zip(LEASES, took, strict=True))
    spreads = [_spread(lease_of(lease), seconds) for lease, seconds in by_lease.items()]
    return {name: median(by_lease[LEASES[-1]])} | {key: value for spread in spreads for key, value in spread.items()}


def lease_of(lease: int) -> str:
    """What is measured of workers with that lease."""
    return f"worker, lease {lease}"


def _spread(name: str, took: Sequence[float]) -> dict[str, float]:
    return {name: share_of(took, 0.5), name + P99: share_of(took, 0.99), name + MOST: max(took)}


def _past(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    young, old = bench.histories(volume.some(volume.finished))
    swept = [(young.sweep_s(), old.sweep_s()) for _ in range(SWEEPS)]
    before, after = (1000 * median(side) for side in zip(*swept, strict=True))
    asked = {ASKED + what: took for what, took in old.ask_ms().items()}
    return {name: after, "sweep": before, "finished": old.finished(), **asked, "prune": old.prune_ms(PRUNED)}


def _late(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    late = [1000 * seconds for seconds in bench.durable.late_s(volume.some(WAITS), WITHIN)]
    return _spread(name, late)


def _answered(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    length = int(name.rsplit(maxsplit=1)[-1])
    return _answers(name, answers.durable(bench.durable, length, volume.some(ANSWERS)))


def _bare_answered(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    length = int(name.rsplit(maxsplit=1)[-1])
    return _answers(name, bench.answered.answers(length, volume.some(ANSWERS)))


def _answers(name: str, found: answers.Answers) -> dict[str, float]:
    return {**_spread(name, found.waited_ms), name + TOGETHER: found.cpu_ms}


def _flushed(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    return _spread(name, answers.flush_ms(bench.postgres.directory, volume.some(ANSWERS)))


def _peer_answered(peer: Callable[[Bench], Peer]) -> Probe:
    def probe(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
        length = int(name.rsplit(maxsplit=1)[-1])
        return _spread(name, peer(bench).waited_ms(length, volume.some(PEER_ANSWERS)))

    return probe


def _awaited(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    waited = answers.many(bench.durable, CALLERS)  # fewer would be another question
    return {**_spread(name, waited.late_ms), name + SHARE: 100 * waited.share, name + QUERIES: waited.queries}


def _growth(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    by_table = bench.durable.growth(10, volume.some(400))
    return {
        name: sum(size for table, size in by_table.items() if table != WAL),
        **{f"{name} {part}": by_table[part] for part in (*TABLES, WAL)},
    }


def _memory(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    most = volume.some(volume.stages) // 1000 * 1000
    first = _resident_after(bench, most // FEWER_STAGES)
    last = _resident_after(bench, most - most // FEWER_STAGES)
    return {name: last, "resident early": first, "stages early": most // FEWER_STAGES, "stages late": most}


def _drained(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    with bench.backlog() as backlog:
        rates = backlog.drain(volume.some(DRAINED))
    return {name: rates.after, name + BEFORE: rates.before}


def _due_at_once(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    with bench.backlog() as backlog:
        late = backlog.wait(volume.some(DUE))
    return {name: late.due, name + FRESH: late.fresh}


def _dry_run(name: str, bench: Bench, volume: Volume) -> dict[str, float]:
    with bench.backlog() as backlog:
        return {name: backlog.dry_run_s(volume.some(LISTED))}


def _resident_after(bench: Bench, stages: int) -> float:
    for _ in range(max(1, stages // 5000)):
        bench.memory.pace(100, min(stages, 5000) // 100)
    return bench.memory.resident_mb()


PROBES: Mapping[str, Probe] = {
    "durable 10": _pace(lambda bench: bench.durable, 10, 150),
    "bare 10": _pace(lambda bench: bench.bare.passing("number"), 10, 100),
    "bare-1K 10": _pace(lambda bench: bench.bare.passing("kilobyte"), 10, 100),
    "dbos 10": _pace(lambda bench: bench.dbos, 10, 100),
    "restate 10": _pace(lambda bench: bench.restate, 10, 100),
    "temporal 10": _pace(lambda bench: bench.temporal, 10, 20),
    "message 10": _pace(lambda bench: bench.message, 10, 80),
    "raw 10": _raw(10, 300),
    "normal 10": _pace(lambda bench: bench.normal, 10, 150),
    "full 10": _pace(lambda bench: bench.full, 10, 100),
    "durable 100": _pace(lambda bench: bench.durable, 100, 40),
    "raw 100": _raw(100, 30),
    "durable 1000": _pace(lambda bench: bench.durable, 1000, 6),
    "bare 100": _pace(lambda bench: bench.bare.passing("number"), 100, 10),
    "bare 1000": _pace(lambda bench: bench.bare.passing("number"), 1000, 2),
    "enqueue": _handed(Submissions.enqueue, 300),
    "apply_async": _handed(Submissions.apply_async, 300),
    "build and apply": _handed(Submissions.build_and_apply, 300),
    "commit": _handed(Submissions.commit, 300),
    "enqueue_many": _handed(Submissions.enqueue_many, 4),
    "check in memory": _check("memory", 5000),
    "check in Redis": _check("redis", 2000),
    "check in SQL": _check("sql", 1000),
    "encode": _python(snapshots.encode_ms, 10_000),
    "fold": _python(snapshots.fold_ms, 1000),
    "child": _children,
    "workers": _workers,
    "sweep over finished": _past,
    "growth": _growth,
    "late": _late,
    "answer 1": _answered,
    "answer 10": _answered,
    "bare answer 1": _bare_answered,
    "bare answer 10": _bare_answered,
    "flush": _flushed,
    "dbos answer 1": _peer_answered(lambda bench: bench.dbos),
    "dbos answer 10": _peer_answered(lambda bench: bench.dbos),
    "restate answer 1": _peer_answered(lambda bench: bench.restate),
    "restate answer 10": _peer_answered(lambda bench: bench.restate),
    "temporal answer 1": _peer_answered(lambda bench: bench.temporal),
    "temporal answer 10": _peer_answered(lambda bench: bench.temporal),
    "awaited": _awaited,
    "resident": _memory,
    "drained": _drained,
    "due at once": _due_at_once,
    "dry run": _dry_run,
    "import": _start_of(start.IMPORT),
    "import Engine": _start_of(start.IMPORT_ENGINE),
    "help": _start_of(start.HELP),
    "python": _start_of(start.NOTHING),
}

ONCE = frozenset(
    {
        "awaited",
        "child",
        "workers",
        "sweep over finished",
        "growth",
        "resident",
        "late",
        "drained",
        "due at once",
        "dry run",
    }
)
"""What is measured in the first round only: it is long, or it is a distribution of its own."""
