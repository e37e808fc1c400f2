"""Saving an attempt's outcome: what cannot be saved as it is, is saved as something that can."""

from __future__ import annotations

import logging
from collections.abc import Callable

from stageflow_durable.engine.outcome import Again, Outcome, Over, in_ascii, mistake, text_of
from stageflow_durable.engine.process_end import is_end_of_process
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.errors import SchemaBehind, StoreUnavailable
from stageflow_durable.model.work import Done, Fenced, Waiting, Work

log = logging.getLogger("stageflow.executor")
Ending = Done | Waiting | Fenced

AWAY = (StoreUnavailable, SchemaBehind)
"""What says nothing about an outcome: the database is away, or not yet upgraded."""


def saved(
    work: Work,
    outcome: Outcome,
    save: Callable[[Outcome], Ending],
    instead: Callable[[BaseException], Outcome],
) -> tuple[Ending, Outcome]:
    """Save ``outcome``; returns what became of it, and what was saved. Where saving raises: a failure in ASCII, for a
    database whose encoding lacks its characters; else what ``instead`` makes of the error. Raises what the database
    raises about either, and what ends the process.
    """
    try:
        return save(outcome), outcome
    except AWAY:
        raise
    except BaseException as error:
        if is_end_of_process(error):
            raise
        return _otherwise(work, outcome, error, save, instead)


def _otherwise(
    work: Work,
    outcome: Outcome,
    error: BaseException,
    save: Callable[[Outcome], Ending],
    instead: Callable[[BaseException], Outcome],
) -> tuple[Ending, Outcome]:
    ways: list[Callable[[], Outcome]] = [lambda: instead(error), lambda: in_ascii(mistake(error))]
    if isinstance(outcome, Again | Over):
        ways.insert(0, lambda: in_ascii(outcome))
    else:
        _log(work, error)
    for way in ways[:-1]:
        try:
            return save(found := way()), found
        except AWAY:
            raise
        except Exception as again:  # noqa: BLE001  # the next way is plainer; what the last raises is the database's own
            _log(work, again)
    found = ways[-1]()
    return save(found), found


def _log(work: Work, error: BaseException) -> None:
    said, why = "run %s: the outcome of stage %s could not be saved: %s", text_of(error)
    log.error(said, work.run.id, work.stage, why, exc_info=loggable(error))


class SessionLost(StoreUnavailable):
    """A stage's own transaction was lost with its connection."""
