"""Values to text and back: tagged JSON for what is stored, canonical JSON for fingerprints, frozen views for snapshots.

What can be saved: JSON's own types and, tagged, ``datetime`` (aware and naive), ``date``, ``time``, ``timedelta``,
``UUID``, ``Decimal``, ``bytes``, ``Enum``, ``Path``, ``set``, ``frozenset``, ``tuple``, dicts with other keys than
text. Pydantic models and dataclasses are saved by their fields. The text is ASCII without NUL, so that every
database's TEXT column takes it as it is.
"""

from __future__ import annotations

from stageflow_durable.codec.canonical import canonical, differing_fields, encode_and_fingerprint, fingerprint
from stageflow_durable.codec.enums import register_enum
from stageflow_durable.codec.frozen import FrozenDict, FrozenList, FrozenSet, freeze
from stageflow_durable.codec.plain import MAX_DEPTH, plain
from stageflow_durable.codec.reading import UnreadableValue, decode
from stageflow_durable.codec.writing import encode

__all__ = [
    "MAX_DEPTH",
    "FrozenDict",
    "FrozenList",
    "FrozenSet",
    "UnreadableValue",
    "canonical",
    "decode",
    "differing_fields",
    "encode",
    "encode_and_fingerprint",
    "fingerprint",
    "freeze",
    "plain",
    "register_enum",
]
