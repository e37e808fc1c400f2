"""The remote side: what really happened, by idempotency key. The engine cannot see it, and it judges the engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stageflow_durable.engine.process_end import ProcessEnds


class Violation(ProcessEnds):
    """A promise was broken. Bodies raise it too: an end of the process, so that the engine does not take it for the
    outcome of a stage.
    """


@dataclass(slots=True)
class Effect:
    """One effect by its key. ``net``: whether it stands now. ``refused``: calls that came after it was undone."""

    run: str
    stage: str
    net: int = 0
    calls: int = 0
    refused: int = 0
    undone: bool = False
    refuse_before: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Request:
    """What a process had sent when it died; it arrives at ``due``."""

    due: float
    run: str
    stage: str
    key: str
    since: float


class Ledger:
    """Applies each key once, undoes it once, and refuses what comes after that (a tombstone)."""

    def __init__(self) -> None:
        self.effects: dict[str, Effect] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.undo_keys: dict[tuple[str, str], str] = {}
        self.undos: dict[str, int] = {}

    def stands(self, run: str, stage: str) -> bool:
        """Whether the effect of a stage is there."""
        key = self.keys.get((run, stage))
        return key is not None and key in self.effects and bool(self.effects[key].net)

    def act(self, run: str, stage: str, key: str, since: float) -> bool:
        """The action, called by a body that began at ``since``; whether it was not refused."""
        known = self.keys.setdefault((run, stage), key)
        if known != key:
            raise Violation(f"stage {stage} acted under two keys: {known} and {key}")
        effect = self.effects.setdefault(key, Effect(run, stage))
        if (effect.run, effect.stage) != (run, stage):
            raise Violation(f"key {key} is that of {effect.stage} and of {stage}")
        effect.calls += 1
        if effect.undone or since < effect.refuse_before:
            effect.refused += 1
            return False
        effect.net = 1
        return True

    def undo(self, run: str, stage: str, action_key: str, key: str) -> None:
        """The undo: tolerates "never happened", and makes it so for good."""
        known = self.undo_keys.setdefault((run, stage), key)
        if known != key:
            raise Violation(f"the undo of {stage} acted under two keys: {known} and {key}")
        effect = self.effects.setdefault(action_key, Effect(run, stage))
        if (effect.run, effect.stage) != (run, stage):
            raise Violation(f"the undo of {stage} was told the key of {effect.stage}")
        self.keys.setdefault((run, stage), action_key)
        self.undos[key] = self.undos.get(key, 0) + 1
        effect.net, effect.undone = 0, True

    def found_not_done(self, run: str, stage: str, now: float) -> None:
        """A person found out that it was not done, and sees to it that it stays so: older calls are refused."""
        key = self.keys.get((run, stage))
        if key is not None:
            self.effects.setdefault(key, Effect(run, stage)).refuse_before = now

    def standing(self, run: str, stages: Collection[str]) -> list[str]:
        """Those of the stages whose effect stands."""
        return [stage for stage in stages if self.stands(run, stage)]


def named(stage: str, item: int) -> str:
    """How the ledger names a stage, or one of its items."""
    return f"{stage}#{item}" if item else stage
