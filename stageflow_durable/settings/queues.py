"""Names of queues, an engine's name, and the queue that carries it unless another is set."""

from __future__ import annotations

import re

from stageflow_durable.errors import ConfigurationError

LONGEST_NAME = 150
"""Bytes: with our prefix a queue's name has to fit what brokers and tables take."""

LONGEST_QUEUE = 200
"""Bytes of a queue's name."""

QUEUE_NAME = f"a queue's name: 1 to {LONGEST_QUEUE} bytes, without blanks, commas and control characters"
"""What is allowed wherever a queue is named: commas part the names in ``celery worker -Q``, which keeps blanks."""

_NAME = re.compile(r"\w[\w.-]*")
_PARTING = frozenset(" ,")


def is_queue_name(given: object) -> bool:
    """Whether a queue may be called so."""
    # What is printable can be encoded, and holds no blank but the plain one.
    is_legible = isinstance(given, str) and given.isprintable() and not _PARTING.intersection(given)
    return is_legible and 0 < len(str(given).encode()) <= LONGEST_QUEUE


def default_queue(engine: str) -> str:
    """The queue of an engine that sets none: two applications on one broker do not take each other's messages."""
    return f"stageflow-{engine}"


def engine_name(given: object) -> str:
    """The name, if it is one. Raises ConfigurationError."""
    if isinstance(given, str) and _NAME.fullmatch(given) and len(given.encode()) <= LONGEST_NAME:
        return given
    raise ConfigurationError(
        f"{given!r} is no name for an engine: letters, digits, _ . - (beginning with a letter or a digit), at most "
        f"{LONGEST_NAME} bytes; its queue is named after it"
    )
