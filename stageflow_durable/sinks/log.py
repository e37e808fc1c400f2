"""The log as a sink."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stageflow_durable.model.sinks import TOLD, RunEvent
from stageflow_durable.sinks.checked import check_kinds, check_name
from stageflow_durable.sinks.message import as_object, as_text


class Log:
    """Logs each event as a line of JSON. A formatter that writes structures finds the same as ``record.stageflow``.

    ``logger``: its name; ``level``: of the lines.
    """

    def __init__(
        self,
        *,
        logger: str = "stageflow.events",
        level: int = logging.INFO,
        name: str = "log",
        kinds: Sequence[str] = TOLD,
    ) -> None:
        self.name, self.kinds = check_name(name), check_kinds(kinds)
        self._log, self._level = logging.getLogger(logger), level

    def deliver(self, event: RunEvent) -> None:
        """Log it."""
        if self._log.isEnabledFor(self._level):
            self._log.log(self._level, "%s", as_text(event), extra={"stageflow": as_object(event)})
