"""What the live workers know and serve, and why a run finds none of them. Pure values.

A worker publishes its *profile* when it joins: engine, broker, queues and definitions. The *roster* is what all live
workers published. A run that no profile fits is reported with the reason and the way out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal, NamedTuple

LEGACY_QUEUE = "stageflow"
"""The default queue of every engine before queues carried the engine's name. Runs of then still name it."""

MissingKind = Literal["worker", "queue", "pipeline", "definition"]


class Known(NamedTuple):
    """A definition that a worker runs: the version that people gave it, and its digest."""

    version: str
    digest: str


@dataclass(frozen=True)
class Profile:
    """What one worker knows and serves. ``broker``: where it listens, without user and password; ``queues``: those it
    consumes; ``pipelines``: by name.
    """

    engine: str
    broker: str
    queues: tuple[str, ...]
    pipelines: Mapping[str, Known]

    @cached_property
    def encoded(self) -> str:
        """As it is stored: equal profiles have equal texts."""
        known = {name: list(self.pipelines[name]) for name in sorted(self.pipelines)}
        told = {"engine": self.engine, "broker": self.broker, "queues": sorted(self.queues), "pipelines": known}
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """A digest: thousands of processes with one profile share one row."""
        return sha256(self.encoded.encode()).hexdigest()[:32]

    @classmethod
    def decode(cls, text: str) -> Profile:
        """What :attr:`encoded` gave."""
        told = json.loads(text)
        known = {name: Known(*one) for name, one in told["pipelines"].items()}
        return cls(told["engine"], told["broker"], tuple(told["queues"]), known)

    def knows(self, definitions: Iterable[str]) -> bool:
        """Whether it runs one of these definitions."""
        return not self.digests.isdisjoint(definitions)

    @cached_property
    def digests(self) -> frozenset[str]:
        """Of all that it runs."""
        return frozenset(known.digest for known in self.pipelines.values())


class Need(NamedTuple):
    """What a strand needs of a worker. ``definitions``: digests of those that may carry its run: the one that it was
    enqueued with, and the newest of its pipeline.
    """

    pipeline: str
    version: str
    definitions: frozenset[str]
    queue: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Why no live worker carries a run: what is missing, in a sentence, and what to do: in words, and as a command."""

    kind: MissingKind
    message: str
    advice: str
    command: str

    @property
    def way_out(self) -> str:
        """Advice and command in one."""
        return f"{self.advice}: {self.command}"


NO_WORKER = Missing("worker", "no worker is alive", "start one", "stageflow worker")


@dataclass(frozen=True)
class Roster:
    """The profiles of all live workers. ``silent``: some live worker belongs to an older release, which publishes none:
    what it knows is unknown.
    """

    profiles: tuple[Profile, ...] = ()
    silent: bool = False

    def missing(self, need: Need) -> Missing | None:
        """Why no live worker can carry it; None: one can, or one may."""
        if self.silent:
            return None
        if not self.profiles:
            return NO_WORKER
        knowing = [profile for profile in self.profiles if profile.knows(need.definitions)]
        if not knowing:
            return self._unknown(need)
        if any(need.queue in profile.queues for profile in knowing):
            return None
        return self._unserved(need, knowing if need.queue in self.queues else [])

    def _unknown(self, need: Need) -> Missing:
        versions = {known.version for profile in self.profiles for known in self._of(profile, need.pipeline)}
        run = f"{need.pipeline} v{need.version}"
        if not versions:
            message = f"no live worker knows {run}; live workers know: {self.known}"
            return Missing("pipeline", message, f"start a worker whose Engine has {need.pipeline}", _WORKER)
        listed = ", ".join(f"v{version}" for version in sorted(versions))
        edited = need.version in versions
        said = f"{run} as this run was enqueued with it" if edited else run
        message = f"no live worker knows {said}; live workers know {need.pipeline} {listed}"
        advice = f"restart the workers with the code of {run}{' as it is now' if edited else ''}"
        return Missing("definition", message, advice, _WORKER)

    @staticmethod
    def _of(profile: Profile, pipeline: str) -> list[Known]:
        return [profile.pipelines[pipeline]] if pipeline in profile.pipelines else []

    def unserved(self, queue: str) -> Missing | None:
        """Why nothing takes what waits in a queue; None: a live worker serves it, or may."""
        if self.silent or not self.profiles or queue in self.queues:
            return None
        return _unserved(f"no live worker serves queue {queue}; {self.told_queues('live workers')}", queue)

    def _unserved(self, need: Need, knowing: list[Profile]) -> Missing:
        if not knowing:
            return self.unserved(need.queue) or NO_WORKER
        others = Roster(tuple(knowing)).told_queues(f"the workers that know {need.pipeline}")
        message = f"no live worker that knows {need.pipeline} serves queue {need.queue}; {others}"
        return _unserved(message, need.queue)

    def told_queues(self, who: str) -> str:
        """Which queues they serve, for a message."""
        return f"{who} serve: {', '.join(sorted(self.queues)) or 'none'}"

    @cached_property
    def known(self) -> str:
        """The pipelines that live workers know, for a message: ``checkout v1, refund v2``."""
        found = {f"{name} v{known.version}" for one in self.profiles for name, known in one.pipelines.items()}
        return ", ".join(sorted(found)) or "none"

    @cached_property
    def brokers(self) -> frozenset[str]:
        """Where live workers listen."""
        return frozenset(profile.broker for profile in self.profiles)

    @cached_property
    def queues(self) -> frozenset[str]:
        """The queues that live workers serve."""
        return frozenset(queue for profile in self.profiles for queue in profile.queues)

    @cached_property
    def digests(self) -> frozenset[str]:
        """The definitions that live workers know."""
        return frozenset().union(*(profile.digests for profile in self.profiles))

    def engines_on(self, queue: str) -> tuple[str, ...]:
        """The engines whose live workers serve a queue."""
        return tuple(sorted({profile.engine for profile in self.profiles if queue in profile.queues}))

    def speaks_for(self, broker: str, queue: str, definitions: frozenset[str] | None = None) -> bool:
        """Whether who publishes to ``broker`` should publish to this queue (a run of one of these definitions): a
        worker there takes it, or none anywhere. What only workers of another broker take would wait here for ever.
        """
        able = [
            profile
            for profile in self.profiles
            if queue in profile.queues and (definitions is None or profile.knows(definitions))
        ]
        return self.silent or not able or any(profile.broker == broker for profile in able)

    def carried_elsewhere(self, broker: str, queue: str) -> frozenset[str]:
        """Definitions that only workers of other brokers run from this queue: theirs to publish."""
        if self.silent or len(self.brokers) < 2:
            return frozenset()
        serving = [profile for profile in self.profiles if queue in profile.queues]
        here = [profile.digests for profile in serving if profile.broker == broker]
        there = [profile.digests for profile in serving if profile.broker != broker]
        return frozenset().union(*there) - frozenset().union(*here)


_WORKER = "stageflow --app MODULE:ENGINE worker"


def _unserved(message: str, queue: str) -> Missing:
    return Missing("queue", message, "start a worker that serves it", f"stageflow worker -Q {queue}")
