"""What an engine lets people and programs ask and do about runs: :class:`Operations`, under the engine's own name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

from stageflow_durable.engine.operations import UNSAID, Operations
from stageflow_durable.engine.twins import EngineTwins
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.run import Event, Run, RunSummary, SweepReport, WorkerView
from stageflow_durable.state.listing import Found
from stageflow_durable.state.standings import Seen
from stageflow_durable.state.verification import Checked


class Steering(EngineTwins):
    """Each method is :class:`Operations`'s of the same name, with its errors."""

    @cached_property
    def operations(self) -> Operations:
        """Questions and orders about runs."""
        raise NotImplementedError  # an engine has it

    def run(self, run_id: str) -> Run:
        """A run in full."""
        return self.operations.run(run_id)

    def runs(self, **filters: Any) -> list[RunSummary]:
        """Runs, the newest first; see :meth:`Operations.runs`."""
        return self.operations.runs(**filters)

    def matching(self, status: Sequence[str], **filters: Any) -> list[Found]:
        """Which runs a filter fits; see :meth:`Operations.matching`."""
        return self.operations.matching(status, **filters)

    def standings(self, run_ids: Sequence[str]) -> Iterator[Seen]:
        """How these runs stand; see :meth:`Operations.standings`."""
        return self.operations.standings(run_ids)

    def history(self, run_id: str) -> list[Event]:
        """A run's events."""
        return self.operations.history(run_id)

    def workers(self) -> list[WorkerView]:
        """Processes that own, or owned, work."""
        return self.operations.workers()

    def roster(self) -> Roster:
        """What the live workers know and serve."""
        return self.operations.roster()

    def strangers(self) -> dict[str, float]:
        """By queue: how many seconds ago messages came that named runs of another database."""
        return self.operations.strangers()

    def resume(self, run_id: str, *, reason: str, actor: str, op_version: int | None = None) -> RunSummary:
        """Let a parked, failed or cancelled run go on."""
        return self.operations.resume(run_id, reason=reason, actor=actor, op_version=op_version)

    def cancel(
        self, run_id: str, *, reason: str, actor: str, op_version: int | None = None, past_pivot: bool = False
    ) -> RunSummary:
        """Stop a run and undo what it did."""
        return self.operations.cancel(run_id, reason=reason, actor=actor, op_version=op_version, past_pivot=past_pivot)

    def compensate(
        self,
        run_id: str,
        *,
        reason: str,
        actor: str,
        op_version: int | None = None,
        past_pivot: bool = False,
        skip: Sequence[str] = (),
    ) -> RunSummary:
        """Undo what a run did, or try failed undos again; ``skip``: stages whose undo is given up instead."""
        return self.operations.compensate(
            run_id, reason=reason, actor=actor, op_version=op_version, past_pivot=past_pivot, skip=skip
        )

    def audit(
        self, run_ids: Sequence[str] | None = None, heads: Mapping[str, tuple[int, str]] | None = None
    ) -> Iterator[Checked]:
        """Check the chains of events of all runs, or of these; see :meth:`Operations.audit`."""
        return self.operations.audit(run_ids, heads)

    def audit_heads(self) -> Iterator[tuple[str, int, str]]:
        """The end of each history, to be kept where whoever writes to the database cannot: run, number, code."""
        return self.operations.audit_heads()

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key that the database does not know."""
        return self.operations.has_audit_key

    def settle(
        self,
        run_id: str,
        stage: str,
        *,
        done: Any = UNSAID,
        not_done: bool = False,
        reason: str,
        actor: str,
        op_version: int | None = None,
    ) -> RunSummary:
        """Record what a person found out about a stage in doubt."""
        return self.operations.settle(
            run_id, stage, done=done, not_done=not_done, reason=reason, actor=actor, op_version=op_version
        )

    def confirm_dead(self, owner: str, *, reason: str, actor: str) -> list[str]:
        """Say that a lost process has ended, so that undos which wait for that begin; returns their runs."""
        return self.operations.confirm_dead(owner, reason=reason, actor=actor)

    def sweep(self) -> SweepReport:
        """One recovery sweep; what the beat task calls."""
        return self.operations.sweep()

    def prune(self, older_than: timedelta, *, limit: int | None = None, dry_run: bool = False) -> int:
        """Delete runs that ended for good more than ``older_than`` ago, ``limit`` at the most; returns how many (with
        ``dry_run``: would go). Parked runs and failed undos stay; idempotency keys stay taken for 400 days.
        """
        return self.operations.prune(older_than, limit=limit, dry_run=dry_run)
