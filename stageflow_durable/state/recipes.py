"""Recipes: changes that are decided once and reused. When a stage begins or succeeds, most changes are the same for
every run, except for values that are only copied (ids, times, the output).

To make a recipe, the transition runs with a slot instead of each such value. A slot can be copied, and a number can be
added to it. Comparing a slot, or testing whether it is true, raises ``Decides``, and there is no recipe. So a recipe
that is filled with a run's values writes what the transition would have written for that run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

from stageflow_durable.codec import encode
from stageflow_durable.model.work import Hint, Nudge, RunFacts, Work
from stageflow_durable.state.forms import EVENTS, Form, formed
from stageflow_durable.store.audit import seal
from stageflow_durable.store.sealing import event_texts, hinting
from stageflow_durable.store.vouched import SEALED, shown
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.rows import StrandRow


class Value(IntEnum):
    """The values that differ between the runs of a recipe; each is its index among the values that fill it."""

    RUN = 0
    AT = 1
    SEQ = 2
    HEAD = 3
    GEN = 4
    BEGAN_AT = 5
    DELTA = 6
    SENT_AT = 7
    CLIENT = 8
    KEY = 9
    FINGERPRINT = 10
    INPUT = 11
    METADATA = 12
    DEADLINE = 13
    LOG = 14
    OTHER = 15
    """Any other value: nothing that is written may contain it."""


class Decides(Exception):
    """A decision depends on a value that differs between runs, so there is no recipe for it."""


class Slot:
    """Stands for a value that is not None; ``plus``: a number that is added to it."""

    __slots__ = ("place", "plus")

    def __init__(self, place: Value, plus: float = 0) -> None:
        self.place, self.plus = place, plus

    def __add__(self, more: float) -> Slot:
        return Slot(self.place, self.plus + more)

    def __eq__(self, other: object) -> bool:
        if other is None:
            return False
        same = isinstance(other, Slot) and (self.place, self.plus) == (other.place, other.plus)
        if same and self.place is not Value.OTHER:
            return True
        raise Decides

    def __bool__(self) -> bool:
        raise Decides

    __hash__ = object.__hash__

    def __lt__(self, _other: object) -> bool:
        raise Decides

    __le__ = __gt__ = __ge__ = __sub__ = __rsub__ = __lt__

    def of(self, values: Sequence[Any]) -> Any:
        """The value that it stands for."""
        value = values[self.place]
        return value + self.plus if self.plus else value


SLOTS: list[Any] = [Slot(value) for value in Value]


class Text(NamedTuple):
    """An event's data as text: ``pieces``, with the results of ``between`` in the gaps."""

    pieces: tuple[str, ...]
    between: tuple[Callable[[Sequence[Any]], str], ...]

    def of(self, values: Sequence[Any]) -> str:
        """The whole text."""
        text = self.pieces[0]
        for make, piece in zip(self.between, self.pieces[1:], strict=True):
            text += make(values) + piece
        return text


class Filled(NamedTuple):
    """A recipe filled with one run's values: the statement's form and parameters, and the run's head afterwards."""

    form: Form
    given: dict[str, Any]
    head: str


