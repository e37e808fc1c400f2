"""A run in memory: facts by hand, transitions applied to them, and what they wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.status import Phase, RunStatus, StepState, StrandState, WaitingFor
from stageflow_durable.model.work import Claimant, Failure, Nudge, Refused, RunFacts, Work
from stageflow_durable.transitions import fail as failing
from stageflow_durable.transitions import finish, start
from stageflow_durable.transitions.change import KEYS, Change, How, Table
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.rows import (
    NEW_STRAND,
    ApprovalRow,
    AttemptRow,
    HeldKey,
    LinkRow,
    OwnerRow,
    SignalRow,
    StrandRow,
)

RUN, ME, QUEUE = "R", "me", "q"


def body(_ctx: Any) -> None:
    return None


def line(*stages: str, **options: Any) -> Pipeline[Any, Any]:
    """A pipeline of stages one after another, each with an undo."""
    made: Pipeline[Any, Any] = Pipeline("line", **options)
    for stage in stages:
        made = made.stage(stage, body, compensate=body)
    return made


class Story:
    """One run and its rows. ``clock``: the database's, in seconds."""

    def __init__(self, pipeline: Pipeline[Any, Any], **columns: Any) -> None:
        self.plan = pipeline.plan
        self.clock = 100.0
        self.run = RunFacts(
            id=RUN,
            client_id="c",
            pipeline=self.plan.pipeline,
            version=self.plan.version,
            key=None,
            fingerprint="f",
            definition=self.plan.digest,
            input="{}",
            input_schema=1,
            metadata="{}",
            queue=QUEUE,
            priority=None,
            phase=Phase.FORWARD,
            status=RunStatus.PENDING,
            cause=None,
            park_reason=None,
            error=None,
            error_stage=None,
            op_version=0,
            pivot_passed=False,
            past_pivot=False,
            deadline=None,
            seq=1,
            head="0",
            created_at=self.clock,
            updated_at=self.clock,
            finished_at=None,
        )._replace(**columns)
        self.strands = {
            root: NEW_STRAND._replace(run=RUN, strand=root, stage=root, queue=QUEUE, published_at=self.clock)
            for root in self.plan.roots
        }
        self.attempts: dict[tuple[Any, ...], AttemptRow] = {}
        self.saved: dict[str, bool] = {}
        self.steps: dict[str, StepState] = {}
        self.signals: dict[tuple[Any, ...], SignalRow] = {}
        self.approvals: dict[tuple[Any, ...], ApprovalRow] = {}
        self.links: dict[str, LinkRow] = {}
        self.requesters: frozenset[str] = frozenset()
        self.keys: tuple[HeldKey, ...] = ()
        self.owners = {ME: OwnerRow(ME, "host", 1, None, False)}
        self.events: list[str] = []
        self.alive = True
        self.parts: dict[Part, Any] = {}

    @property
    def claimant(self) -> Claimant:
        """An owner that knows the pipeline."""
        return Claimant(ME, {self.plan.pipeline: self.plan}, {})

    def facts(self) -> Facts:
        """All there is to know."""
        there: dict[Part, Any] = {
            Part.STRANDS: dict(self.strands),
            Part.SAVED: dict(self.saved),
            Part.STEPS: dict(self.steps),
            Part.ATTEMPTS: tuple(sorted(self.attempts.values(), key=lambda row: row.n)),
            Part.KEYS: self.keys,
            Part.SIGNALS: tuple(self.signals.values()),
            Part.APPROVALS: tuple(self.approvals.values()),
            Part.LINKS: dict(self.links),
            Part.REQUESTERS: self.requesters,
            Part.ALIVE: self.alive,
            Part.OWNERS: self.owners,
            Part.DEFINITIONS: {self.plan.digest: 1.0},
            Part.SCHEMAS: frozenset({1}),
            Part.NEWEST: self.plan,
            Part.ROSTER: Roster(),
        }
        return Facts(self.run, self.plan, self.clock, self.run.seq, self.run.head, {**there, **self.parts})

    def apply(self, decided: Any) -> Any:
        """Write a change; anything else is handed on."""
        if not isinstance(decided, Change):
            return decided
        for row in decided.rows:
            self._write(row.table, row.key, row.how, row.columns)
        self.run = self.run._replace(**decided.columns, seq=decided.seq)
        self.events += [event.type for event in decided.events]
        return decided

    def _write(self, table: Table, key: tuple[Any, ...], how: How, columns: dict[str, Any]) -> None:
        new = how is How.INSERT
        if table is Table.STRANDS:
            was = NEW_STRAND._replace(run=RUN, strand=key[0]) if new else self.strands[key[0]]
            self.strands[key[0]] = now = was._replace(**columns)
            # As the table's CHECKs have it.
            assert (now.state == StrandState.WAITING) is (now.waiting_for is not None), now
            if now.waiting_for in (None, WaitingFor.TIME):
                assert (now.wake_at is not None) is (now.waiting_for is not None), now
        elif table is Table.ATTEMPTS:
            assert new is (key not in self.attempts)
            kept = {name: value for name, value in columns.items() if name in AttemptRow._fields}
            named = dict(zip(KEYS[table], key, strict=True))
            self.attempts[key] = AttemptRow(**named, **kept) if new else self.attempts[key]._replace(**kept)
        elif table is Table.CHECKPOINTS:
            assert new
            assert key[0] not in self.saved
            self.saved[key[0]] = columns["skipped"]
        elif table is Table.SIGNALS:
            assert new is (key not in self.signals)
            named = dict(zip(KEYS[table], key, strict=True))
            self.signals[key] = SignalRow(**named, **columns) if new else self.signals[key]._replace(**columns)
        elif table is Table.APPROVALS:
            assert new is (key not in self.approvals)
            named = dict(zip(KEYS[table], key, strict=True))
            self.approvals[key] = ApprovalRow(**named, **columns) if new else self.approvals[key]._replace(**columns)
        elif table is Table.LINKS:
            self.links[key[0]] = LinkRow(*key, **columns) if new else self.links[key[0]]._replace(**columns)
        elif how is not How.INTEND or self.steps.get(key[0], StepState.VOID) in (StepState.VOID, StepState.SKIPPED):
            self.steps[key[0]] = columns["state"]

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin(self, strand: str) -> Work:
        """Take a strand, which has to be there to take."""
        decided = self.apply(start.begin(self.facts(), self.nudge(strand), self.claimant))
        assert isinstance(decided, Change), decided
        assert decided.granted is not None, decided.refused
        return decided.granted

    def refusal(self, strand: str, *, gen: int | None = None) -> Any:
        """Why it is not to be taken."""
        nudge = self.nudge(strand) if gen is None else self.nudge(strand)._replace(gen=gen)
        decided = self.apply(start.begin(self.facts(), nudge, self.claimant))
        return decided.why if isinstance(decided, Refused) else decided.refused.why

    def nudge(self, strand: str) -> Nudge:
        """The message for a strand as it stands."""
        row = self.strands.get(strand)
        return Nudge(RUN, strand, row.gen if row else 0, QUEUE)

    def succeed(self, work: Work, delta: str | None = "1", **options: Any) -> Any:
        """The stage is done; nothing is granted unless ``claimant`` is given."""
        return self.apply(finish.succeed(self.facts(), work, options.pop("claimant", None), delta, **options))

    def fail(self, work: Work, **options: Any) -> Any:
        """It has failed for good, in doubt unless ``failure`` says otherwise."""
        failure = options.pop("failure", Failure("no", "permanent", doubt=True))
        return self.apply(failing.fail(self.facts(), work, failure, **options))

    def run_through(self, *strands: str) -> None:
        """Begin and finish what stands on these strands, in this order."""
        for strand in strands:
            self.succeed(self.begin(strand))

    def lose(self, strand: str, *, confirmed: bool = True) -> None:
        """The strand's owner was declared dead."""
        owner = self.strands[strand].owner
        assert owner is not None
        self.owners = {**self.owners, owner: OwnerRow(owner, "host", 1, self.clock, confirmed)}

    def state(self, strand: str) -> str:
        """What the strand does."""
        return str(self.strands[strand].state)

    def row(self, strand: str) -> StrandRow:
        """The strand."""
        return self.strands[strand]


def needed(facts: Facts, decide: Callable[[Facts], Any]) -> list[Part]:
    """The parts that a decision asks for, in their order, when none is given."""
    given: dict[Part, Any] = {}
    while True:
        try:
            decide(facts._replace(parts=given))
        except NotLoaded as missing:
            given[missing.part] = facts.parts[missing.part]
        else:
            return list(given)
