"""The invariants: cheap ones after every transaction, all of them at rest, against the tables and the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stageflow_durable.codec import fingerprint
from stageflow_durable.model.work import UNDO_PREFIX
from stageflow_durable.transitions.start import EARLY_SECONDS
from tests.protocol import invariants
from tests.simulation.bench import AUDIT_KEY
from tests.simulation.ledger import Violation, named
from tests.simulation.scenario import LIMITS, RELEASE, WORD

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

MAY_STAND = {
    ("forward", "forward"): {"ready", "running", "waiting"},
    ("draining", "forward"): {"running"},
    ("backward", "backward"): {"ready", "running", "waiting"},
}
ACTIVE = {"ready", "running", "waiting"}
UNDONE = {"compensating", "compensated"}
RAISES_FENCES = {"take", "order", "settle", "repair"}
BY_TIME = {"time", "limit", "worker"}
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
        self._began: dict[str, set[tuple[str, int]]] = {}
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
        if database.changes == self._changes:
            return  # nothing was written since the last look
        try:
            for run in sorted(database.written):
                self._run(call, run)
            self._slots()
            database.written.clear()
            if call == "mark_expired":
                self._nobody_knew_better()
            if call in ("judge", "take", "mark_expired"):
                self._the_living_are_let_live()
            if self._sim.setup.watched:
                self._watched()
        except Violation as violation:
            self._sim.broken(violation)
        self._changes = database.changes

    def _slots(self) -> None:
        """Slots follow their strands: none is held for nothing, and no limit is passed."""
        rows = self._see("slots")
        if not rows:
            return
        strands = {(row.run, row.strand): row for row in self._see("strands") if not row.item}
        held: Counter[tuple[str, str]] = Counter()
        now = self._sim.now()
        acting = {row.id for row in self._see("owners") if not row.confirmed}
        for row in rows:
            if row.until is None and not _follows(row, strands.get((row.run, row.strand))):
                raise Violation(f"13: {row.strand} of {self._sim.short(row.run)} has a slot of {row.name} for nothing")
            lasts = row.until is None or (row.until > now and row.owner in acting)
            held[row.name, row.key] += bool(row.attempt) and lasts
        most = {limit.name: limit.limit for limits in LIMITS.values() for limit in limits}
        if any(count > most[name] for (name, _key), count in held.items()):
            raise Violation(f"13: more slots are held than there are: {held}")

    def _watched(self) -> None:
        try:
            self._watch.check()
        except AssertionError as error:
            raise Violation(str(error)) from error

    def _run(self, call: str, run: str) -> None:
        rows = self._see("runs", run)
        if not rows:
            if run in self._heads:
                raise Violation(f"run {run} is gone")
            return  # what would have made it was rolled back
        if call == "fork" and run not in self._heads:
            self._forked(run)
        (found,), every = rows, self._see("strands", run)
        strands = [row for row in every if not row.item]
        self._row(run, found, self._sim.database.count_of_events(run))
        self._strands(call, run, found.phase, strands, [row for row in every if row.item])
        held = [(row.stage, row.item, row.direction) for row in every if row.state == "running"]
        over = self._over(run, every) if held else []
        if over or len({*held}) < len(held):
            raise Violation(f"1: strands run {held}, of which are over {over}")
        self._checkpoints(run, found.pipeline, strands)

    def _over(self, run: str, strands: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Attempts that run on a strand and are over."""
        ended = {(row.stage, row.item, row.direction, row.n) for row in self._see("attempts", run)}
        running = {(row.stage, row.item, row.direction, row.attempt) for row in strands if row.state == "running"}
        return sorted(ended & running)

    def _forked(self, run: str) -> None:
        """A fork begins with what its original has and stands by."""
        told = next(json.loads(row.data) for row in self._see("events", run) if row.type == "run.forked")
        here, there = (
            {row.stage: (row.skipped, row.delta) for row in self._see("checkpoints", one) if not row.item}
            for one in (run, told["of"])
        )
        if here != {stage: there.get(stage) for stage in told["copied"]}:
            raise Violation(f"a fork begins with {here}, its original has {there}")
        undone = {row.stage for row in self._see("saga_steps", told["of"]) if row.state in UNDONE and not row.item}
        if lost := here.keys() & undone:
            raise Violation(f"a fork begins with {', '.join(sorted(lost))}, which was undone")
        self.copied[run] = frozenset(here)

    def _row(self, run: str, row: Any, events: int) -> None:
        seq, head = row.seq, row.head
        if seq != events:
            raise Violation(f"10: run {run} says {seq} events, there are {events}")
        if (row.status == "parked") != (row.phase == "settled" and row.park_reason is not None):
            raise Violation(f"11: run {run} is {row.status} with park reason {row.park_reason}")
        if (row.phase == "settled") == (row.finished_at is None):
            raise Violation(f"11: run {run} is {row.status}, and finished at {row.finished_at}")
        before = self._heads.get(run)
        if before is not None and (seq < before[0] or (seq == before[0] and head != before[1])):
            raise Violation(f"10: the history of {run} went back from {before[0]} to {seq}")
        self._heads[run] = seq, head

    def _strands(self, call: str, run: str, phase: str, rows: Sequence[Any], of_items: Sequence[Any]) -> None:
        moves = [self._stand(call, run, phase, rows), self._items(call, run, phase, of_items)]
        if phase != "settled" and not any(moves):
            raise Violation(f"11: run {run} goes {phase}, and no strand of it will ever move")

    def _stand(self, call: str, run: str, phase: str, rows: Sequence[Any]) -> bool:
        """Whether one of them may move; each as the run's phase allows."""
        moves = False
        for row in rows:
            strand, state, direction, gen = named(row.strand, row.item), row.state, row.direction, row.gen
            if state == "waiting" and row.wake_at is None and row.waiting_for in BY_TIME:
                raise Violation(f"11: strand {strand} of {run} waits, and nothing will ever wake it")
            if state in ACTIVE:
                moves = True
                if state not in MAY_STAND.get((phase, direction), ()):
                    raise Violation(f"4: strand {strand} of {run} is {state} in a run that goes {phase}")
            before = self._gens.get((run, strand), gen)
            if gen < before or (gen > before and call not in RAISES_FENCES):
                raise Violation(f"7: {call} changed the fence of {strand} of {run} from {before} to {gen}")
            self._gens[run, strand] = gen
        return moves

    def _items(self, call: str, run: str, phase: str, rows: Sequence[Any]) -> bool:
        """Items stand as strands do; their groups count what there is; none begins in a run that has been stopped.
        Returns whether one of them may move.
        """
        if not rows:
            return False
        moves = self._stand(call, run, phase, rows)
        self._recount(run, rows)
        running = [row for row in rows if row.state == "running" and row.direction == "forward"]
        began = {(named(row.strand, row.item), row.attempt) for row in running}
        before = self._began.get(run, set())
        if phase != "forward" and not began <= before:
            raise Violation(f"3: {call}: {sorted(began - before)} of {run} began in a run that goes {phase}")
        self._began[run] = began
        return moves

    def _recount(self, run: str, rows: Sequence[Any]) -> None:
        """What the groups of items count is what there is."""
        places = {row.item: (row.stage, row.grp) for row in self._see("items", run)}
        there: dict[tuple[str, int], list[str]] = {}
        for row in rows:
            stage, grp = places.get(row.item, (None, None))
            if stage == row.strand.removeprefix(UNDO_PREFIX):
                there.setdefault((row.strand, grp), []).append(row.state)
        for row in self._see("item_groups", run):
            states = there.get((row.strand, row.grp), [])
            told = row.total, row.running, row.done + row.failed
            found = len(states), states.count("running"), states.count("done")
            if told != found:
                raise Violation(f"6: group {row.grp} of {row.strand} of {run} counts {told}, there are {found}")

    def _nobody_knew_better(self) -> None:
        """Who sweeps by hand holds no lease, and cannot tell that the clock has leapt since all renewed."""
        workers = [worker for worker in self._sim.workers if worker.renewed_at <= self._sim.jumped_at]
        self._excused |= {worker.owner._id for worker in workers}

    def _the_living_are_let_live(self) -> None:
        dead = {row.id for row in self._see("owners") if row.dead_at is not None and not row.confirmed}
        for worker in self._sim.workers:
            if worker.owner._id in dead - self._excused and worker.is_renewed():
                raise Violation(f"{worker.name} was declared dead, though it had renewed its lease")

    def noticed(self, within: float) -> None:
        """Whoever has ended holds nothing any more, and what is ready is not without a message for longer than that."""
        strands = self._see("strands")
        holding = {row.owner for row in strands if row.state == "running"}
        for owner in self._see("owners"):
            if owner.id in holding and self._sim.has_ended(owner.pid):
                raise Violation(f"{owner.id} has ended, and nobody took what it held")
        holders = [self._sim.broker.waiting, *(worker.prefetched for worker in self._sim.workers)]
        there = {(message.run, message.strand) for held in holders for message in held}
        ready = {(row.run, named(row.strand, row.item)) for row in strands if row.state == "ready"} - there
        now = self._sim.passed
        self._without_message = {key: self._without_message.get(key, now) for key in ready}
        for (run, strand), since in sorted(self._without_message.items()):
            if now - since > within:
                raise Violation(f"{strand} of {self._sim.short(run)} is ready, and its message was lost for good")

    def _checkpoints(self, run: str, pipeline: str, strands: Sequence[Any]) -> None:
        saved = {row.stage: (row.skipped, row.delta) for row in self._see("checkpoints", run) if not row.item}
        for stage, before in self._saved.get(run, {}).items():
            if saved.get(stage) != before:
                raise Violation(f"2: the output of {stage} of {run} was {before}, and is {saved.get(stage)}")
        self._saved[run] = saved
        standing = sorted(row.stage for row in strands if row.direction == "forward" and row.state != "done")
        stages = self._sim.pipelines[pipeline].plan.stages
        ready = sorted(one.name for one in stages if one.name not in saved and all(map(saved.__contains__, one.after)))
        if standing != ready:
            raise Violation(f"6: on strands of {run} stand {standing}, ready are {ready}")

    # --- at rest ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Everything; raises Violation."""
        found = self._sim.database.pictures(AUDIT_KEY)
        if any(row.until is None for row in self._see("slots")):
            raise Violation("13: everything is at rest, and a slot is held or waited for")
        keys = [row.key for row in self._see("runs") if row.key is not None]
        if len(keys) != len(set(keys)):
            raise Violation(f"8: a key has two runs: {sorted(keys)}")
        for run, seen in found.items():
            broken = [what for holds in invariants.OF_A_MOMENT for what in holds(seen)]
            broken += invariants.the_chain_is_unbroken(seen, AUDIT_KEY)
            broken += self._against_the_ledger(run, seen)
            broken += self._items_against_the_ledger(run, seen)
            broken += _unknown_is_heeded(seen)
            broken += _the_pivot_is_heeded(seen)
            broken += _poison_is_bounded(seen, self._sim.setup.max_lost)
            broken += [] if self._sim.jumped else _delays_are_kept(seen)
            broken += [] if self._sim.jumped else invariants.a_sleep_lasts_until_its_time(seen)
            broken += self._versions_are_heeded(run, seen)
            broken += self._signals_are_heeded(run, seen)
            broken += self._approvals_are_heeded(run, seen)
            broken += self._calls_are_heeded(run, seen)
            broken += [] if self._sim.jumped else invariants.items_begin_only_forward(seen)
            strands = len(seen.strands) + sum(len(item.strands) for item in seen.items)
            starved = strands * PUBLISHED_MOST if self._sim.setup.interlude == "starved" else 0
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
        consumed = any(row["consumed_at"] is not None and row["stage"] == WORD for row in seen.signals)
        if consumed and seen.run["error_stage"] == WORD:
            return ["a signal has ended its wait, and the run has failed for want of it"]
        return []

    def _calls_are_heeded(self, run: str, seen: invariants.Picture) -> list[str]:
        """What the outside was told is what the run goes by: no call that was taken is lost, none made up, and none
        taken where nothing waits for it.
        """
        taken = {stage: number for (of, stage), (_, number) in self._sim.outside.taken.items() if of == run}
        kept = {row["stage"]: int(row["payload"]) for row in seen.signals if row["stage"] != WORD}
        broken = [
            f"the call {number} for {stage} was taken, and {kept.get(stage)} is kept"
            for stage, number in taken.items()
            if kept.get(stage) != number
        ]
        called: set[str] = set()
        for event in seen.events:
            kind = event["type"]
            if kind == "work.compensation_started":
                called.add("undo")
            if kind == "stage.called_back":
                data = json.loads(event["data"])
                called.add(data["stage"])
                broken += [f"{data['stage']} was called back while the run turned back"] if "undo" in called else []
            if called and kind in ("work.retry_attempt", "stage.failed"):
                data = json.loads(event["data"])
                if data["stage"] in called and str(data["error"]).startswith("no callback came"):
                    broken.append(f"{data['stage']} was called back, and has expired")
        return broken

    def _approvals_are_heeded(self, run: str, seen: invariants.Picture) -> list[str]:
        """Nothing behind an approval has acted but by somebody's word, about what is done."""
        done = {row["stage"]: row for row in seen.checkpoints}.get(RELEASE)
        acted = {about.partition("#")[0] for of, about in self._sim.bodies.called if of == run}
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
        undoable = [s.name for s in seen.plan.stages if s.undo is not None and s.name not in seen.with_items]
        if status == "succeeded":
            keyed = {spec.name for spec in self._sim.pipelines[seen.run["pipeline"]].stages if spec.key is not None}
            others = keyed | self.copied.get(run, frozenset())
            others |= {stage for of, stage in self._sim.bodies.answered if of == run}
            others |= {
                stage.name for stage in seen.plan.stages if stage.is_sleep or stage.takes_answers
            } | seen.with_items
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

    def _items_against_the_ledger(self, run: str, seen: invariants.Picture) -> list[str]:
        ledger, status = self._sim.ledger, str(seen.run["status"])
        broken = []
        undoing = status in ("compensated", "compensation_failed")
        ended = undoing or (status in ("failed", "cancelled") and not seen.run["pivot_passed"])
        for item in seen.items:
            stage, name = item.row["stage"], named(item.row["stage"], item.row["item"])
            step = next((str(row["state"]) for row in item.steps), None)
            done = any(not row["skipped"] for row in item.checkpoints)
            answered = (run, name) in self._sim.bodies.answered
            if status == "succeeded" and done and not (answered or ledger.stands(run, name)):
                broken.append(f"{name} is done, and its effect is not there")
            undoable = seen.plan.by_name[stage].undo is not None
            of_stage = str(seen.step_states().get(stage))
            halted = status == "compensation_failed" and seen.plan.on_compensation_failure == "halt"
            excused = halted or {step, of_stage} & {"compensation_failed", "skipped"}
            if ended and undoable and ledger.stands(run, name) and not excused:
                broken.append(f"the effect of {name} was left, its step is {step}")
            if step == "compensated" and (run, name) not in ledger.undo_keys:
                broken.append(f"{name} counts as undone, and its undo never acted")
            if status == "succeeded" and (run, name) in ledger.undo_keys:
                broken.append(f"{name} was undone in a run that succeeded")
        return broken


def _follows(slot: Any, strand: Any) -> bool:
    """Whether the strand still stands where it took the slot, or waits for it."""
    if strand is None or (strand.stage, strand.gen) != (slot.stage, slot.gen):
        return False
    if not slot.attempt:
        return strand.state in ("ready", "waiting")
    return bool((strand.state, strand.attempt) == ("running", slot.attempt))


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
    attempts = len(seen.attempts) + sum(len(item.attempts) + 2 for item in seen.items)
    bound = MESSAGES + MESSAGES_AN_ATTEMPT * attempts
    return [] if published <= bound else [f"13: {published} messages were published for it, {bound} would be many"]
