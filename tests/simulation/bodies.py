"""What the stages and undos of a simulated pipeline do, and what they look at: each is a witness as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

from stageflow_durable import PermanentError, StageOutput, TransientError
from stageflow_durable.codec import decode, plain
from stageflow_durable.engine.interrupt import GRACE_SECONDS, MARGIN_SECONDS, StageTimeout
from stageflow_durable.errors import StageflowError
from stageflow_durable.model.keys import stage_key
from stageflow_durable.model.work import UNDO_PREFIX
from stageflow_durable.testing import Crash
from tests.items import item_of
from tests.simulation.ledger import Request, Violation, named
from tests.simulation.outside import TIMEOUTS

if TYPE_CHECKING:
    from tests.simulation.process import Worker
    from tests.simulation.simulation import Simulation

NO_ORDINARY_ERRORS = ["exit", "interrupt", "group", "hostile"]
"""Whatever else a body may raise."""

ACTED = {"transient", "permanent", "fail", "bug", "cancel", "unsavable", *NO_ORDINARY_ERRORS}
"""Endings that say nothing about whether the effect happened."""

ENDINGS = [
    *("ok", "transient", "retry", "permanent", "fail", "reject", "skip", "bug", "cancel", "cancelled", "unsavable"),
    *NO_ORDINARY_ERRORS,
]
LIKELY = [0, 8, 4, 3, 2, 3, 3, 1, 1, 1, 1, 0.3, 0.3, 0.3, 0.3]
UNDO_ENDINGS = ["ok", "transient", "retry", "permanent", "fail", "bug", *NO_ORDINARY_ERRORS]
UNDO_LIKELY = [0, 4, 2, 1, 1, 1, 0.3, 0.3, 0.3, 0.3]
ON_ITS_WAY = [0.5, 4.0, 30.0]
"""Seconds until what a process had sent arrives."""

SLIP = TypeError("a slip")


class Hostile(Exception):
    """Ends the process of whoever looks at it without care."""

    def __str__(self) -> str:
        raise SystemExit("nobody reads this")

    __repr__ = __str__

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt(name)


FALSY: tuple[Any, ...] = (0, "", None, [], {}, False)


def item_of_key(key: str) -> int:
    """Which item a stage's key is of; 0: of none."""
    return int(key.split("_")[1].partition(".")[2] or 0)


