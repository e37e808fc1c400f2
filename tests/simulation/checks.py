"""The invariants: cheap ones after every transaction, all of them at rest, against the tables and the ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stageflow_durable.codec import fingerprint
from stageflow_durable.transitions.start import EARLY_SECONDS
from tests.protocol import invariants
from tests.simulation.bench import AUDIT_KEY
from tests.simulation.ledger import Violation
from tests.simulation.scenario import RELEASE, WORD

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

MAY_STAND = {
    ("forward", "forward"): {"ready", "running", "waiting"},
    ("draining", "forward"): {"running"},
    ("backward", "backward"): {"ready", "running", "waiting"},
}
ACTIVE = {"ready", "running", "waiting"}
RAISES_FENCES = {"take", "order", "settle"}
EVENTS = "(SELECT count(*) FROM stageflow_events WHERE run = id)"
LOOK = f"""
SELECT 'run', pipeline, phase, status, park_reason, finished_at IS NULL, seq, head, {EVENTS}
    FROM stageflow_runs WHERE id = ?1
UNION ALL SELECT 'strand', strand, state, direction, gen, stage, attempt, owner, NULL
    FROM stageflow_strands WHERE run = ?1
UNION ALL SELECT 'over', strand, NULL, NULL, NULL, held.stage, n, NULL, NULL
    FROM stageflow_strands AS held JOIN stageflow_attempts AS over
        ON over.run = ?1 AND over.stage = held.stage AND over.direction = held.direction AND over.n = held.attempt
    WHERE held.run = ?1 AND held.state = 'running'
UNION ALL SELECT 'checkpoint', stage, skipped, delta, NULL, NULL, NULL, NULL, NULL
    FROM stageflow_checkpoints WHERE run = ?1
