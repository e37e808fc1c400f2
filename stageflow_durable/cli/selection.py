"""Which runs a bulk verb means: named ones, or those that fit a filter and permit the verb."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.failures import Failure, Misuse
from stageflow_durable.cli.output import say
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.words import counted
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.verbs import APPLICABLE, VerbName

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Named, Operations
    from stageflow_durable.model.status import ParkReason

MOST = 100_000
"""The most runs that one command acts on."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What the caller asked for; None: not asked."""

    status: RunStatus | None = None
    pipeline: str | None = None
    client_id: str | None = None
    since: datetime | None = None
    park_reason: ParkReason | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    until: datetime | None = None
    error: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything was asked for."""
        return self != Filter()


def chosen(
    operations: Operations, verb: VerbName, run_ids: Sequence[str], wanted: Filter, limit: int | None
) -> Sequence[Named]:
    """The runs to act on. Fails when nothing was asked for, or both ways at once."""
    if run_ids and wanted.given:
        raise Misuse("name runs or filter them, not both")
    if run_ids:
        found = (find_run(operations, run_id) for run_id in dict.fromkeys(run_ids))
        return [*{run.run_id: run for run in found}.values()][:limit]  # a prefix may mean one that is named as well
    if not wanted.given:
        raise Misuse(
            f"name the runs to {verb}, or filter them: --status --park-reason --pipeline --client-id --since"
            " --until --error --attribute"
        )
    return _filtered(operations, verb, wanted, min(MOST, limit or MOST))


def _filtered(operations: Operations, verb: VerbName, wanted: Filter, most: int) -> Sequence[Named]:
    if wanted.status and wanted.status not in APPLICABLE[verb]:
        permitted = ", ".join(sorted(APPLICABLE[verb]))
        raise Misuse(f"{verb} does nothing for runs that are {wanted.status}; it takes: {permitted}")
    return operations.matching(
        [wanted.status] if wanted.status else sorted(APPLICABLE[verb]),
        pipeline=wanted.pipeline,
        client_id=wanted.client_id,
        since=wanted.since,
        park_reason=wanted.park_reason,
        limit=most,
        attributes=wanted.attributes,
        until=wanted.until,
        error=wanted.error,
    )


def confirmed(verb: VerbName, number: int, *, by_filter: bool, yes: bool) -> None:
    """Ask before many runs are changed by a filter; without a terminal --yes has to say it."""
    if yes or not by_filter:
        return
    if not sys.stdin.isatty():
        raise Misuse(f"{verb} would change {counted(number, 'run')}; say --yes to do it, --dry-run to see them")
    if not click.confirm(f"{verb} {counted(number, 'run')}?", err=True):
        say("nothing was changed")
        raise Failure("not confirmed")
