"""Reading the arguments of our task: run, strand, fence, and a mark with hint and signature."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from stageflow_durable.model.work import ITEM_SIGN, UNDO_PREFIX, Hint

_RUN = re.compile(r"[A-Za-z0-9-]{1,40}")
# Behind the strand's name comes its item, where it has one: messages of before have none.
_STRAND = re.compile(
    rf"((?:{re.escape(UNDO_PREFIX)})?[A-Za-z0-9][A-Za-z0-9_.-]{{0,99}})(?:{ITEM_SIGN}([1-9][0-9]{{0,8}}))?"
)
# The mark as all versions so far write it; behind it comes the hint, or what a newer version may add.
_MARK = re.compile(r"([0-9]{1,15}\.[0-9]{1,4})(?:~([0-9a-f]{8,128}))?(?: (.{0,400}))?", re.DOTALL)
HIGHEST = 2**31 - 1


class Unfit(Exception):
    """Arguments that none of our publishers wrote; the text says why."""


class Words(NamedTuple):
    """What a message says. ``mark`` tells two publications for one strand apart; ``hinted``: its hint as text, or
    empty; ``signature``: empty if it has none. ``item``: 0 if the strand has none.
    """

    run_id: str
    strand: str
    gen: int
    mark: str
    hinted: str
    signature: str
    item: int = 0

    @property
    def hint(self) -> Hint | None:
        """What the run looked like when it was published."""
        return Hint.read(self.hinted)


def read(arguments: Any, keywords: Any) -> Words:
    """Check and read the arguments of a message. Raises Unfit."""
    if keywords or not isinstance(arguments, list | tuple) or len(arguments) != 4:
        raise Unfit("a run, a strand, a fence and a mark are expected, and nothing else")
    run_id, strand, gen, mark = arguments
    if not isinstance(run_id, str) or not _RUN.fullmatch(run_id):
        raise Unfit("its run is no id")
    named = _STRAND.fullmatch(strand) if isinstance(strand, str) else None
    if named is None:
        raise Unfit("its strand is no name")
    if type(gen) is not int or not 0 <= gen <= HIGHEST:  # True is an int too
        raise Unfit("its fence is no number")
    said = _MARK.fullmatch(mark) if isinstance(mark, str) else None
    if said is None:
        raise Unfit("its mark cannot be read")
    return Words(run_id, named[1], gen, said[1], said[3] or "", said[2] or "", int(named[2] or 0))