"""
"""All that is looked at of one run, at once: a statement costs more than what it finds."""
HELD = "SELECT o.id, o.pid FROM stageflow_strands JOIN stageflow_owners AS o ON o.id = owner WHERE state = 'running'"
MESSAGES = 30
PUBLISHED_MOST = 15
"""Messages a strand while nobody can carry what there is: fewer and fewer."""
MESSAGES_AN_ATTEMPT = 8
Key = tuple[str, str]


class Checks:
    """Looks at the tables past the engine."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._see = sim.database.see
        self._changes = -1
        self._gens: dict[Key, int] = {}
        self._saved: dict[str, dict[str, Any]] = {}
        self._heads: dict[str, tuple[int, str]] = {}
        self.copied: dict[str, frozenset[str]] = {}
        self.nothing_is_wrong_since = 0.0
        self._without_message: dict[Key, float] = {}
        self._excused: set[str | None] = set()
        self._watch = invariants.Watch(sim.database, AUDIT_KEY, steady=False)

    # --- after every transaction --------------------------------------------------------------------------------------

    def step(self, call: str) -> None:
        """What can be seen cheaply, of the runs that were written to; raises nothing, tells the simulation."""
        database = self._sim.database
        if database.raw.total_changes == self._changes:
            return  # nothing was written since the last look
        try:
            for run in sorted(database.written):
                self._run(call, run)
            database.written.clear()
            if call == "mark_expired":
                self._nobody_knew_better()
            if call in ("judge", "take", "mark_expired"):
                self._the_living_are_let_live()
            if self._sim.setup.watched:
                self._watched()
        except Violation as violation:
            self._sim.broken(violation)
        self._changes = database.raw.total_changes

    def _watched(self) -> None:
        try:
            self._watch.check()
        except AssertionError as error:
            raise Violation(str(error)) from error

    def _run(self, call: str, run: str) -> None:
        looked: dict[str, list[Any]] = {"run": [], "strand": [], "over": [], "checkpoint": []}
        for kind, *row in self._see(LOOK, run):
            looked[kind].append(row)
        if not looked["run"]:
            if run in self._heads:
                raise Violation(f"run {run} is gone")
            return  # what would have made it was rolled back
        if call == "fork" and run not in self._heads:
            self._forked(run)
        (found,), strands = looked["run"], looked["strand"]
        self._row(run, *found)
        self._strands(call, run, found[1], strands)
        held = [(row[4], row[2]) for row in strands if row[1] == "running"]
        if looked["over"] or len({*held}) < len(held):
            raise Violation(f"1: strands run {held}, of which are over {looked['over']}")
        self._checkpoints(run, found[0], strands, looked["checkpoint"])

    def _forked(self, run: str) -> None:
        """A fork begins with what its original has and stands by."""
        told = json.loads(self._see("SELECT data FROM stageflow_events WHERE run=? AND type='run.forked'", run)[0][0])
        sql = "SELECT stage, skipped, delta FROM stageflow_checkpoints WHERE run=?"
        here, there = ({stage: what for stage, *what in self._see(sql, one)} for one in (run, told["of"]))
        if here != {stage: there.get(stage) for stage in told["copied"]}:
            raise Violation(f"a fork begins with {here}, its original has {there}")
        undone = "SELECT stage FROM stageflow_saga_steps WHERE run=? AND state IN ('compensating', 'compensated')"
        if lost := here.keys() & {stage for (stage,) in self._see(undone, told["of"])}:
            raise Violation(f"a fork begins with {', '.join(sorted(lost))}, which was undone")
        self.copied[run] = frozenset(here)

    def _row(
        self,
        run: str,
        _pipeline: str,
        phase: str,
        status: str,
        park: str | None,
        unfinished: int,
        seq: int,
        head: str,
        events: int,
    ) -> None:
        if seq != events:
            raise Violation(f"10: run {run} says {seq} events, there are {events}")
        if (status == "parked") != (phase == "settled" and park is not None):
            raise Violation(f"11: run {run} is {status} with park reason {park}")
        if (phase == "settled") == bool(unfinished):
            raise Violation(f"11: run {run} is {status}, and {'not ' if unfinished else ''}finished")
        before = self._heads.get(run)
        if before is not None and (seq < before[0] or (seq == before[0] and head != before[1])):
            raise Violation(f"10: the history of {run} went back from {before[0]} to {seq}")
        self._heads[run] = seq, head

    def _strands(self, call: str, run: str, phase: str, rows: list[Any]) -> None:
        moves = False
        for strand, state, direction, gen, *_rest in rows:
            if state in ACTIVE:
                moves = True
                if state not in MAY_STAND.get((phase, direction), ()):
                    raise Violation(f"4: strand {strand} of {run} is {state} in a run that goes {phase}")
            before = self._gens.get((run, strand), gen)
            if gen < before or (gen > before and call not in RAISES_FENCES):
                raise Violation(f"7: {call} changed the fence of {strand} of {run} from {before} to {gen}")
            self._gens[run, strand] = gen
        if phase != "settled" and not moves:
            raise Violation(f"11: run {run} goes {phase}, and no strand of it will ever move")

    def _nobody_knew_better(self) -> None:
        """Who sweeps by hand holds no lease, and cannot tell that the clock has leapt since all renewed."""
        workers = [worker for worker in self._sim.workers if worker.renewed_at <= self._sim.jumped_at]
        self._excused |= {worker.owner._id for worker in workers}

    def _the_living_are_let_live(self) -> None:
        dead = {
            row[0] for row in self._see("SELECT id FROM stageflow_owners WHERE dead_at IS NOT NULL AND confirmed=0")
        }
        for worker in self._sim.workers:
            if worker.owner._id in dead - self._excused and worker.is_renewed():
                raise Violation(f"{worker.name} was declared dead, though it had renewed its lease")

    def noticed(self, within: float) -> None:
        """Whoever has ended holds nothing any more, and what is ready is not without a message for longer than that."""
        for owner, pid in self._see(HELD):
            if self._sim.has_ended(pid):
                raise Violation(f"{owner} has ended, and nobody took what it held")
        holders = [self._sim.broker.waiting, *(worker.prefetched for worker in self._sim.workers)]
        there = {(message.run, message.strand) for held in holders for message in held}
        ready = set(self._see("SELECT run, strand FROM stageflow_strands WHERE state='ready'")) - there
        now = self._sim.passed
        self._without_message = {key: self._without_message.get(key, now) for key in ready}
        for (run, strand), since in sorted(self._without_message.items()):
            if now - since > within:
                raise Violation(f"{strand} of {self._sim.short(run)} is ready, and its message was lost for good")

    def _checkpoints(self, run: str, pipeline: str, strands: list[Any], rows: list[Any]) -> None:
        saved = {stage: (skipped, delta) for stage, skipped, delta, *_rest in rows}
        for stage, before in self._saved.get(run, {}).items():
            if saved.get(stage) != before:
                raise Violation(f"2: the output of {stage} of {run} was {before}, and is {saved.get(stage)}")
        self._saved[run] = saved
        standing = sorted(row[4] for row in strands if row[2] == "forward" and row[1] != "done")
        stages = self._sim.pipelines[pipeline].plan.stages
        ready = sorted(one.name for one in stages if one.name not in saved and saved.keys() >= set(one.after))
        if standing != ready:
            raise Violation(f"6: on strands of {run} stand {standing}, ready are {ready}")

    # --- at rest ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Everything; raises Violation."""
        with self._sim.database.read() as connection:
            found = invariants.pictures(connection)
        keys = [row[0] for row in self._see("SELECT key FROM stageflow_runs WHERE key IS NOT NULL")]
        if len(keys) != len(set(keys)):
            raise Violation(f"8: a key has two runs: {sorted(keys)}")
        for run, seen in found.items():
            broken = [what for holds in invariants.OF_A_MOMENT for what in holds(seen)]
            broken += invariants.the_chain_is_unbroken(seen, AUDIT_KEY)
            broken += self._against_the_ledger(run, seen)
            broken += _unknown_is_heeded(seen)
            broken += _the_pivot_is_heeded(seen)
            broken += _poison_is_bounded(seen, self._sim.setup.max_lost)
            broken += [] if self._sim.jumped else _delays_are_kept(seen)
            broken += [] if self._sim.jumped else invariants.a_sleep_lasts_until_its_time(seen)
            broken += self._versions_are_heeded(run, seen)
            broken += self._signals_are_heeded(run, seen)
            broken += self._approvals_are_heeded(run, seen)
            starved = len(seen.strands) * PUBLISHED_MOST if self._sim.setup.interlude == "starved" else 0
            broken += _messages_are_bounded(seen, self._sim.broker.published.get(run, 0) - starved)
            if broken:
                raise Violation(f"run {self._sim.short(run)}, {seen.run['status']}: {'; '.join(broken)}")

    def _versions_are_heeded(self, run: str, seen: invariants.Picture) -> list[str]:
        """A person's word counts for the run that they looked at: nobody else had a say in between."""
        if not self._sim.operator.looked:
            return []
        said = [json.loads(event["data"]) for event in seen.events if _says(event)]
        return [
            f"{data['actor']} looked at version {version}, and acted on version {number}"
            for number, data in enumerate(said)
            for version in [self._sim.operator.looked.get((run, data["actor"]))]
            if version not in (None, number)
        ]

    def _signals_are_heeded(self, run: str, seen: invariants.Picture) -> list[str]:
        """What a sender was told is what the run goes by: no signal that was taken is lost, and none made up."""
        taken = self._sim.senders.taken.get(run)
        outputs = [row["delta"] for row in seen.checkpoints if row["stage"] == WORD]
        if taken is not None and run not in self.copied and outputs not in ([], [str(taken[1])]):
            return [f"signal {taken[1]} was taken, the wait ended with {outputs}"]
        consumed = any(row["consumed_at"] is not None for row in seen.signals)
        if consumed and seen.run["error_stage"] == WORD:
            return ["a signal has ended its wait, and the run has failed for want of it"]
        return []

    def _approvals_are_heeded(self, run: str, seen: invariants.Picture) -> list[str]:
        """Nothing behind an approval has acted but by somebody's word, about what is done."""
        done = {row["stage"]: row for row in seen.checkpoints}.get(RELEASE)
        acted = {stage for of, stage in self._sim.bodies.called if of == run}
        behind = seen.plan.descendants.get(RELEASE, frozenset()) & acted
        if done is None:
            return [f"{', '.join(sorted(behind))} began, and nobody has approved it"] if behind else []
        if done["skipped"]:
            over = set(seen.plan.successors[RELEASE]) & acted
            return [f"{', '.join(sorted(over))} began, though it was denied"] if over else []
        digest = json.loads(done["delta"])["digest"]
        ended = [json.loads(event["data"]) for event in seen.events if event["type"] == "stage.ok"]
        for attempt in (told["attempt"] for told in ended if told["stage"] == RELEASE):
            shown = fingerprint({"order": json.loads(seen.run["input"])["text"], "version": attempt // 3})
            if digest != shown:
                return [f"{RELEASE} is done with the approval of {digest}, what is about to happen is {shown}"]
        if run not in self.copied and "approve" not in self._sim.senders.said.get((run, digest), []):
            return [f"{RELEASE} is done with {digest}, which nobody has approved"]
        return []

    def _against_the_ledger(self, run: str, seen: invariants.Picture) -> list[str]:
        ledger, status = self._sim.ledger, str(seen.run["status"])
        broken = []
        undoable = [stage.name for stage in seen.plan.stages if stage.undo is not None]
        if status == "succeeded":
            keyed = {spec.name for spec in self._sim.pipelines[seen.run["pipeline"]].stages if spec.key is not None}
            others = keyed | self.copied.get(run, frozenset())
            others |= {stage for of, stage in self._sim.bodies.answered if of == run}
            others |= {stage.name for stage in seen.plan.stages if stage.is_sleep or stage.takes_answers}
            done = [row["stage"] for row in seen.checkpoints if not row["skipped"] and row["stage"] not in others]
            broken += [
                f"{stage} is done, and its effect is not there" for stage in done if not ledger.stands(run, stage)
            ]
        steps = {stage: str(state) for stage, state in seen.step_states().items()}
        ended = status in ("compensated", "compensation_failed") or (
            status in ("failed", "cancelled") and not seen.run["pivot_passed"]
        )
        if ended:
            excused = {"compensation_failed", "skipped"}
            if status == "compensation_failed" and seen.plan.on_compensation_failure == "halt":
                excused |= {"intended", "recorded", "compensating"}  # its retry waits for a person too
            left = [stage for stage in ledger.standing(run, undoable) if steps.get(stage) not in excused]
            broken += [f"the effect of {stage} was left, its step is {steps.get(stage)}" for stage in left]
        if status == "compensated" and "compensation_failed" in steps.values():
            broken.append("compensated, with an undo that failed")
        for stage in undoable:
            key = ledger.undo_keys.get((run, stage))
            if key is None and steps.get(stage) == "compensated":
                broken.append(f"{stage} counts as undone, and its undo never acted")
            if key is not None and status == "succeeded":
                broken.append(f"{stage} was undone in a run that succeeded")
        return broken


def _says(event: invariants.Row) -> bool:
    """Whether a person said what shall become of the run; who forks it leaves it alone."""
    kind: str = event["type"]
    return kind.startswith("operator.") and kind != "operator.fork"


def _the_pivot_is_heeded(seen: invariants.Picture) -> list[str]:
    """Past its pivot a run only goes forward, unless a person says otherwise."""
    undone = str(seen.run["status"]) in ("compensated", "compensation_failed")
    wrong = undone and seen.run["pivot_passed"] and not seen.run["past_pivot"]
    return ["it was undone past its pivot, and nobody said so"] if wrong else []


def _poison_is_bounded(seen: invariants.Picture, most: int) -> list[str]:
    return [
        f"{row['stage']} lost {row['lost']} processes, {most} is the limit"
        for row in seen.strands
        if row["lost"] > most
    ]


def _delays_are_kept(seen: invariants.Picture) -> list[str]:
    """No attempt begins before the delay of the one before is over."""
    ended = {(row["stage"], row["direction"], row["n"]): row for row in seen.attempts}
    asked = any(map(_says, seen.events))
    return [
        f"attempt {row['n']} of {row['stage']} began too early"
        for row in seen.attempts
        for before in [ended.get((row["stage"], row["direction"], row["n"] - 1))]
        if not asked
        and before is not None
        and before["state"] == "retry"
        and row["began_at"] < before["ended_at"] + (before["delay"] or 0.0) - EARLY_SECONDS - 0.001
    ]


def _unknown_is_heeded(seen: invariants.Picture) -> list[str]:
    """A stage that must not be tried again when nobody knows how it ended is not, unless a person says so."""
    lost: dict[str, int] = {}
    broken = []
    for event in seen.events:
        if _says(event):
            lost.clear()
        elif event["type"] == "stage.lost":
            data = json.loads(event["data"])
            if not data.get("undo"):
                lost[data["stage"]] = event["seq"]
        begun = invariants.begun_by(event) if lost else None
        if begun in lost and seen.plan.by_name[begun].on_unknown != "retry":
            broken.append(f"{begun} was lost (event {lost[begun]}) and began again all the same")
    return broken


def _messages_are_bounded(seen: invariants.Picture, published: int) -> list[str]:
    bound = MESSAGES + MESSAGES_AN_ATTEMPT * len(seen.attempts)
    return [] if published <= bound else [f"13: {published} messages were published for it, {bound} would be many"]
