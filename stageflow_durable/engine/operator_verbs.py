"""What a person or a program may do to runs: each verb is declared once, here.

The signature is what callers give. ``Annotated`` says how the command takes a parameter: :mod:`cli.verb_options` makes
arguments and options of it, and for a verb marked :func:`bulk` the form for many runs. The line below a verb is its
twin for async callers.

The command reads this module for its help, so nothing here imports the database's library before a verb is called.
Annotations are objects here, not text (there is no ``from __future__ import annotations``): the command looks at them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from stageflow_durable.clock import Clock
from stageflow_durable.codec import encode, fingerprint
from stageflow_durable.engine.actors import Actor, Authenticate, Authorize, Credential, actor_of, require_allowed
from stageflow_durable.engine.payload import within
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.twins import in_thread, in_thread_or_transaction
from stageflow_durable.errors import InvalidInput, UnknownRun
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.model.keys import new_run_id
from stageflow_durable.model.run import Revealed, RunSummary, SignalReceipt
from stageflow_durable.model.verbs import VerbName
from stageflow_durable.model.work import Nudge
from stageflow_durable.store.protocol import CallersConnection, CallersSession
from stageflow_durable.transitions.operate import Order

if TYPE_CHECKING:
    from stageflow_durable.engine.handle import RunHandle
    from stageflow_durable.engine.recover import Sweeper
    from stageflow_durable.model.pipeline import Pipeline
    from stageflow_durable.store.protocol import Store

F = TypeVar("F", bound=Callable[..., Any])
_DIGEST = re.compile("[0-9A-Za-z:]{8,80}")

UNSAID: Any = object()
"""The default of ``done=``: an output may be None, so that None cannot mean that nothing was said."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter that the command takes by its position. ``metavar``: how its usage calls it."""

    metavar: str


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter that the command takes as an option, called ``name`` or as the parameter is.

    A ``bool`` is a flag, a sequence may be given several times. ``metavar`` stands for the value in the help;
    ``is_json``: the value is JSON, or the name of a file with it.
    """

    help: str
    metavar: str | None = None
    name: str | None = None
    is_json: bool = False


BY = "Who does it; else user@host. @FILE: whoever the credential in that file belongs to, by Engine(authenticate=)."

RunId = Annotated[str, Argument("RUN")]
"""A run's id, or a prefix that fits only one."""

Reason = Annotated[str, Option("Why; required, stands in the history.", "TEXT")]
By = Annotated[str | Credential | Actor, Option(BY, "WHO|@FILE")]
PastPivot = Annotated[bool, Option("Undo even though the point of no return has begun.")]


Digest = Annotated[
    str | None, Option("Of what was looked at, or its beginning: refused where it is another by now.", "DIGEST")
]


def bulk(verb: F) -> F:
    """Mark a verb whose command takes several runs, or a filter of runs."""
    verb.bulk = True  # type: ignore[attr-defined]  # a mark of ours on a function
    return verb


