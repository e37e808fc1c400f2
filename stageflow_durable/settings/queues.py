"""An engine's name, and the queue that carries it unless another is set."""

from __future__ import annotations

import re

from stageflow_durable.errors import ConfigurationError

LONGEST_NAME = 150
"""Bytes: with our prefix a queue's name has to fit what brokers and tables take."""

_NAME = re.compile(r"\w[\w.-]*")


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
