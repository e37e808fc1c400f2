"""``stageflow top``: workers, queues, rates and waits, once or as they go."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.output import Column, console, laid_out, print_json, print_lines
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.times import Seconds
from stageflow_durable.cli.words import SHORT_ID, STATUS_STYLE, age, counted
from stageflow_durable.errors import Retryable
from stageflow_durable.legible import for_people, legible
from stageflow_durable.model.status import RunStatus

if TYPE_CHECKING:
    from datetime import datetime

    from rich.text import Text

    from stageflow_durable.model.overview import Overview, QueueView, Rate
    from stageflow_durable.model.run import WorkerView

SLOW = timedelta(seconds=30)
"""A message that has waited for longer is late."""


@click.command(short_help="Workers, queues, rates and waits, as they go.")
@click.option(
    "--every", type=Seconds(0.5), default=2.0, show_default=True, metavar="SECONDS", help="How often it looks."
)
@click.option("--once", is_flag=True, help="Look once; so it does where the output is no terminal, and with --json.")
@json_option
@app_option
@click.pass_context
def top(ctx: click.Context, every: float, once: bool, as_json: bool) -> None:
    """Who is alive and runs what, how many runs wait and for what, which queue is late, what began lately.

    It asks a few questions of the database, each of a bounded number of rows. Ctrl-C ends it. With --app it asks the
    broker as well how many messages wait.
    """
    session = Session.of(ctx)
    operations = session.operations()
    if as_json:
        print_json(operations.overview())
        return
    out = console()
    if once or not out.is_terminal:
        print_lines(drawn(for_people(operations.overview()), out.width))
        return
    _live(session, every)


def _live(session: Session, every: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    operations, pause = session.operations(), threading.Event()
    lines: list[Text] = []
    with Live(console=console(), auto_refresh=False, screen=True) as live:
        while True:
            size = live.console.size
            try:
                lines, away = drawn(for_people(operations.overview()), size.width), None
            except Retryable as error:  # it comes back; what was seen last stays
                away = Text(f"the database does not answer: {legible(str(error))}"[: size.width], "bold red")
            shown = [*([away] if away else []), *lines]
            for line in shown:
                line.truncate(size.width, overflow="ellipsis")
            live.update(Group(*_cut(shown, size.height)), refresh=True)
            pause.wait(every)


def _cut(lines: Sequence[Text], height: int) -> Sequence[Text]:
    """What fits, and how many lines do not."""
    from rich.text import Text

    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], Text(f"… {len(lines) - height + 1} more lines (--once prints all)", "dim")]


# --- the picture ----------------------------------------------------------------------------------------------------


def drawn(seen: Overview, width: int) -> list[Text]:
    """The whole picture, line by line, for a terminal of ``width`` columns."""
    return [*_head(seen), *_queues(seen, width), *_rates(seen, width), *_waits(seen, width), *_workers(seen, width)]


def _head(seen: Overview) -> Iterator[Text]:
    from rich.text import Text

    alive = [worker for worker in seen.workers if worker.alive]
    busy = sum(bool(worker.running) for worker in alive)
    line = Text(f"{seen.at:%H:%M:%S} UTC  ")
    line.append(f"{counted(len(alive), 'worker process')}" if len(alive) == 1 else f"{len(alive)} worker processes")
    line.append(f", {busy} busy", "" if alive else "bold red")
    if silent := len(seen.workers) - len(alive):
        line.append(f", {silent} silent", "yellow")
    yield line
    runs = Text("runs: ")
    told = [(status, number) for status, number in seen.counts.items() if number]
    for position, (status, number) in enumerate(told):
        more = "+" if number >= seen.most else ""
        runs.append("  " if position else "").append(f"{number}{more} {status.replace('_', ' ')}", STATUS_STYLE[status])
    yield runs if told else runs.append("none is under way, none needs a person", "dim")


def _titled(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int) -> Iterator[Text]:
    from rich.text import Text

    if rows:
        yield Text("")
        yield from laid_out(columns, rows, width)


_QUEUES = (
    Column("QUEUE", flexible=True),
    Column("WORKERS", right=True),
    Column("BUSY", right=True),
    Column("READY", right=True),
    Column("OLDEST", right=True),
    Column("IN BROKER", right=True),
)


def _queues(seen: Overview, width: int) -> Iterator[Text]:
    return _titled(_QUEUES, [_queue(queue, seen.at) for queue in seen.queues], width)


def _queue(queue: QueueView, now: datetime) -> tuple[str | Text, ...]:
    from rich.text import Text

    late = queue.oldest is not None and now - queue.oldest > SLOW
    return (
        queue.name,
        Text(str(queue.workers), "" if queue.workers or not queue.ready else "bold red"),
        str(queue.busy),
        str(queue.ready),
        Text("" if queue.oldest is None else age(queue.oldest, now), "bold yellow" if late else ""),
        "?" if queue.depth is None else str(queue.depth),
    )


_RATES = (
    Column("PIPELINE", flexible=True),
    Column("BEGUN/MIN", right=True),
    Column("GOING", right=True),
    Column("SUCCEEDED", right=True),
    Column("FAILED", right=True),
    Column("PARKED", right=True),
    Column("UNDONE", right=True),
)


def _rates(seen: Overview, width: int) -> Iterator[Text]:
    yield from _titled(_RATES, [_rate(rate, seen) for rate in seen.rates], width)


def _rate(rate: Rate, seen: Overview) -> tuple[str | Text, ...]:
    from rich.text import Text

    of = rate.statuses
    failed = of.get(RunStatus.FAILED, 0) + of.get(RunStatus.COMPENSATION_FAILED, 0)
    parked = of.get(RunStatus.PARKED, 0)
    more = "+" if "rates" in seen.partial else ""
    return (
        rate.pipeline,
        f"{rate.begun / (seen.lately / 60):.3g}{more}",
        str(rate.going),
        str(of.get(RunStatus.SUCCEEDED, 0)),
        Text(str(failed), "bold red" if failed else ""),
        Text(str(parked), "bold yellow" if parked else ""),
        str(of.get(RunStatus.COMPENSATED, 0)),
    )


_WAITS = (Column("WAITS FOR"), Column("RUNS", right=True), Column("SINCE", right=True))


def _waits(seen: Overview, width: int) -> Iterator[Text]:
    from rich.text import Text

    rows = [(wait.kind, str(wait.runs), "" if wait.since is None else age(wait.since, seen.at)) for wait in seen.waits]
    yield from _titled(_WAITS, rows, width)
    if "waits" in seen.partial:
        yield Text(f"of the {seen.looked_at} newest that wait", "dim")


_WORKERS = (Column("HOST", flexible=True), Column("PID", right=True), Column("STATE"), Column("RUNS"))


def _workers(seen: Overview, width: int) -> Iterator[Text]:
    busy_first = sorted(seen.workers, key=lambda worker: (not worker.running, worker.host, worker.pid))
    return _titled(_WORKERS, [_worker(worker, seen.at) for worker in busy_first], width)


def _worker(worker: WorkerView, now: datetime) -> tuple[str | Text, ...]:
    from rich.text import Text

    places = [place.partition("/") for place in worker.running]
    state = Text("alive", "green") if worker.alive else Text(f"silent for {age(worker.expires_at, now)}", "yellow")
    running = ", ".join(f"{stage} of {run_id[:SHORT_ID]}" for run_id, _slash, stage in places)
    return worker.host, str(worker.pid), state, running
