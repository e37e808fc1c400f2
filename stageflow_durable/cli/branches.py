"""Where the stages of a run stand in its picture: branches below the stage where they part. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from stageflow_durable.model.run import StageView


@dataclass(frozen=True, slots=True)
class Guides:
    """The lines of the tree: in front of a stage, of the last one, and of what is said below them."""

    stage: str = "├─ "
    last: str = "└─ "
    below: str = "│  "
    below_last: str = "   "


ASCII = Guides("|- ", "`- ", "|  ", "   ")


@dataclass(frozen=True, slots=True)
class Placed:
    """A stage with the guide in front of it, and the one in front of what is said below it. ``note``: what it comes
    after, where the picture does not show that.
    """

    stage: StageView
    guide: str
    below: str
    note: str


MOST_NESTED = 8
"""Branches inside branches that are drawn as such; deeper ones stand below one another."""

_Branch = tuple[str, ...]
"""The stages with which the branches begin that lead to a place, from the outermost on; empty: on the trunk."""


def placed(stages: Sequence[StageView], guides: Guides) -> list[Placed]:
    """The stages from top to bottom. What parts from the rest stands below the stage where it does, a branch with one
    mark at its first stage; where branches meet, the picture goes on in front of them.
    """
    parts = Counter(name for stage in stages for name in stage.after or ("",))
    of: dict[str, _Branch] = {}
    for stage in stages:  # they come in the order of the graph
        before = [of.get(name, ()) for name in stage.after] or [()]
        inside = _common(before)
        first = len(before) == 1 and parts[next(iter(stage.after), "")] > 1 and len(inside) < MOST_NESTED
        of[stage.name] = (*inside, stage.name) if first else inside
    strands: dict[_Branch, list[StageView]] = {}
    for stage in stages:
        strands.setdefault(of[stage.name], []).append(stage)
    return [*_Picture(strands, guides).trunk()]


def _common(branches: Sequence[_Branch]) -> _Branch:
    side_by_side = zip(*branches, strict=False)
    return tuple(names[0] for names in takewhile(lambda names: len(set(names)) == 1, side_by_side))


class _Picture:
    def __init__(self, strands: dict[_Branch, list[StageView]], guides: Guides) -> None:
        self._strands = strands
        self._guides = guides
        self._begun: dict[tuple[_Branch, str], list[_Branch]] = {}
        for branch, (head, *_rest) in strands.items():
            if branch:
                self._begun.setdefault((branch[:-1], next(iter(head.after), "")), []).append(branch)

    def trunk(self) -> Iterator[Placed]:
        along = self._strands.get((), [])
        yield from self._parted("", (), "", more=bool(along))  # several that begin at the start
        for number, stage in enumerate(along):
            last = number == len(along) - 1
            below = self._guides.below_last if last else self._guides.below
            before = along[number - 1].name if number else None
            yield Placed(stage, self._guides.last if last else self._guides.stage, below, _note(stage, before))
            yield from self._parted(stage.name, (), below)

    def _parted(self, where: str, branch: _Branch, indent: str, *, more: bool = False) -> Iterator[Placed]:
        """The branches that begin behind the stage ``where``; ``more``: something follows in front of them."""
        begun = self._begun.get((branch, where), [])
        for inside in begun:
            last = inside == begun[-1] and not more
            below = indent + (self._guides.below_last if last else self._guides.below)
            guide, before = indent + (self._guides.last if last else self._guides.stage), where
            for stage in self._strands[inside]:
                yield Placed(stage, guide, below, _note(stage, before))
                yield from self._parted(stage.name, inside, below)
                guide, before = below, stage.name


def _note(stage: StageView, before: str | None) -> str:
    shown = not stage.after or stage.after == (before,)
    return "" if shown else f"after {', '.join(stage.after)}"
