"""Which modules a reader opens to follow a stage.

Measured, not listed by hand: every function of the library that is called between the entry of ``enqueue`` and its
return, and between a message and the end of its task, on PostgreSQL and a real broker. The second path adds what finds
the work of a lost worker and carries it on. What only runs once a process (compiling statements, connecting) is called
before and does not count.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import redis

from stageflow_durable import Engine, Pipeline
from stageflow_durable.delivery.messages import read
from stageflow_durable.delivery.tasks import handle_message
from stageflow_durable.model.work import Claimant, Nudge, Work
from stageflow_durable.store.values import Identity
from tests.project.tree import PACKAGE


@dataclass
class ReadingPath:
    """The modules of a path, in the order in which they are first entered, and the lines they have."""

    modules: dict[str, int] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        """Of all modules together."""
        return sum(self.modules.values())

    def __str__(self) -> str:
        listed = "\n".join(f"  {lines:4} {name}" for name, lines in self.modules.items())
        return f"{len(self.modules)} modules, {self.lines:,} lines\n{listed}"

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Note each module of the library that is entered meanwhile, by this thread."""
        home = str(PACKAGE)

        def entered(frame: FrameType, event: str, _value: object) -> None:
            file = frame.f_code.co_filename
            if event == "call" and file.startswith(home) and frame.f_code.co_name != "<module>":
                name = Path(file).relative_to(PACKAGE).as_posix()
                if name not in self.modules:
                    self.modules[name] = len(Path(file).read_text(encoding="utf-8").splitlines())

        sys.setprofile(entered)
        try:
            yield
        finally:
            sys.setprofile(None)


def _body(_ctx: Any) -> dict[str, int]:
    return {"done": 1}


class Followed:
    """An engine in this process, whose messages are carried here."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        line: Pipeline[Any, Any] = Pipeline("followed").stage("a", _body, compensate=_body).stage("b", _body)
        self.engine = Engine("followed", [line], database_url=database_url, broker_url=broker_url)
        self._redis = redis.Redis.from_url(broker_url)
        self._process = self.engine._make_process()
        self._process._executor()  # this thread's owner; no pulses: they would sweep beside

    def enqueue(self) -> str:
        """A run, published."""
        return self.engine.enqueue("followed", {"n": 1}).run_id

    def carry(self) -> None:
        """Carry the next message, as a worker's child does."""
        queue, args = self._next()
        request = SimpleNamespace(chain=None, retries=0, delivery_info={"routing_key": queue})
        handle_message(SimpleNamespace(request=request), self._process, read(args, {}))

    def _next(self) -> tuple[str, list[Any]]:
        """The next message's queue, and what it says."""
        queue, raw = next(
            (key.decode(), raw.decode())
            for key in self._redis.scan_iter("*")
            if self._redis.type(key) == b"list" and isinstance(raw := self._redis.rpop(key), bytes)
        )
        args, _kwargs, _embedded = json.loads(base64.b64decode(json.loads(raw)["body"]))
        return queue, args

    def lose(self) -> None:
        """Another worker begins the next message, and is seen to end in the middle of it."""
        store, plan = self.engine.store, self.engine.pipelines["followed"].plan
        run_id, strand, gen, _mark = self._next()[1]
        owner = store.join(Identity("host", 1, "lost"), 10.0)
        begun = store.begin(Nudge(run_id, strand, gen, "q"), Claimant(owner, {plan.pipeline: plan}, {}))
        assert isinstance(begun, Work), begun
        assert store.mark_killed("lost", 1)

    def close(self) -> None:
        """Give back connections."""
        self._redis.close()
        self.engine.close()


def of_a_stage(followed: Followed) -> ReadingPath:
    """From ``enqueue`` to the commit of a run's stages."""
    path = ReadingPath()
    for warm in (True, False):
        with nullcontext() if warm else path.followed():
            followed.enqueue()
            followed.carry()
    return path


def of_lost_work(followed: Followed) -> ReadingPath:
    """The same with a worker that is lost on the way, from there to its successor."""
    path = ReadingPath()
    for warm in (True, False):
        with nullcontext() if warm else path.followed():
            followed.enqueue()
        followed.lose()
        with nullcontext() if warm else path.followed():
            followed.engine.sweep()
            followed.carry()
    return path
