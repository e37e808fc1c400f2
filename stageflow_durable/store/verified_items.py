"""Checking the items of a run: each has a chain of its own, which begins at the run's event that opened it, and rows
for which that chain vouches; what the groups count is counted again. Pure functions over rows that a store has read.

An item that was put back to an earlier event shows once its stage is joined: the event of the join names the sum of the
codes of all events by which items ended.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stageflow_durable.model.status import Phase, StepState, StrandState
from stageflow_durable.store.audit import NOTHING, sum_of_codes
from stageflow_durable.store.chains import beyond, chain, end
from stageflow_durable.store.of_items import DIGEST, JOINED
from stageflow_durable.store.testimony import Keys, Row, Rows, Testimony, of_parts, of_strands
from stageflow_durable.store.verification import OfItems
from stageflow_durable.store.vouched import inputs_text
from stageflow_durable.transitions.draft import undo_strand
from stageflow_durable.transitions.groups import group_of

_ENDS = frozenset({"stage.ok", "stage.skipped"})
_UNDO_ENDS = frozenset({"work.compensation_executed", "work.compensation_failed"})


class Parts(NamedTuple):
    """The rows of one item."""

    events: Sequence[Row]
    attempts: Sequence[Row]
    checkpoints: Sequence[Row]
    steps: Sequence[Row]
    strands: Sequence[Row]
    calls: Sequence[Row] = ()


class _Opened(NamedTuple):
    """What the run's history says of a stage's items."""

    stage: str
    first: int
    items: int
    groups: int
    code: str
    at: float


@dataclass(slots=True)
class _Counted:
    """A group, counted again."""

    total: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    digest: str = NOTHING


def inputs(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What was given to the items of each stage, as the text of which their opening has a code. ``given``: the stage of
    each item and its input, in the order of their numbers.
    """
    found: dict[str, list[str]] = {}
    for stage, text in given:
        found.setdefault(stage, []).append(text)
    return {stage: inputs_text(texts) for stage, texts in found.items()}


def _opened(history: Sequence[Row]) -> Iterator[_Opened]:
    for event in history:
        if event["type"] == "stage.opened":
            told = json.loads(event["data"])
            about = (told["stage"], told["first"], told["items"], told["groups"])
            yield _Opened(*about, event["mac"], event["at"])


def checker_of(seen: Rows, keys: Keys) -> Checker | None:
    """Who checks the items of a run; None: it has none, or its own chain is broken. Then that is what is wrong, and
    nothing that the run says of its items can be believed, or even read.
    """
    return None if not seen.run["item_count"] or any(chain(seen.events, keys)) else Checker(seen, keys)


class Checker:
    """Checks one item after another, and counts them."""

    def __init__(self, seen: Rows, keys: Keys) -> None:
        self.found = OfItems()
        self.counted: dict[tuple[str, int], _Counted] = {}
        self._seen, self._keys = seen, keys
        self._opened = list(_opened(seen.events))
        self._of_run = Testimony.of(seen.events)

    def check(self, number: int, row: Row | None, parts: Parts) -> None:
        """Check one item. ``row``: its own, or None if there is none."""
        self.found.events += len(parts.events)
        its = next((one for one in self._opened if one.first <= number < one.first + one.items), None)
        if its is None:
            problems = ["no event opened it"]
        elif row is None:
            problems = ["its row is missing"]
        else:
            problems = [*_of_row(number, row, its, parts.events), *_of_strands(its.stage, parts.strands)]
            problems += chain(parts.events, self._keys, its.code, number)
            if any(self._keys) and not problems:
                problems = [*self._vouched_for(number, parts)]
            self._count(group_of(number, its.first, its.groups), parts)
        self.found.problems += [f"item {number}: {problem}" for problem in dict.fromkeys(problems)]

    def finish(self, groups: Iterable[Row], beyond_last: Mapping[str, int]) -> OfItems:
        """What was found, with what is wrong beside the items. ``groups``: the rows of the run's groups;
        ``beyond_last``: how many rows there are, by table, of items that the run has not got.
        """
        strange = ((count, table) for table, count in beyond_last.items() if count)
        self.found.problems += [
            f"{count} rows of {table} are of items that the run has not got" for count, table in strange
        ]
        self.found.problems += _groups(groups, self._seen, self.counted)
        return self.found

    def _vouched_for(self, number: int, parts: Parts) -> Iterator[str]:
        heard = Testimony.of(parts.events)
        if not heard.complete:
            self.found.vouched = False
            return
        for name, columns in self._of_run.of_items.items():
            if name in heard.rows and name.partition(" ")[0].endswith(f"#{number}"):
                heard.rows[name].update(columns)
        rows = Rows(self._seen.run, self._seen.plan, (), *parts)
        yield from of_parts(self._keys, rows, heard)
        yield from of_strands(rows, heard)

    def _count(self, grp: int, parts: Parts) -> None:
        step = next((row["state"] for row in parts.steps), None)
        for line in parts.strands:
            group = self.counted.setdefault((line["strand"], grp), _Counted())
            forward, over = line["direction"] == Phase.FORWARD, line["state"] == StrandState.DONE
            done = over and (bool(parts.checkpoints) if forward else step == StepState.COMPENSATED)
            group.total += 1
            group.running += line["state"] == StrandState.RUNNING
            group.done += done
            group.failed += over and not done
            ends = [row["mac"] for row in parts.events if row["type"] in (_ENDS if forward else _UNDO_ENDS)]
            if forward and over and not ends:  # its stage collects failures
                ends = [row["mac"] for row in parts.events if row["type"] == "stage.failed"][-1:]
            group.digest = sum_of_codes((group.digest, *ends))


def _of_row(number: int, row: Row, its: _Opened, history: Sequence[Row]) -> Iterator[str]:
    if (row["stage"], row["grp"]) != (its.stage, group_of(number, its.first, its.groups)):
        yield "its stage or its group was changed"
    if row["updated_at"] != (history[-1]["at"] if history else its.at):
        yield "updated_at was changed"
    if history or row["seq"]:
        yield from end(history, row["seq"], row["head"], "the item's row")
        yield from beyond(history, row["seq"], "the item's row")
    elif row["head"] != its.code:
        yield "head was changed"


def _of_strands(stage: str, lines: Sequence[Row]) -> Iterator[str]:
    forward, undo = (stage, Phase.FORWARD, stage), (undo_strand(stage), Phase.BACKWARD, stage)
    there = [(line["strand"], line["direction"], line["stage"]) for line in lines]
    if forward not in there or not {*there} <= {forward, undo}:
        yield "a strand of it is missing, or was changed"


def _groups(groups: Iterable[Row], seen: Rows, counted: Mapping[tuple[str, int], _Counted]) -> Iterator[str]:
    """What the groups count, and what the joins say, against what there is."""
    there: Mapping[tuple[str, int], Row] = {(row["strand"], row["grp"]): row for row in groups}
    for key in sorted(there.keys() | counted.keys()):
        again, row = counted.get(key, _Counted()), there.get(key)
        name = f"group {key[1]} of {key[0]}"
        if row is None:
            yield f"{name} is missing"
            continue
        for column in ("total", "running", "done", "failed", "digest"):
            if row[column] != getattr(again, column):
                yield f"{name} says {column} {row[column]}, it is {getattr(again, column)}"
    for event in seen.events:
        if event["type"] == JOINED:
            told = json.loads(event["data"])
            sums = [group.digest for (strand, _grp), group in counted.items() if strand == told["stage"]]
            if told.get(DIGEST, NOTHING) != sum_of_codes(sums):
                yield f"how the items of {told['stage']} ended is not what the event of their join says"
