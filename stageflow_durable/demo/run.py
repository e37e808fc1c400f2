"""``stageflow demo``: the whole of it, in the order in which it happens."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from stageflow_durable.clock import SystemClock
from stageflow_durable.demo.backstage import Backstage, backstage
from stageflow_durable.demo.chaos import plan_blows
from stageflow_durable.demo.drive import drive
from stageflow_durable.demo.evidence import Evidence, gather
from stageflow_durable.demo.intake import take_in
from stageflow_durable.demo.orders import Accepted, Order, Refused, example_lines, read_orders
from stageflow_durable.demo.progress import Progress, reporter, say
from stageflow_durable.demo.scene import LiveScene
from stageflow_durable.demo.shop import checkout
from stageflow_durable.demo.verdict import announce
from stageflow_durable.errors import ConfigurationError

CLIENT = "demo"
PATIENCE_SECONDS = 120.0
CLOCK = SystemClock()

Lines = Sequence[Accepted | Refused]


def run_demo(
    orders: int = 300, kills: int = 6, seed: int = 1, console: Console | None = None, home: Path | None = None
) -> int:
    """Run the first ``orders`` example orders against flaky services, with ``kills`` SIGKILLs on the way.

    ``seed`` decides faults and kills. ``home``: an empty directory to use and keep; None: a temporary one, kept only
    when the books do not agree. Returns the exit code: 0 when every accepted order was delivered exactly once or
    wholly undone and every other line was refused with a reason, else 1. Raises ConfigurationError when there are fewer
    orders, or when ``home`` is not empty.
    """
    screen = console or Console()
    lines = _read(orders)
    began = CLOCK.monotonic()
    with _sigterm_is_an_exit(), _directory(home) as place:
        say(screen, f"{len(lines)} lines of orders, {kills} kills to come, seed {seed}, in {escape(str(place))}")
        agrees = announce(screen, _perform(lines, kills, seed, screen, place))
        if agrees and home is None:
            shutil.rmtree(place)
    kept = f"; ledgers, database and logs are in {escape(str(place))}" if place.exists() else ""
    say(screen, f"{CLOCK.monotonic() - began:.0f} s in all{kept}")
    return 0 if agrees else 1


def _read(orders: int) -> Lines:
    try:
        return read_orders(example_lines(orders))
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


@contextmanager
def _directory(home: Path | None) -> Iterator[Path]:
    """``home``, which must be empty, or a temporary directory that an interrupted demo does not leave behind."""
    if home is not None:
        yield _empty(home)
        return
    place = Path(tempfile.mkdtemp(prefix="stageflow-demo-"))
    try:
        yield place
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(place)
        raise


def _empty(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    if any(home.iterdir()):
        raise ConfigurationError(f"{home} is not empty: the demo judges ledgers, and takes none but its own")
    return home.absolute()


def _perform(lines: Lines, kills: int, seed: int, screen: Console, place: Path) -> Evidence:
    with backstage(place, seed) as stage:
        intake = take_in(lines, _enqueue_on(stage))
        progress = _drive(stage, len(intake.accepted), kills, seed, screen)
        stage.stop_workers()
        return gather(stage, len(lines), intake, progress, kills)


def _enqueue_on(stage: Backstage) -> Callable[[Order, str], bool]:
    def enqueue(order: Order, key: str) -> bool:
        return stage.engine.enqueue(checkout, order, client_id=CLIENT, idempotency_key=key).replayed

    return enqueue


def _drive(stage: Backstage, total: int, kills: int, seed: int, screen: Console) -> Progress:
    scene = LiveScene(stage, random.Random(seed))  # noqa: S311  # chooses who is killed, no secret
    blows = plan_blows(kills, total, seed)
    with reporter(screen) as shown:
        return drive(scene, total, blows, shown, patience=PATIENCE_SECONDS, clock=CLOCK.monotonic, pause=CLOCK.sleep)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextmanager
def _sigterm_is_an_exit() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, through its clean-up; only a main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
