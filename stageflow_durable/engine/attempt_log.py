"""A worker's log lines about runs and messages: none for what succeeds, one for what does not. Errors have the text
that the history stores, so that secrets which are removed there are removed here too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from stageflow_durable.engine.outcome import Again, Over
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.masking import masking
from stageflow_durable.model.roster import Missing
from stageflow_durable.model.status import Cause
from stageflow_durable.model.work import Ending, Fenced, Nudge, Refusal, Refused, RetryDue, RunFacts, Work
from stageflow_durable.store.values import Awaited, StrandRef

log = masking(logging.getLogger("stageflow.run"))


def log_failure(work: Work, outcome: Again | Over, ending: Ending) -> Ending:
    """Log an attempt that did not succeed, once that is saved; returns ``ending``."""
    if isinstance(ending, Fenced):
        return ending  # it was taken over meanwhile: whoever took it logs that
    if isinstance(outcome, Over):
        _over(work, outcome)
    elif isinstance(ending, RetryDue):
        log.warning("%s failed: %s; next try in %.1f s", _attempt(work, outcome), _error(outcome), ending.delay)
    else:
        log.warning("%s failed: %s; no other try, its run stops", _attempt(work, outcome), _error(outcome))
    return ending


def _over(work: Work, outcome: Over) -> None:
    if outcome.failure.vouched or outcome.cause is not Cause.FAILED:  # the application's decision, not an error
        ended = "cancelled its run" if outcome.cause is Cause.STAGE else "ended"
        log.warning("%s %s: %s", _attempt(work, outcome), ended, _error(outcome))
        return
    parked = f"; parked ({outcome.park})" if outcome.park and not work.undoing else ""
    log.error(
        "%s failed for good: %s%s; look: stageflow show %s",
        _attempt(work, outcome),
        _error(outcome),
        parked,
        work.run.id,
        exc_info=loggable(outcome.error),
    )


def _attempt(work: Work, outcome: Again | Over) -> str:
    what = f"undo of {work.stage}" if work.undoing else work.stage
    most = f" of {outcome.most}" if outcome.most else ""
    return f"run {work.run.id} {work.run.pipeline}/{what} attempt {work.tries + 1}{most}"


def _error(outcome: Again | Over) -> str:
    return one_line(outcome.failure.error)


def one_line(text: str) -> str:
    """``text`` on one line, so that text from a remote system cannot look like lines of this log."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log_fenced(work: Work) -> None:
    """Log an outcome that was refused because the work had been taken over."""
    stage = f"{work.run.pipeline}/{work.stage}"
    log.warning("run %s %s was taken over while it ran here; its outcome is dropped", work.run.id, stage)


def log_nobody(missing: Missing) -> None:
    """Log that no live worker can carry some runs."""
    log.warning("runs wait: %s; %s", one_line(missing.message), one_line(missing.way_out))


def log_deaths(owners: tuple[str, ...], why: str) -> None:
    """Log owners that were declared dead."""
    for owner in owners:
        log.warning("owner %s was declared dead: %s; its work is taken over", owner, why)


def log_ended(owner: Awaited) -> None:
    """Log a process whose end was confirmed."""
    log.warning("owner %s has ended: its process %d is gone; undos that wait for that begin", owner.id, owner.pid)


def log_repaired(run_id: str) -> None:
    """Log a run that nothing would ever have moved, and that moves again."""
    log.error("run %s was found with nothing that would move it, and was repaired: stageflow show %s", run_id, run_id)


def log_taken_over(place: StrandRef, run: RunFacts | None) -> None:
    """Log work that was taken from a dead owner, and that its run was parked, if it was."""
    log.warning("run %s: %s was taken over from a dead owner", place.run, place.stage or place.strand)
    if run is not None and run.park_reason is not None:
        log.error("run %s parked (%s): %s; look: stageflow show %s", run.id, run.park_reason, _why(run), run.id)


def _why(run: RunFacts) -> str:
    return one_line(run.error or "its outcome is unknown")


# --- messages that were not taken -------------------------------------------------------------------------------------
# One line a minute for each kind, with their number.


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


class RefusalLog:
    """Logs them. ``now``: as of :class:`Seldom`; ``note``: records that a queue brought runs that are not here."""

    def __init__(self, now: Callable[[], float], note: Callable[[str], object]) -> None:
        self._seldom = Seldom(now)
        self._note = note

    def add(self, nudge: Nudge, answer: Refused) -> None:
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