class Recipe:
    """A change with slots in it, ready to be filled. Raises Decides if what is written contains ``Value.OTHER``."""

    def __init__(self, change: Change, held: StrandRow | None, audit_key: bytes, *, hinted: bool = False) -> None:
        self.form, given = formed(change, held, hinted=hinted)
        self._audit = audit_key
        self._constants = {name: value for name, value in given.items() if not isinstance(value, Slot)}
        self._copied = [(name, _slot(value)) for name, value in given.items() if isinstance(value, Slot)]
        self._texts = _texts(change, audit_key)
        for (kind, _data, _mac), event in zip(EVENTS, change.events, strict=False):
            self._constants[kind] = event.type
        self._types = [event.type for event in change.events]
        self._change = change
        self._columns = {name: _checked(value) for name, value in change.columns.items()}
        granted = change.granted
        self._granted = None if granted is None else [_checked(value) for value in granted[1:]]
        self._nudges = [[_checked(value) for value in nudge] for nudge in change.nudges]

    def fill(self, values: Sequence[Any]) -> Filled:
        """``values``: in the order of :class:`Value`."""
        given = self._constants.copy()
        for name, slot in self._copied:
            given[name] = slot.of(values)
        run, at, seq, head = values[:4]
        for kind, text, (_type, data, mac) in zip(self._types, self._texts, EVENTS, strict=False):
            seq += 1
            row = seal(self._audit, run, seq, kind, at, text.of(values), head)
            given[data], given[mac] = row.data, row.mac
            head = row.mac
        return Filled(self.form, given, head)

    def granted(self, values: Sequence[Any], run: RunFacts, head: str) -> Work | None:
        """The attempt that begins. ``run``: the run's row before the change; ``head``: its head afterwards."""
        if self._granted is None:
            return None
        if self._columns:
            run = run._replace(**{name: _filled(value, values) for name, value in self._columns.items()})
        work = [value.of(values) if value.__class__ is Slot else value for value in self._granted]
        work[_HEAD] = head
        return Work(run, *work)

    def nudges(self, values: Sequence[Any], head: str | None) -> tuple[Nudge, ...]:
        """What to publish. ``head``: the run's head, for the hints; None: no hints."""
        return tuple([hinting(Nudge(*[_filled(value, values) for value in nudge]), head) for nudge in self._nudges])

    @property
    def ended(self) -> bool:
        """Whether the run is at rest."""
        return self._change.ended


# --- making one -------------------------------------------------------------------------------------------------------

_HEAD = Work._fields.index("head") - 1  # the run's row, which comes first, is put in separately
_MARK = re.compile(r'"\\u001a([0-9]+)\\u001a"')


def _texts(change: Change, audit_key: bytes) -> list[Text]:
    """The events' data, with gaps for what they say of values that differ between runs."""
    between: list[Callable[[Sequence[Any]], str]] = []

    def say(key: bytes, run: str, row: str, columns: Mapping[str, Any]) -> dict[str, Any]:
        told = {}
        for name, value in columns.items():
            if isinstance(value, Slot) or (name in SEALED and value is not None):
                told[name] = f"\x1a{len(between)}\x1a"
                between.append(partial(_shown, key, row, name, _checked(value)))
            else:
                told[name] = shown(key, run, row, name, value)
        return told

    if change.new and audit_key:
        raise Decides  # one HMAC covers everything that the run was given
    events = []
    for event in change.events:
        data = dict(event.data)
        for name, value in data.items():
            if isinstance(value, Slot):
                data[name] = f"\x1a{len(between)}\x1a"
                between.append(partial(_encoded, _slot(value)))
        events.append(event._replace(data=data))
    texts = []
    for text in event_texts(change._replace(events=tuple(events)), audit_key, say):
        pieces = _MARK.split(text)
        texts.append(Text(tuple(pieces[::2]), tuple(between[int(number)] for number in pieces[1::2])))
    return texts


def _shown(key: bytes, row: str, column: str, value: Any, values: Sequence[Any]) -> str:
    return encode(shown(key, values[Value.RUN], row, column, _filled(value, values)))


def _encoded(slot: Slot, values: Sequence[Any]) -> str:
    return encode(slot.of(values))


def _slot(slot: Slot) -> Slot:
    if slot.place is Value.OTHER:
        raise Decides
    return slot


def _checked(value: Any) -> Any:
    if isinstance(value, Slot):
        return _slot(value)
    if isinstance(value, Hint):
        for part in value:
            _checked(part)
    return value


def _filled(value: Any, values: Sequence[Any]) -> Any:
    if isinstance(value, Slot):
        return value.of(values)
    return Hint(*[_filled(part, values) for part in value]) if isinstance(value, Hint) else value
