"""What a worker's log says of messages that it did not take: one line a minute for each kind, with their number."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stageflow_durable.engine.attempt_log import log, one_line
from stageflow_durable.model.work import Nudge, Refusal, Refused

EVERY_SECONDS = 60.0
SUBJECTS = 1000


class Seldom:
    """Lets a line through once a minute for each subject; counts what it was about meanwhile. ``now``: seconds of a
    clock that never goes back.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told: dict[str, tuple[float, int]] = {}
        self._guard = threading.Lock()

    def count(self, subject: str) -> int:
        """How often this happened since the last line, now included; 0: it is too soon for another."""
        with self._guard:
            now = self._now()
            at, count = self._told.get(subject, (float("-inf"), 0))
            due = now - at >= EVERY_SECONDS
            if len(self._told) >= SUBJECTS:
                self._told.clear()
            self._told[subject] = (now, 0) if due else (at, count + 1)
            return count + 1 if due else 0


class Refusals:
    """Logs them. ``now``: as of :class:`Seldom`; ``note``: records that a queue brought runs that are not here."""

    def __init__(self, now: Callable[[], float], note: Callable[[str], object]) -> None:
        self._seldom = Seldom(now)
        self._note = note

    def tell(self, nudge: Nudge, answer: Refused) -> None:
        """Log a message that was refused, where somebody has to know. Raises StoreUnavailable."""
        if answer.why is Refusal.PARKED:
            text = "run %s parked: this definition of its pipeline cannot carry it; look: stageflow show %s"
            log.error(text, nudge.run_id, nudge.run_id)
        elif answer.why is Refusal.HANDED_BACK:
            self._handed_back(nudge, answer)
        elif answer.why is Refusal.GONE:
            self._stranger(nudge)

    def _handed_back(self, nudge: Nudge, answer: Refused) -> None:
        count = self._seldom.count(f"handed back: {answer.about}")
        if not count:
            return
        missing = answer.missing
        why = f"{missing.message}; {missing.way_out}" if missing else "it is offered to a worker that knows it"
        log.warning(
            "%d message(s) of %s reached this worker, which does not know it, and were handed back; the last: run %s, "
            "queue %s; %s",
            count,
            answer.about,
            nudge.run_id,
            one_line(nudge.queue),
            one_line(why),
        )

    def _stranger(self, nudge: Nudge) -> None:
        count = self._seldom.count(f"stranger in {nudge.queue}")
        if not count:
            return
        log.warning(
            "%d message(s) in queue %s named runs that are not in this database, and were dropped; the last: run %s; "
            "does another application share the queue? look: stageflow doctor",
            count,
            one_line(nudge.queue),
            one_line(nudge.run_id[:64]),
        )
        self._note(nudge.queue)