class OperatorVerbs:
    """The verbs that change runs, and with :class:`engine.operations.Operations` all that an engine offers about them.

    Each takes a ``reason`` and an ``actor``, which stand in the history: a name, or a :class:`Credential` of which
    ``Engine(authenticate=)`` says whose it is. ``Engine(authorize=)`` is asked for each, whoever calls it; NotAllowed
    is raised where it does not allow it. ``op_version``: the version of the run that was looked at; where the run has
    changed since, OperatorConflict is raised.
    """

    _clock: Clock
    pipelines: "Mapping[str, Pipeline[Any, Any]]"
    _authenticate: Authenticate | None = None
    _authorize: Authorize | None = None
    _interceptors: Sequence[Any] = ()

    @cached_property
    def store(self) -> "Store":
        """Where the runs are kept."""
        raise NotImplementedError  # whoever offers the verbs has it

    @cached_property
    def publisher(self) -> Publisher:
        """What delivers messages."""
        raise NotImplementedError  # as above

    @cached_property
    def _sweeper(self) -> "Sweeper":
        """What recovers."""
        raise NotImplementedError  # as above

    @cached_property
    def _payload_bytes(self) -> int:
        raise NotImplementedError  # as above

    def handle(self, run_id: str) -> "RunHandle[Any]":
        """A handle on an existing run."""
        raise NotImplementedError  # as above

    @bulk
    def cancel(
        self,
        run_id: RunId,
        *,
        reason: Reason,
        actor: By,
        op_version: int | None = None,
        past_pivot: PastPivot = False,
    ) -> RunSummary:
        """Stop a run and undo what it did. ``past_pivot``: even though its point of no return has begun.

        Raises UnknownRun, NotAllowed, OperatorConflict.
        """
        return self._carry_out(self._order(VerbName.CANCEL, run_id, reason, actor, op_version, past_pivot))

    acancel = in_thread(cancel)

    @bulk
    def resume(self, run_id: RunId, *, reason: Reason, actor: By, op_version: int | None = None) -> RunSummary:
        """Let a parked, failed or cancelled run go forward from its last checkpoints.

        Raises UnknownRun, NotAllowed, OperatorConflict.
        """
        return self._carry_out(self._order(VerbName.RESUME, run_id, reason, actor, op_version))

    aresume = in_thread(resume)

    @bulk
    def compensate(
        self,
        run_id: RunId,
        *,
        reason: Reason,
        actor: By,
        op_version: int | None = None,
        past_pivot: PastPivot = False,
        skip: Annotated[Sequence[str], Option("Give this stage's undo up, for the reason given.", "STAGE")] = (),
    ) -> RunSummary:
        """Undo what a run did, or try failed undos again. ``past_pivot``: even though its point of no return has begun;
        ``skip``: stages whose undo is given up instead, for the ``reason``.

        Raises UnknownRun, NotAllowed, OperatorConflict.
        """
        if isinstance(skip, str):
            raise InvalidInput("compensate", [f'skip: a list of stages, as in skip=["{skip}"], not text'])
        order = self._order(VerbName.COMPENSATE, run_id, reason, actor, op_version, past_pivot, tuple(skip))
        return self._carry_out(order)

    acompensate = in_thread(compensate)

    def settle(
        self,
        run_id: RunId,
        stage: Annotated[str, Argument("STAGE")],
        *,
        done: Annotated[Any, Option("It happened: this is its output.", "JSON|@FILE", is_json=True)] = UNSAID,
        not_done: Annotated[bool, Option("It did not happen: the stage is tried again.")] = False,
        reason: Reason,
        actor: By,
        op_version: int | None = None,
    ) -> RunSummary:
        """Record what a person found out about a stage in doubt: ``done`` with its output, or ``not_done``; the run
        goes on.

        Raises InvalidInput, UnknownRun, NotAllowed, OperatorConflict.
        """
        if (done is UNSAID) != not_done:
            raise InvalidInput(
                "settle", ["done: give the output that the stage would have saved, or not_done=True; one of them"]
            )
        order = self._order(VerbName.SETTLE, run_id, reason, actor, op_version)
        delta = None if not_done else within(encode(done), done, self._payload_bytes, "settle", "done")
        return self._published(order, self.store.settle(order, stage, delta))

    asettle = in_thread(settle)

    def fork(
        self,
        run_id: RunId,
        from_stage: Annotated[str, Option("Where the new run begins.", "STAGE", name="--from")],
        *,
        reason: Reason = "forked by the application",
        actor: By = "application",
        idempotency_key: Annotated[
            str | None, Option("Fork once under this key, however often it is asked for.", "KEY")
        ] = None,
    ) -> "RunHandle[Any]":
        """A new run that begins at ``from_stage`` with the outputs that ``run_id`` has by now.

        Outputs are copied, obligations are not: what the original did is undone, if ever, by the original. Raises
        UnknownRun; NotAllowed where ``from_stage`` waits for work that is not done, or that was undone;
        IdempotencyParamMismatch.
        """
        from stageflow_durable.store.values import Fork

        order = self._order("fork", run_id, reason, actor)
        key = None if idempotency_key is None else valid_key(idempotency_key)
        same = fingerprint({"fork": order.run_id, "from": from_stage})
        new_id = new_run_id(int(self._clock.time() * 1000))
        created = self.store.fork(Fork(order.run_id, from_stage, new_id, key, same, order.reason, order.actor))
        self._publish(created.nudges)
        handle = self.handle(created.run_id)
        handle.replayed = created.replayed
        return handle

    afork = in_thread(fork)

    def signal(
        self,
        run_id: RunId,
        name: Annotated[str, Argument("NAME")],
        payload: Annotated[
            Any,
            Option("What it says: the output of the stage that waits for it; else null.", "JSON|@FILE", is_json=True),
        ] = None,
        *,
        idempotency_key: Annotated[
            str | None, Option("The same key again is the same signal, however often it is sent.", "KEY")
        ] = None,
        reason: Reason = "sent by the application",
        actor: By = "application",
        session: CallersSession | None = None,
        connection: CallersConnection | None = None,
    ) -> SignalReceipt:
        """Send a run the signal ``name``, for which a stage of it waits, or will wait: then it is kept. ``payload``:
        any JSON that the wait's schema allows, or an object of its model.

        The same ``idempotency_key`` again is the same signal, also once the wait is over. Raises InvalidInput naming
        the fields; UnknownRun; NotAllowed where the run has no such wait, where the wait is over or has a signal, or
        where the run does not come to it as it stands; IdempotencyParamMismatch.

        ``session`` or ``connection``: of SQLAlchemy, on the engine's database; the signal counts if and only if its
        transaction commits. Until then nothing else happens to that run: commit soon. Raises RunBusy if another holds
        the run for 5 s, and ConfigurationError where it cannot take part.
        """
        from stageflow_durable.clock import as_moment
        from stageflow_durable.engine.signalling import checked_payload
        from stageflow_durable.transitions.signal import VERB, Sent
        from stageflow_durable.transitions.waiting import SchemaChanged

        valid_key(name, "name")
        key = None if idempotency_key is None else valid_key(idempotency_key)
        with self._joined(session, connection) as about:
            order = self._order(VERB, run_id, reason, actor)
            about(order.run_id)
            while True:
                plan = self.store.plan(order.run_id)
                text, same, schema = checked_payload(plan, self.pipelines, name, payload, self._payload_bytes)
                sent = Sent(order.run_id, name, text, same, schema, key, order.actor, order.reason)
                try:
                    took = self.store.signal(sent)
                except SchemaChanged:
                    continue  # a deploy came in between
                self._publish(took.nudges)
                return SignalReceipt(order.run_id, name, took.number, as_moment(took.at), took.replayed)

    asignal = in_thread_or_transaction(signal)

    def _joined(
        self, session: CallersSession | None, connection: CallersConnection | None
    ) -> AbstractContextManager[Callable[[str], object]]:
        """Where a verb takes part in a caller's transaction, if one is given."""
        if session is None and connection is None:
            return nullcontext(lambda _run_id: None)
        return self.store.joined(session, connection, lambda: None)

    def _before_joining(self) -> None:
        self.store.before_joining(lambda: None)

    def approve(
        self,
        run_id: RunId,
        stage: Annotated[str, Argument("STAGE")],
        *,
        digest: Digest = None,
        reason: Reason,
        actor: By,
        op_version: int | None = None,
    ) -> RunSummary:
        """Approve what ``stage`` of a run asks for: a worker looks whether it still holds, and the run goes on.
        ``digest``: of what was looked at; where something else is asked by now, NotAllowed is raised.

        Raises UnknownRun, OperatorConflict; NotAllowed where nothing is asked, where it is decided already, or where
        the actor may not approve it.
        """
        return self._decide("approve", run_id, stage, reason, actor, op_version, digest=digest)

    aapprove = in_thread(approve)

    def deny(
        self,
        run_id: RunId,
        stage: Annotated[str, Argument("STAGE")],
        *,
        digest: Digest = None,
        reason: Reason,
        actor: By,
        op_version: int | None = None,
    ) -> RunSummary:
        """Deny what ``stage`` of a run asks for: what becomes of the run is said by ``on_denied=`` of the stage.

        Raises as :meth:`approve`; anybody whom ``Engine(authorize=)`` allows it may deny.
        """
        return self._decide("deny", run_id, stage, reason, actor, op_version, digest=digest)

    adeny = in_thread(deny)

    def _decide(
        self,
        verb: str,
        run_id: str,
        stage: str,
        reason: str,
        actor: Any,
        op_version: int | None = None,
        *,
        digest: str | None,
        token: str | None = None,
    ) -> RunSummary:
        from stageflow_durable.transitions.approval import DECISIONS

        given: Any = digest  # whatever a program says
        wrong = []
        is_said = given is not None or token is not None  # by a link nobody decides about what they did not look at
        if is_said and not (isinstance(given, str) and _DIGEST.fullmatch(given)):
            wrong.append("digest: the one that is shown with what is to be approved, or its first 8 characters or more")
        if wrong:
            raise InvalidInput(verb, wrong)
        valid_key(stage, "stage")
        order = self._order(verb, run_id, reason, actor, op_version)
        return self._published(order, self.store.decide(order, stage, DECISIONS[verb], digest, token))

    def reveal(self, run_id: RunId, *, reason: Reason, actor: By) -> Revealed:
        """A run's input, metadata and outputs as they are, without masks. Who looked, when and why is in the history
        before anything is shown.

        Raises UnknownRun; NotAllowed where ``Engine(authorize=)`` does not allow it.
        """
        from stageflow_durable.codec import decode

        order = self._order("reveal", run_id, reason, actor)
        self.store.reveal(order)
        facts = self.store.facts(order.run_id)
        if facts is None:
            raise UnknownRun(f"no run {order.run_id}: it was deleted just now")
        saved = {stage: one.delta for stage, one in self.store.outputs(order.run_id).items()}
        outputs = {stage: decode(delta) for stage, delta in saved.items() if delta is not None}
        return Revealed(order.run_id, decode(facts.input), decode(facts.metadata), outputs)

    areveal = in_thread(reveal)

    @bulk
    def erase(self, run_id: RunId, *, reason: Reason, actor: By, op_version: int | None = None) -> RunSummary:
        """Erase for good what a run that has ended was given, saved, said and logged. That it ran, and when, stays;
        its history stays whole; its keys stay taken. Nothing can be resumed, forked or undone from it any more.

        A run that is erased already stays as it is. Raises UnknownRun, OperatorConflict; NotAllowed where the run has
        not ended, or a person has to look at it first.
        """
        order = self._order(VerbName.ERASE, run_id, reason, actor, op_version)
        self.store.erase(self._forgotten(order))
        return self._published(order, ())

    aerase = in_thread(erase)

    def confirm_dead(self, owner: Annotated[str, Argument("OWNER")], *, reason: Reason, actor: By) -> list[str]:
        """Say that a lost process has ended, or can act no more: undos that waited for that begin. Returns their runs.

        Raises NotAllowed where its lease holds, or where its end was confirmed before.
        """
        from stageflow_durable.engine.outcome import storable

        by = self._account("confirm-dead", owner, reason, actor)
        require_allowed(self._authorize, by, "confirm-dead", owner, None)
        self.store.confirm_dead(owner, storable(reason), by.name)
        return self._sweeper.release(owner)

    aconfirm_dead = in_thread(confirm_dead)

    def _forgotten(self, order: Order) -> Order:
        """The order, once interceptors have forgotten what they know of the run: it holds for the run as it was then.
        Nothing is forgotten of one that may not be erased.
        """
        from dataclasses import replace

        from stageflow_durable.engine.forgetting import forget
        from stageflow_durable.model.verbs import refusal, standing

        facts = self.store.facts(order.run_id)
        pipeline = None if facts is None else self.pipelines.get(facts.pipeline)
        if facts is None or pipeline is None or facts.erased_at is not None:
            return order
        if refusal(VerbName.ERASE, standing(self.store.run(order.run_id))) is not None:
            return order
        forget(self.store, facts, pipeline, self._interceptors)
        return order if order.op_version is not None else replace(order, op_version=facts.op_version)

    # --- how they are carried out -------------------------------------------------------------------------------------

    def _order(
        self,
        verb: str,
        run_id: str,
        reason: str,
        actor: Any,
        op_version: int | None = None,
        past_pivot: bool = False,
        skip: tuple[str, ...] = (),
    ) -> Order:
        from stageflow_durable.engine.outcome import storable
        from stageflow_durable.store.views import summary_of

        by = self._account(verb, run_id, reason, actor)
        full = self.store.full_id(run_id)
        if self._authorize is not None:
            facts = self.store.facts(full)
            require_allowed(self._authorize, by, str(verb), full, None if facts is None else summary_of(facts))
        known = by.authenticated
        return Order(full, str(verb), storable(reason), by.name, op_version, past_pivot, skip, authenticated=known)

    def _account(self, verb: str, about: str, reason: str, actor: Any) -> Actor:
        """Who acts. Raises InvalidInput where the reason or the name is missing."""
        from stageflow_durable.engine.outcome import storable

        by = actor_of(actor, self._authenticate, str(verb), str(about))
        _require_account(verb, reason, by.name)
        return Actor(storable(by.name), by.authenticated)

    def _carry_out(self, order: Order) -> RunSummary:
        return self._published(order, self.store.order(order))

    def _published(self, order: Order, nudges: tuple[Nudge, ...]) -> RunSummary:
        from stageflow_durable.store.views import summary_of

        self._publish(nudges)
        facts = self.store.facts(order.run_id)
        assert facts is not None
        return summary_of(facts)

    def _publish(self, nudges: tuple[Nudge, ...]) -> None:
        from stageflow_durable.engine.accept import publish

        publish(self.store, self.publisher, nudges)


def _require_account(verb: str, reason: str, actor: str) -> None:
    given: dict[str, Any] = {"reason": reason, "actor": actor}  # whatever a program says
    missing = [
        f"{name}: say it, as text; it goes into the audit"
        for name, value in given.items()
        if not (isinstance(value, str) and value.strip())
    ]
    if missing:
        raise InvalidInput(verb, missing)
