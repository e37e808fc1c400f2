"""The rows: which probes each needs, and what it makes of their samples. Numbers are those of the design's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tests.benchmarks.figures import Figure, Goal, Samples, at_least, at_most, plain, ratio
from tests.benchmarks.history import QUESTIONS, WAL
from tests.benchmarks.probes import (
    ASKED,
    BEFORE,
    CALLER,
    FRESH,
    LEASES,
    MEDIAN,
    MOST,
    P99,
    PROBES,
    QUERIES,
    SERVICES,
    SHARE,
    TABLES,
    TOGETHER,
    WORKER,
    lease_of,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    title: str
    probes: tuple[str, ...]
    judge: Callable[[Samples], list[Figure]]


def _throughput(found: Samples) -> list[Figure]:
    ours, bare, kilobyte = found["durable 10"], found["bare 10"], found["bare-1K 10"]
    return [
        plain(1, "durable stages", "/s", ours),
        plain(1, "bare chain, links", "/s", bare),
        plain(1, "bare chain passing 1 KB, links", "/s", kilobyte),
        ratio(1, "durable over bare", ours, bare, at_least(2.7), due=at_least(1.5)),
        ratio(1, "durable over bare-1K", ours, kilobyte, at_least(3.5)),
        *_cpu(1, found, {"durable 10": "a durable stage", "bare 10": "a bare link"}),
    ]


def _cpu(row: int, found: Samples, named: Mapping[str, str]) -> list[Figure]:
    parts = {"the worker": WORKER, "database and broker": SERVICES}
    return [
        plain(row, f"CPU of {who}, {what}", "ms", found[probe + part])
        for who, part in parts.items()
        for probe, what in named.items()
    ]


PEERS = {"dbos": ("DBOS", 5.0), "restate": ("Restate", 2.0), "temporal": ("Temporal's development server", 20.0)}
"""Names and how many times as fast we want to be; those that were not available have no samples."""


def _peers(found: Samples) -> list[Figure]:
    there = {probe: named for probe, named in PEERS.items() if f"{probe} 10" in found}
    rates = [plain(2, f"{name}, steps", "/s", found[f"{probe} 10"]) for probe, (name, _) in there.items()]
    ratios = [
        ratio(2, f"durable over {name}", found["durable 10"], found[f"{probe} 10"], at_least(goal))
        for probe, (name, goal) in there.items()
    ]
    spent = _cpu(2, found, {f"{probe} 10": f"a step of {name}" for probe, (name, _) in there.items()})
    return [plain(2, "durable stages", "/s", found["durable 10"]), *rates, *ratios, *spent]


def _limit(found: Samples) -> list[Figure]:
    return [
        *(plain(4, f"raw statements, {length} stages a run", "/s", found[f"raw {length}"]) for length in (100, 10)),
        ratio(4, "share of it, 100 stages a run", found["durable 100"], found["raw 100"], at_least(0.55)),
        ratio(4, "share of it, 10 stages a run", found["durable 10"], found["raw 10"], at_least(0.4)),
    ]


def _embedded(found: Samples) -> list[Figure]:
    bare = found["bare 10"]
    return [
        plain(5, "on SQLite, synchronous NORMAL", "/s", found["normal 10"]),
        plain(5, "on SQLite, synchronous FULL", "/s", found["full 10"]),
        ratio(5, "NORMAL over bare", found["normal 10"], bare, at_least(3.5)),
        ratio(5, "FULL over bare", found["full 10"], bare, at_least(2.5)),
        *_cpu(5, found, {"normal 10": "a stage with NORMAL", "full 10": "a stage with FULL"}),
    ]


def _length(found: Samples) -> list[Figure]:
    return [
        plain(3, "durable, 100 stages a run", "/s", found["durable 100"]),
        ratio(3, "1,000 stages a run over 100", found["durable 1000"], found["durable 100"], at_least(0.9)),
        ratio(3, "10 stages a run over 100", found["durable 10"], found["durable 100"], at_least(0.6)),
        plain(3, "bare, 100 links a chain", "/s", found["bare 100"]),
        ratio(3, "bare: 1,000 links over 100", found["bare 1000"], found["bare 100"]),
        ratio(3, "durable over bare at 1,000", found["durable 1000"], found["bare 1000"]),
    ]


def _message(found: Samples) -> list[Figure]:
    ours = found["message 10"]
    return [
        plain(6, "durable, one message a stage", "/s", ours),
        ratio(6, "over bare-1K", ours, found["bare-1K 10"], at_least(1.0)),
        ratio(6, "over bare", ours, found["bare 10"], at_least(0.75)),
        *_cpu(6, found, {"message 10": "a durable stage with its message"}),
    ]


def _submission(found: Samples) -> list[Figure]:
    ours, bare = found["enqueue"], found["apply_async"]
    return [
        plain(7, "enqueue, runs", "/s", ours),
        plain(7, "apply_async of a bare chain of 10", "/s", bare),
        ratio(7, "enqueue over apply_async", ours, bare, at_least(1.0)),
        ratio(7, "enqueue over building the chain and apply_async", ours, found["build and apply"]),
        plain(7, "enqueue_many, runs", "/s", found["enqueue_many"], at_least(10_000)),
        plain(7, "one row of 1 KB inserted and committed", "/s", found["commit"]),
        plain(7, "CPU of the caller, enqueue", "ms", found["enqueue" + CALLER]),
        plain(7, "CPU of the caller, apply_async", "ms", found["apply_async" + CALLER]),
    ]


def _checks(found: Samples) -> list[Figure]:
    alone = {"memory hit": "memory, known key", "memory miss": "memory, new key"}
    goals = {MEDIAN: at_most(20), P99: at_most(100)}
    memory = [
        plain(8, what + point, "µs", found[probe + point], goal)
        for probe, what in alone.items()
        for point, goal in goals.items()
    ]
    return memory + [figure for pair in _BESIDE for figure in _beside(found, *pair)]


_BESIDE = (
    ("redis hit", "Redis, known key", "redis bare", "a bare round trip", at_most(2)),
    ("redis miss", "Redis, new key", "redis bare", "a bare round trip", at_most(2)),
    ("sql hit", "SQL, known key", "sql bare hit", "a bare indexed read", at_most(2)),
    ("sql miss", "SQL, new key", "sql bare miss", "a bare insert with commit", at_most(1.5)),
)


def _beside(found: Samples, probe: str, what: str, bare: str, named: str, goal: Goal) -> list[Figure]:
    return [
        figure
        for point in (MEDIAN, P99)
        for figure in (
            plain(8, what + point, "µs", found[probe + point]),
            ratio(8, f"{what} over {named}{point}", found[probe + point], found[bare + point], goal),
        )
    ]


def _snapshots(found: Samples) -> list[Figure]:
    return [
        plain(9, "encode the 1 KB that a stage adds", "ms", found["encode"], at_most(0.05)),
        plain(9, "fold 20 outputs of 10 KB together", "ms", found["fold"], at_most(0.3)),
    ]


def _deaths(found: Samples) -> list[Figure]:
    named = {"child": ("a child", at_most(1.0))}
    named |= {lease_of(lease): (f"a whole worker, lease {lease} s", at_most(lease + 2.0)) for lease in LEASES}
    return [
        figure
        for probe, (what, goal) in named.items()
        for figure in (
            plain(10, f"SIGKILL of {what}, median", "s", found[probe]),
            plain(10, f"SIGKILL of {what}, 99 %", "s", found[probe + P99], goal),
            plain(10, f"SIGKILL of {what}, most", "s", found[probe + MOST]),
        )
    ]


def _scale(found: Samples) -> list[Figure]:
    return [
        plain(11, "finished runs in the way", "", found["finished"]),
        plain(11, "sweep, 10,000 live runs", "ms", found["sweep"]),
        plain(11, "sweep, with finished ones", "ms", found["sweep over finished"]),
        ratio(11, "with finished ones over without", found["sweep over finished"], found["sweep"], at_most(2.0)),
        *(plain(11, f"stageflow {what}, with finished ones", "ms", found[ASKED + what]) for what in QUESTIONS),
        plain(11, "prune, a batch of 500 runs of 10 stages", "ms", found["prune"]),
        plain(11, "what a run of 10 stages of 1 KB leaves", "B", found["growth"]),
        *(plain(11, f"of it in {table}", "B", found[f"growth {table}"]) for table in TABLES),
        plain(11, "what such a run writes to the write-ahead log", "B", found[f"growth {WAL}"]),
    ]


def _memory(found: Samples) -> list[Figure]:
    return [
        plain(12, "stages at the first reading", "", found["stages early"]),
        plain(12, "stages at the last reading", "", found["stages late"]),
        plain(12, "resident, at the first", "MB", found["resident early"]),
        plain(12, "resident, at the last", "MB", found["resident"]),
        ratio(12, "last over first", found["resident"], found["resident early"], at_most(1.05)),
    ]


def _start(found: Samples) -> list[Figure]:
    return [
        plain(13, "import stageflow_durable", "s", found["import"], at_most(0.25)),
        plain(13, "stageflow --help", "s", found["help"], at_most(0.35)),
        plain(13, "from stageflow_durable import Engine", "s", found["import Engine"]),
        plain(13, "an interpreter that does nothing", "s", found["python"]),
    ]


def _answers(found: Samples) -> list[Figure]:
    named = {"answer": "enqueue to result()", "bare answer": "a bare task or chain, to get()"}
    named |= {f"{peer} answer": f"{name}, start to result" for peer, (name, _) in PEERS.items()}
    counted = {1: "one stage", 10: "ten stages"}
    goals = {1: at_most(1.5), 10: at_most(0.6)}
    times = [
        plain(14, f"{what}, {stages}{point}", "ms", found[f"{probe} {length}{tail}"])
        for length, stages in counted.items()
        for probe, what in named.items()
        for tail, point in (("", ""), (P99, ", 99 %"))
        if f"{probe} {length}" in found
    ]
    over_bare = [
        ratio(
            14,
            f"over bare, {stages}{point}",
            found[f"answer {length}{tail}"],
            found[f"bare answer {length}{tail}"],
            goals[length],
        )
        for length, stages in counted.items()
        for tail, point in (("", ""), (P99, ", 99 %"))
    ]
    cpu = [
        plain(14, f"CPU of all who take part, {what}, {stages}", "ms", found[f"{probe} {length}{TOGETHER}"])
        for length, stages in counted.items()
        for probe, what in (("answer", "ours"), ("bare answer", "bare"))
    ]
    flush = [
        plain(14, "a flush to the disk", "ms", found["flush"]),
        plain(14, "a flush to the disk, 99 %", "ms", found["flush" + P99]),
    ]
    over_peers = [
        ratio(14, f"over {name}, {stages}", found[f"answer {length}"], found[f"{peer} answer {length}"], at_most(1.0))
        for length, stages in counted.items()
        for peer, (name, _) in PEERS.items()
        if f"{peer} answer {length}" in found
    ]
    return [*times, *over_bare, *over_peers, *cpu, *flush]


def _awaited(found: Samples) -> list[Figure]:
    return [
        plain(15, "from a run's end to its caller, median", "ms", found["awaited"]),
        plain(15, "99th percentile", "ms", found["awaited" + P99], at_most(50)),
        plain(15, "share of a core while nothing ends", "%", found["awaited" + SHARE], at_most(5)),
        plain(15, "queries while nothing ends", "/s", found["awaited" + QUERIES], at_most(20)),
    ]


def _late(found: Samples) -> list[Figure]:
    return [
        plain(16, "a retry or a sleep begins late by, median", "ms", found["late"]),
        plain(16, "99th percentile", "ms", found["late" + P99], at_most(250)),
        plain(16, "at the most", "ms", found["late" + MOST]),
    ]


def _drained(found: Samples) -> list[Figure]:
    before, after = found["drained" + BEFORE], found["drained"]
    return [
        plain(17, "runs of one stage, before every worker died", "/s", before),
        plain(17, "runs afterwards, the broker emptied", "/s", after),
        ratio(17, "afterwards over before", after, before, at_least(0.8)),
    ]


def _due(found: Samples) -> list[Figure]:
    fresh, due = found["due at once" + FRESH], found["due at once"]
    return [
        plain(18, "the last of the fresh runs begun, after", "s", fresh),
        plain(18, "the last of as many waits begun, late by", "s", due),
        ratio(18, "waits over fresh runs", due, fresh, at_most(1.2)),
    ]


def _listed(found: Samples) -> list[Figure]:
    return [plain(19, "stageflow cancel --dry-run by a filter", "s", found["dry run"], at_most(5.0))]


ROWS: Mapping[int, Row] = {
    1: Row("throughput of runs of 10 stages", ("durable 10", "bare 10", "bare-1K 10"), _throughput),
    2: Row("against other engines", ("durable 10", "dbos 10", "restate 10", "temporal 10"), _peers),
    3: Row("length of runs", ("durable 10", "durable 100", "durable 1000", "bare 100", "bare 1000"), _length),
    4: Row("share of the physical limit", ("durable 10", "raw 10", "durable 100", "raw 100"), _limit),
    5: Row("embedded", ("normal 10", "full 10", "bare 10"), _embedded),
    6: Row("one message a stage", ("message 10", "bare 10", "bare-1K 10"), _message),
    7: Row("handing work in", ("enqueue", "apply_async", "build and apply", "enqueue_many", "commit"), _submission),
    8: Row("idempotency checks", ("check in memory", "check in Redis", "check in SQL"), _checks),
    9: Row("state in Python", ("encode", "fold"), _snapshots),
    10: Row("from a death to the next call", ("child", "workers"), _deaths),
    11: Row("scale", ("sweep over finished", "growth"), _scale),
    12: Row("memory of a worker", ("resident",), _memory),
    13: Row("start of a process", ("import", "help", "import Engine", "python"), _start),
    14: Row(
        "from enqueue to the result, idle worker",
        (
            *(f"{who}answer {length}" for length in (1, 10) for who in ("", "bare ", "dbos ", "restate ", "temporal ")),
            "flush",
        ),
        _answers,
    ),
    15: Row("a thousand callers in aresult()", ("awaited",), _awaited),
    16: Row("waits due at random within a minute", ("late",), _late),
    17: Row("a backlog after every worker died", ("drained",), _drained),
    18: Row("waits due at one moment", ("due at once",), _due),
    19: Row("a verb by filter", ("dry run",), _listed),
}


def probes_of(rows: Iterable[int]) -> list[str]:
    """What has to be measured for these rows, each once, in a fixed order."""
    wanted = {probe for row in rows for probe in ROWS[row].probes}
    return [name for name in PROBES if name in wanted]


def judge(rows: Iterable[int], found: Samples) -> list[Figure]:
    """The figures of these rows."""
    return [figure for row in rows for figure in ROWS[row].judge(found)]