class Bodies:
    """The bodies of one simulation. ``played``: those of the one that is played now."""

    played: ClassVar[Bodies]

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self.inside: dict[object, tuple[str, str, str | None]] = {}
        self.answered: set[tuple[str, str]] = set()
        self.called: set[tuple[str, str]] = set()
        self._count = 0
        self.crowded: dict[object, tuple[frozenset[tuple[str, str]], float]] = {}
        self._raised: list[BaseException] = []

    def _kept(self, body: Callable[[Any], Any], ctx: Any) -> Any:
        """Call a body. An error that it was not to end with is ours, which the engine would take for the stage's."""
        try:
            return body(ctx)
        except BaseException as error:
            self._raised.append(error)
            if (
                isinstance(error, Exception)
                and not isinstance(error, StageflowError | Hostile)
                and error.args != SLIP.args
            ):
                raise Violation(f"a body of the simulation raised {type(error).__name__}: {error}") from error
            raise

    def forget(self) -> None:
        """Errors lead to the frames that they passed, and those to the errors."""
        for error in self._raised:
            error.__traceback__ = None
        vars(self).clear()

    # --- a stage ------------------------------------------------------------------------------------------------------

    def stage(self, ctx: Any) -> Any:
        return self._kept(self._stage, ctx)

    def _stage(self, ctx: Any) -> Any:
        sim, worker = self._sim, self._sim.worker()
        run, stage, since = ctx.run_id, ctx.stage, sim.passed
        about = named(stage, item_of(ctx))
        sim.note(worker, "body", f"{about} of {sim.short(run)}, attempt {ctx.attempt}")
        owner = ctx.services.work.owner  # the process may have come back under another id since
        held = self._holds(owner, run, stage, "forward", item_of(ctx))
        self._witness(ctx, held)
        spec = sim.pipelines[ctx.pipeline].by_name[stage]
        self.called.add((run, about))
        mark = object()
        self.inside[mark] = run, stage, owner
        pools = {(limit.name, limit.key(ctx) if limit.key else ""): limit.limit for limit in spec.limits}
        self.crowded[mark] = frozenset(pools), since + (spec.timeout or float("inf"))
        self._count_inside(pools)
        try:
            return self._act(ctx, worker, since, spec.timeout)
        finally:
            del self.inside[mark]
            del self.crowded[mark]

    def _count_inside(self, pools: dict[tuple[str, str], int]) -> None:
        """Whoever may think that they are not. One that stood still beyond its timeout does not count: then its slot is
        free, as its undo may begin.
        """
        for pool, limit in pools.items():
            count = sum(pool in needs and end >= self._sim.passed for needs, end in self.crowded.values())
            if count > limit and not self._sim.jumped:
                self._sim.broken(Violation(f"13: {count} bodies run at the same time that need {pool}"))

    def _began(self, run: str, stage: str, item: int, owner: str | None) -> float:
        """When the attempt began that is called now."""
        rows = self._sim.database.see("strands", run)
        one = stage, item, "forward", owner
        mine = (row.began_at for row in rows if (row.stage, row.item, row.direction, row.owner) == one)
        return max((at for at in mine if at is not None), default=0.0) - self._sim.now() + self._sim.passed

    def _act(self, ctx: Any, worker: Worker, since: float, timeout: float | None) -> Any:
        sim, run, stage = self._sim, ctx.run_id, named(ctx.stage, item_of(ctx))
        began = 0.0 if timeout is None else self._began(run, ctx.stage, item_of(ctx), ctx.services.work.owner)
        leapt = sim.leapt
        trouble = sim.setup.rates["trouble"]
        weights = [sum(LIKELY) * (1 - trouble) / max(trouble, 0.01), *LIKELY[1:]]
        ending = sim.chance.pick(f"{run} {stage} ends", ENDINGS, weights)
        if ending == "cancelled":
            ctx.raise_if_cancelled()
            ending = "ok"
        rate = 0.0 if item_of(ctx) else sim.setup.callbacks  # a URL is a stage's
        url = ctx.callback_url() if ending == "ok" and rate and sim.chance.flip(f"{run} {stage} waits", rate) else None
        self._make_steps(ctx)
        acts = ending == "ok" or (ending in ACTED and sim.chance.flip(f"{run} {stage} acts", 0.5))
        with self._sending(ctx, since) if acts else nullcontext():
            sim.fates.in_body(f"{run} {stage} before its effect")
        self._timely(since, timeout)
        if acts:
            self._alone(ctx)
            applied = sim.ledger.act(run, stage, ctx.idempotency_key, since)
            # A clock that leaps in between ends any wait for a time; what has no bound waits for no time.
            bounded = timeout is not None and (sim.leapt != leapt or began + MARGIN_SECONDS < since)
            if not applied and not bounded:
                raise Violation(f"{stage} was undone while a process could still act for it")
            sim.note(worker, "effect", f"{stage}: {'applied' if applied else 'refused'}")
        if url is not None:
            sim.outside.hand(url)
        sim.fates.in_body(f"{run} {stage} after its effect")
        self._timely(since, timeout)
        if url is not None:
            return StageOutput.wait(timeout=sim.chance.one_of(f"{run} {stage} waits for", TIMEOUTS))
        return self._end(ending, ctx)

    def _make_steps(self, ctx: Any) -> None:
        """Some stages make steps. What a step brings is what was saved, and no attempt that holds its stage makes a
        step again that was saved.
        """
        run, about = ctx.run_id, named(ctx.stage, item_of(ctx))
        for number in range(max(0, crc32(f"{run} {about}".encode()) % 8 - 5)):
            brought = ctx.step("step", partial(self._made, ctx), number)
            rows = self._steps_of(ctx)
            if sum(decode(row.result) == brought for row in rows) != 1:
                raise Violation(f"step {number} of {about} brought {brought}, saved are {[row.result for row in rows]}")

    def _steps_of(self, ctx: Any) -> list[Any]:
        rows = self._sim.database.see("calls", ctx.run_id)
        return [row for row in rows if (row.stage, row.item) == (ctx.stage, item_of(ctx))]

    def _made(self, ctx: Any, number: int) -> dict[str, int]:
        held = self._holds(ctx.services.work.owner, ctx.run_id, ctx.stage, "forward", item_of(ctx))
        if held and any(decode(row.result)["step"] == number for row in self._steps_of(ctx)):
            raise Violation(f"step {number} of {ctx.stage} is made again, though it is saved")
        self._count += 1
        return {"step": number, "made": self._count}

    @contextmanager
    def _sending(self, ctx: Any, since: float) -> Iterator[None]:
        """What a process had sent when it died may arrive: what acts outlives who began it."""
        sim, run, stage = self._sim, ctx.run_id, named(ctx.stage, item_of(ctx))
        try:
            yield
        except Crash:
            if not sim.healing and sim.chance.flip(f"{run} {stage} had sent it", 0.3):
                due = sim.passed + sim.chance.one_of(f"{run} {stage} arrives after", ON_ITS_WAY)
                sim.sent.append(Request(due, run, stage, ctx.idempotency_key, since))
            raise

    def _timely(self, since: float, timeout: float | None) -> None:
        """What the alarm does, seen from within the body."""
        late = 0.0 if timeout is None else self._sim.passed - since - timeout
        if late > GRACE_SECONDS:
            self._sim.fates.die("its stage did not end in time")
        if late > 0:
            raise StageTimeout("it took too long")

    def _alone(self, ctx: Any) -> None:
        """Under one business key one run's effect stands."""
        if self._sim.pipelines[ctx.pipeline].by_name[ctx.stage].key is None:
            return
        for effect in self._sim.ledger.effects.values():
            same = effect.net and (effect.stage, effect.run) != (ctx.stage, ctx.run_id) and effect.stage == ctx.stage
            if same and self._order(effect.run) == (ctx.pipeline, ctx.input["text"]):
                raise Violation(f"{ctx.stage} acts under a business key under which another run's effect stands")

    def _order(self, run: str) -> tuple[str, str]:
        (row,) = self._sim.database.see("runs", run)
        return row.pipeline, decode(row.input)["text"]

    def _end(self, ending: str, ctx: Any) -> Any:
        if ending in _ENDS:
            return _ENDS[ending]()
        self._count += 1
        kind = self._sim.chance.pick(f"{ctx.run_id} {ctx.stage} output", ["plain", "falsy", "with event"], [8, 1, 1])
        if kind == "with event":
            ctx.emit("sim.event", number=self._count)
        return FALSY[self._count % len(FALSY)] if kind == "falsy" else {"of": ctx.stage, "number": self._count}

    def _holds(self, owner: str | None, run: str, stage: str, direction: str, item: int) -> bool:
        """Whether the caller is the one that the tables know; else it is a zombie, whom only the remote can refuse."""
        mine = stage, direction, "running", owner, item
        rows = self._sim.database.see("strands", run)
        return any((row.stage, row.direction, row.state, row.owner, row.item) == mine for row in rows)

    def _witness(self, ctx: Any, held: bool) -> None:
        sim, run, stage = self._sim, ctx.run_id, ctx.stage
        rows = sim.database.see("checkpoints", run)
        saved = {row.stage: row.delta for row in rows if not row.item}
        if held and (stage in saved or (stage, item_of(ctx)) in {(row.stage, row.item) for row in rows}):
            raise Violation(f"stage {stage} runs again, though its outcome is committed")
        pipeline = sim.pipelines[ctx.pipeline]
        ancestors = pipeline.plan.ancestors[stage]
        if missing := ancestors - saved.keys():
            raise Violation(f"stage {stage} began before {', '.join(sorted(missing))} was committed")
        seen = {name: plain(value) for name, value in ctx.outputs.items()}
        due = {name: decode(saved[name]) for name in ancestors if saved[name] is not None}
        if seen != due:
            raise Violation(f"stage {stage} sees {seen}, saved was {due}")
        policy = pipeline.by_name[stage].retry
        if policy is not None and ctx.attempt > policy.max_attempts:
            raise Violation(f"stage {stage} is at attempt {ctx.attempt} of {policy.max_attempts}")
        if ctx.idempotency_key != stage_key(run, stage, item_of(ctx)):
            raise Violation(f"stage {stage} got the key {ctx.idempotency_key}")

    # --- an undo ------------------------------------------------------------------------------------------------------

    def undo(self, ctx: Any) -> Any:
        return self._kept(self._undo, ctx)

    def _undo(self, ctx: Any) -> Any:
        sim, worker = self._sim, self._sim.worker()
        run, stage, item = ctx.run_id, ctx.stage, item_of_key(ctx.action_key)
        sim.note(worker, "undo", f"{named(stage, item)} of {sim.short(run)}, attempt {ctx.attempt}, {ctx.outcome}")
        held = self._holds(worker.owner._id, run, stage, "backward", item)
        if held:
            self._witness_undo(ctx)
        mark = object()
        self.inside[mark] = run, UNDO_PREFIX + stage, worker.owner._id
        try:
            return self._act_undo(ctx, worker)
        finally:
            del self.inside[mark]

    def _act_undo(self, ctx: Any, worker: Worker) -> Any:
        sim, run, stage = self._sim, ctx.run_id, named(ctx.stage, item_of_key(ctx.action_key))
        trouble = sim.setup.rates["trouble"]
        weights = [5 * (1 - trouble) / max(trouble, 0.01), *UNDO_LIKELY[1:]]
        ending = sim.chance.pick(f"{run} undo {stage} ends", UNDO_ENDINGS, weights)
        acts = ending == "ok" or sim.chance.flip(f"{run} undo {stage} acts", 0.5)
        sim.fates.in_body(f"{run} undo {stage} before its effect")
        if acts:
            sim.ledger.undo(run, stage, ctx.action_key, ctx.idempotency_key)
            sim.note(worker, "undone", stage)
        sim.fates.in_body(f"{run} undo {stage} after its effect")
        return None if ending == "ok" else _ENDS[ending]()

    def _doubted(self, run: str, stage: str) -> bool:
        """Whether some attempt was lost: its body may have begun."""
        rows = self._sim.database.see("attempts", run)
        return any(row.doubt and (row.stage, row.direction) == (stage, "forward") for row in rows)

    def _witness_undo(self, ctx: Any) -> None:
        sim, run, stage = self._sim, ctx.run_id, ctx.stage
        item = item_of_key(ctx.action_key)
        rows = sim.database.see("saga_steps", run)
        steps = {row.stage: row.state for row in rows if not row.item}
        plan = sim.pipelines[ctx.pipeline].plan
        if {(row.stage, row.item): row.state for row in rows}.get((stage, item)) != "compensating":
            raise Violation(f"the undo of {stage} runs, though its step is {steps.get(stage)}")
        owed = {"intended", "recorded", "compensating"}
        behind = sorted(name for name in plan.descendants[stage] if steps.get(name) in owed)
        if behind:
            raise Violation(f"{stage} is undone before {', '.join(behind)}")
        alive = {row.id for row in sim.database.see("owners") if row.dead_at is None}
        for other, where, owner in self.inside.values():
            if other == run and where in plan.descendants[stage] | {stage} and owner in alive:
                raise Violation(f"{stage} is undone while {owner}, which lives, is in {where}")
        if stage in sim.checks.copied.get(run, ()):
            raise Violation(f"{stage} is undone in a fork, which has only copied it")
        this = run, named(stage, item)
        if this in self.answered and this not in self.called and not self._doubted(run, stage):
            raise Violation(f"{stage} is undone, though an observer answered in its place")
        if ctx.action_key != stage_key(run, stage, item):
            raise Violation(f"the undo of {stage} was told the key {ctx.action_key}")
        saved_rows = sim.database.see("checkpoints", run)
        deltas = [row.delta for row in saved_rows if (row.stage, row.item) == (stage, item)]
        if ctx.outcome == "ok" and not deltas:
            raise Violation(f"the undo of {stage} was told that it is ok, and nothing was saved")
        saved = decode(deltas[0]) if deltas and deltas[0] is not None else None
        if plain(ctx.output) != saved:
            raise Violation(f"the undo of {stage} was told the output {ctx.output}, saved was {saved}")


# The functions of every stage in every seed: what a pipeline finds out about a function it finds out once.


def stage(ctx: Any) -> Any:
    """The body of a stage."""
    return Bodies.played.stage(ctx)


def undo(ctx: Any) -> Any:
    """Its undo."""
    return Bodies.played.undo(ctx)


def _raise(error: BaseException) -> Any:
    def end() -> Any:
        raise type(error)(*error.args)

    return end


_ENDS: dict[str, Any] = {
    "exit": _raise(SystemExit("a body that exits")),
    "interrupt": _raise(KeyboardInterrupt()),
    "group": _raise(BaseExceptionGroup("several", [TransientError("busy"), SystemExit(1)])),
    "hostile": _raise(Hostile()),
    "transient": _raise(TransientError("busy")),
    "permanent": _raise(PermanentError("no")),
    "bug": _raise(SLIP),
    "retry": lambda: StageOutput.retry("not yet"),
    "fail": lambda: StageOutput.fail("no"),
    "reject": lambda: StageOutput.reject("declined"),
    "skip": lambda: StageOutput.skip("nothing to do"),
    "cancel": lambda: StageOutput.cancel("not wanted any more"),
    "unsavable": object,
}
