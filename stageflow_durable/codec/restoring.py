"""From text to the objects that were saved, by the classes that a declared type leads to."""

from __future__ import annotations

from typing import Any, NamedTuple

from stageflow_durable.codec.classes import Classes, default_of, name_of, shape_of
from stageflow_durable.codec.kinds import Kind, make_of
from stageflow_durable.codec.objects import Parts, put_together
from stageflow_durable.codec.reading import decode_by
from stageflow_durable.codec.writing import VALIDATED


class Restored(NamedTuple):
    """What a text holds. ``whole``: every object in it was restored; else some are dicts of their fields. ``checked``:
    it was validated as the declared type, which has not changed since.
    """

    value: Any
    whole: bool
    checked: bool


class Unrestored(dict[str, Any]):
    """The fields of an object whose class is not known here, or has other fields now."""


def restore(text: str, classes: Classes) -> Restored:
    """Return what ``encode`` wrote, with the objects whose classes ``classes`` leads to. A class that only has further
    fields since, with defaults, gets those. Raises :class:`UnreadableValue` as ``decode`` does.
    """
    reader = _Reader(classes)
    value = decode_by(text, reader.made)
    whole = not reader.left_out
    declared: Any = classes.declared
    checked = reader.checked if classes.mark is not None else isinstance(value, declared)
    return Restored(value, whole, whole and checked)


class _Reader:
    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self.left_out = False
        self.checked = False

    def made(self, name: str, shape: str, more: dict[str, Any] | None, payload: Any) -> Any:
        if name == VALIDATED:
            self.checked = shape == self._classes.mark
            return payload
        if more is None:
            return self._member(name, payload)
        quick = self._classes.ready.get((name, shape))
        if quick is not None and not self.left_out and not more and payload.keys() == quick[1].names:
            return put_together(quick[0], Parts(payload))
        cls = self._classes.find(name)
        if cls is None or (self.left_out and _is_left_out(payload)):
            return self._leave(payload)
        return self._object(cls, shape, more, payload)

    def _member(self, name: str, payload: Any) -> Any:
        cls: Any = self._classes.find_enum(name)
        return payload if cls is None else cls(payload)

    def _leave(self, payload: Any) -> Any:
        self.left_out = True
        return Unrestored(payload) if isinstance(payload, dict) else payload

    def _object(self, cls: type, shape: str, more: dict[str, Any], payload: Any) -> Any:
        make = make_of(cls)
        assert make is not None
        view, unset, extra = payload, tuple(more.get("unset", ())), tuple(more.get("extra", ()))
        names = make.fields
        if isinstance(payload, dict) and make.kind in (Kind.MODEL, Kind.DATACLASS) and not make.is_root:
            names = tuple(name for name in payload if name not in extra) if extra else tuple(payload)
        if shape != shape_of(cls, names) or (extra and not make.allows_extra):
            return self._leave(payload)
        if len(names) != len(make.fields):
            added = [name for name in make.fields if name not in payload]
            try:
                view = payload | {name: default_of(cls, name) for name in added}
            except Exception:  # noqa: BLE001  # one that is required, or whose default is made by a function that raises
                return self._leave(payload)
            unset += tuple(added)
        elif make.kind in (Kind.MODEL, Kind.DATACLASS) and not make.is_root:
            self._classes.ready[name_of(cls), shape] = (cls, make)
        private = more.get("private")
        return put_together(cls, Parts(view, unset, extra, private, more.get("rest")))


def _is_left_out(value: Any) -> bool:
    if isinstance(value, Unrestored):
        return True
    if isinstance(value, dict):
        return any(map(_is_left_out, value.values()))
    return isinstance(value, list | tuple | set | frozenset) and any(map(_is_left_out, value))
