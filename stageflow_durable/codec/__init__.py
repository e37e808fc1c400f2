"""Values to text and back: tagged JSON for what is stored, canonical JSON for fingerprints, frozen views for snapshots.

What can be saved: JSON's own types and, tagged, ``datetime`` (aware and naive), ``date``, ``time``, ``timedelta``,
``UUID``, ``Decimal``, ``bytes``, ``Enum``, ``Path``, ``set``, ``frozenset``, ``tuple``, dicts with other keys than
text. Pydantic models and dataclasses are saved by their state, and restored by the classes that a declared type leads
to; to those who do not know the class they are dicts of their fields. The text is ASCII without NUL, so that every
database's TEXT column takes it as it is.
"""

from __future__ import annotations

from stageflow_durable.codec.canonical import (
    canonical,
    differing_fields,
    differing_texts,
    encode_and_fingerprint,
    fingerprint,
)
from stageflow_durable.codec.classes import Classes, in_schema
from stageflow_durable.codec.enums import register_enum
from stageflow_durable.codec.frozen import FrozenDict, FrozenList, FrozenSet, freeze
from stageflow_durable.codec.objects import fields_of
from stageflow_durable.codec.paths import MAX_DEPTH
from stageflow_durable.codec.plain import plain
from stageflow_durable.codec.reading import UnreadableValue, decode, holds_objects
from stageflow_durable.codec.restoring import Restored, restore
from stageflow_durable.codec.strict import json_mistake, strict_json
from stageflow_durable.codec.versions import Fingerprint, as_stored
from stageflow_durable.codec.writing import encode

__all__ = [
    "MAX_DEPTH",
    "Classes",
    "Fingerprint",
    "FrozenDict",
    "FrozenList",
    "FrozenSet",
    "Restored",
    "UnreadableValue",
    "as_stored",
    "canonical",
    "decode",
    "differing_fields",
    "differing_texts",
    "encode",
    "encode_and_fingerprint",
    "fields_of",
    "fingerprint",
    "freeze",
    "holds_objects",
    "in_schema",
    "json_mistake",
    "plain",
    "register_enum",
    "restore",
    "strict_json",
]
