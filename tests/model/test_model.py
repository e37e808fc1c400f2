"""The public API against a model of a page: whatever is done in whatever order, what users are promised holds.

``make test`` plays the same examples each time; ``STAGEFLOW_MODEL_EXAMPLES=2000 pytest tests/model`` plays others, and
makes a story that fails as short as it can be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from stageflow_durable import RetryPolicy
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.errors import IdempotencyParamMismatch, NotAllowed, OperatorConflict, RunError
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import AT_REST, RunStatus, StageState
from stageflow_durable.model.verbs import allowed_verbs, failed_undo_stages
from stageflow_durable.testing import Crash, InProcessEngine, engine_for_tests
from tests.model.world import AFTER_VERB, AT_WILL, PLAYS, Fate, Outside, descendants, pipelines

EXAMPLES = int(os.environ.get("STAGEFLOW_MODEL_EXAMPLES", "0"))
WHO: dict[str, Any] = {"reason": "because", "actor": "somebody"}
KEYS = st.sampled_from(["k1", "k2", "k3"])
SELDOM = st.sampled_from([False, False, False, True])
SOME_PLAYS = st.lists(st.sampled_from(PLAYS), max_size=6)
POINTS = st.sampled_from(
    [
        (when, call)
        for when in ("before", "after")
        for call in ("begin", "succeed", "retry_later", "fail", "undo_done", "publish")
    ]
)


class Promises(RuleBasedStateMachine):
    """``fates`` are the runs of the model."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self.outside = Outside()
        self.fates: dict[str, Fate] = {}
        self.heads: dict[str, tuple[int, str]] = {}
        self.engine: InProcessEngine

    @initialize(in_place=st.sampled_from([1, 50]), watched=st.booleans(), workers=st.integers(1, 2))
    def start(self, in_place: int, watched: bool, workers: int) -> None:
        made = engine_for_tests(
            pipelines(self.outside, 1),
            workers=workers,
            in_place_stages=in_place,
            retry=RetryPolicy(3, base_delay=2, jitter="none"),
            audit_key="the key of the model",
        )
        self.engine = self.outside.engine = self._open.enter_context(made)
        self.engine.watched = watched

    # --- submitting ---------------------------------------------------------------------------------------------------

    @rule(target=runs, pipeline=st.sampled_from(["line", "tree", "paid"]), n=st.integers(1, 2), late=st.booleans())
    def enqueue(self, pipeline: str, n: int, late: bool) -> str:
        handle = self.engine.enqueue(pipeline, {"n": n}, deadline=20 if late else None)
        assert not handle.replayed
        return self._new(handle, Fate(None, {"n": n}))

    @rule(target=runs, key=KEYS, n=st.integers(1, 2), crash=st.booleans())
    def enqueue_with_key(self, key: str, n: int, crash: bool) -> Any:
        known = self._run_of(("line", key))
        if crash:
            self.engine.faults.at("before", "publish")
        try:
            handle = self.engine.enqueue("line", {"n": n}, idempotency_key=key)
        except Crash:
            handle = self.engine.enqueue("line", {"n": n}, idempotency_key=key)
            assert handle.replayed, "the run was recorded before its message"
            assert known is None, "a message for a run that was there"
            return self._new(handle, Fate(("line", key), {"n": n}))
        except IdempotencyParamMismatch:
            assert known is not None
            assert self.fates[known].given != {"n": n}
            return multiple()
        finally:
            self.engine.faults.clear()
        assert handle.replayed == (known is not None)
        if known is None:
            return self._new(handle, Fate(("line", key), {"n": n}))
        assert (handle.run_id, self.fates[known].given) == (known, {"n": n}), "one run a key"
        return multiple()

    @rule(target=runs, run=runs, data=st.data(), key=st.none() | st.just("fork"))
    def fork(self, run: str, data: st.DataObject, key: str | None) -> Any:
        seen = self.engine.run(run)
        stage = data.draw(st.sampled_from([stage.name for stage in seen.stages]))
        named = None if key is None else (seen.pipeline, key)
        known = self._run_of(named)
        try:
            handle = self.engine.fork(run, stage, idempotency_key=key, **WHO)
        except NotAllowed:
            return multiple()
        except IdempotencyParamMismatch:
            assert known is not None
            return multiple()
        assert handle.replayed == (known is not None)
        if known is not None:
            assert handle.run_id == known
            return multiple()
        outputs = handle.outputs()
        saved, again = self.fates[run].saved, descendants(seen, stage)
        assert outputs == {name: output for name, output in saved.items() if name not in again}
        return self._new(handle, Fate(named, self.fates[run].given, saved=outputs, copied=frozenset(outputs)))

    def _run_of(self, key: tuple[str, str] | None) -> str | None:
        return next((run for run, fate in self.fates.items() if key is not None and fate.key == key), None)

    def _new(self, handle: RunHandle, fate: Fate) -> str:
        assert handle.run_id not in self.fates
        self.fates[handle.run_id] = fate
        return handle.run_id

    # --- working ------------------------------------------------------------------------------------------------------

    @rule(plays=SOME_PLAYS)
    def step(self, plays: list[str]) -> None:
        with self._playing(plays):
            self.engine.step()

    @rule(plays=SOME_PLAYS)
    def work(self, plays: list[str]) -> None:
        with self._playing(plays):
            self.engine.work()

    @rule(plays=SOME_PLAYS)
    def come_to_rest(self, plays: list[str]) -> None:
        self.engine.messages.copies = lambda _nudge: 1
        with self._playing(plays):
            self.engine.drain()

    @rule(point=POINTS, plays=SOME_PLAYS)
    def crash(self, point: Any, plays: list[str]) -> None:
        self.engine.faults.at(*point)
        with self._playing(plays), suppress(Crash):  # of the process that saw a worker die
            self.engine.work()
        self.engine.faults.clear()

    @contextmanager
    def _playing(self, plays: list[str]) -> Iterator[None]:
        self.outside.plays = list(plays)
        yield
        self.outside.plays = []

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0]), sweep=st.booleans())
    def time_passes(self, seconds: float, sweep: bool) -> None:
        self.engine.advance(seconds)
        if sweep:
            self.engine.sweep()

    @rule(copies=st.integers(0, 2), loses=st.booleans())
    def broker(self, copies: int, loses: bool) -> None:
        self.engine.messages.copies = lambda _nudge: copies
        if loses:
            self.engine.messages.lose_all()

    @rule(version=st.integers(1, 3))
    def deploy(self, version: int) -> None:
        self.engine.deploy(*pipelines(self.outside, version))

    # --- people -------------------------------------------------------------------------------------------------------

    @rule(run=runs, verb=st.sampled_from(["cancel", "resume", "compensate"]), past=st.booleans(), stale=SELDOM)
    def order(self, run: str, verb: str, past: bool, stale: bool) -> None:
        seen = self.engine.run(run)
        given: dict[str, Any] = WHO | {"op_version": seen.op_version - stale}
        if past and verb != "resume":
            given["past_pivot"] = True
        self._obey(run, verb, given, stale=stale)

    @rule(run=runs, data=st.data(), skip=st.booleans())
    def settle_or_skip(self, run: str, data: st.DataObject, skip: bool) -> None:
        stage = data.draw(st.sampled_from([stage.name for stage in self.engine.run(run).stages]))
        if skip:
            self._obey(run, "compensate", WHO | {"skip": [stage], "past_pivot": True})
        else:
            self._settle(run, stage)

    @rule(run=runs, data=st.data())
    def what_show_offers(self, run: str, data: st.DataObject) -> None:
        seen = self.engine.run(run)
        offered = [verb for verb in allowed_verbs(seen) if verb.name != "fork"]  # forks have a rule of their own
        if not offered:
            return
        verb = data.draw(st.sampled_from(offered))
        given: dict[str, Any] = WHO | {"op_version": seen.op_version}
        if "--past-pivot" in verb.arguments:
            given["past_pivot"] = True
        if "--skip" in verb.arguments:
            assert verb.stage in failed_undo_stages(seen)
            given["skip"] = [verb.stage]
        if verb.name == "settle":
            assert verb.stage is not None
            assert self._settle(run, verb.stage), "offered, and refused"
        else:
            assert self._obey(run, str(verb.name), given), "offered, and refused"

    def _settle(self, run: str, stage: str) -> bool:
        """What a person who asks the remote finds out."""
        there = self.outside.effects.get(self.engine.run(run).stage(stage).key)
        found = {"done": f"{stage} of {self.fates[run].given['n']}"} if there else {"not_done": True}
        return self._obey(run, "settle", WHO | found, stage)

    def _obey(self, run: str, verb: str, given: dict[str, Any], *stage: str, stale: bool = False) -> bool:
        before = self.engine.run(run)
        summary, refused = self._answer(verb, run, *stage, **given)
        assert stale == isinstance(refused, OperatorConflict), "it has changed since that version"
        if summary is None:
            assert self.engine.run(run) == before, "refused, and something changed"
            return False
        assert before.status in AT_WILL[verb], f"{verb} of a run that is {before.status}"
        stopping = before.status if before.status in (RunStatus.STOPPING, RunStatus.COMPENSATING) else None
        assert summary.status in AFTER_VERB[verb] | {stopping}
        self.fates[run].may = {summary.status}
        return True

    def _answer(self, verb: str, *about: str, **given: Any) -> tuple[RunSummary | None, Exception | None]:
        try:
            return getattr(self.engine, verb)(*about, **given), None
        except (NotAllowed, OperatorConflict) as refused:
            return None, refused

    # --- what is promised ---------------------------------------------------------------------------------------------

    @invariant()
    def as_promised(self) -> None:
        """What was done to a run since the last look is in its history; the others are as they were."""
        assert self.outside.wrong == []
        for run, seq, head in self.engine.audit_heads():
            if self.heads.get(run) != (seq, head):
                self.heads[run] = (seq, head)
                self._as_promised(run)

    def _as_promised(self, run: str) -> None:
        fate, handle = self.fates[run], self.engine.handle(run)
        seen = handle.describe()
        fate.see(seen, handle.outputs(), self.outside.effects)
        assert {stage.name for stage in seen.stages if stage.state is StageState.OK} <= fate.saved.keys()
        if seen.status in AT_REST:
            self._result_agrees(handle, seen.status, fate)

    def _result_agrees(self, handle: RunHandle, status: RunStatus, fate: Fate) -> None:
        if status is RunStatus.SUCCEEDED:
            assert handle.result(0) == fate.saved
            return
        with pytest.raises(RunError) as error:
            handle.result(0)
        assert error.value.status == status

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        with self._open:
            self.engine.messages.copies = lambda _nudge: 1
            self.engine.drain()  # whatever happened, it comes to rest by itself
            assert self.outside.wrong == []
            for run in self.fates:
                self._as_promised(run)
            assert {fate.was for fate in self.fates.values()} <= AT_REST
            assert self.engine.problems == []
            assert [checked.problems for checked in self.engine.audit() if checked.problems] == []


Promises.TestCase.settings = settings(
    max_examples=EXAMPLES or 50,
    stateful_step_count=40 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    database=None,
    phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES else 120)
class TestPromises(Promises.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    """Found by pytest."""
