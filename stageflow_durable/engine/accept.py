"""Accepting runs: validate, record, then publish. A run is recorded whole or not at all."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeAlias

from stageflow_durable.clock import Clock
from stageflow_durable.codec import Classes, encode, encode_and_fingerprint
from stageflow_durable.duration import LONGEST, is_duration, seconds_of, shown
from stageflow_durable.engine.payload import PAYLOAD_BYTES, within
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import BrokerUnavailable, InvalidInput, InvalidKey, PublishingFailed, StageflowError
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.model import attributes
from stageflow_durable.model.context import InputT_co
from stageflow_durable.model.keys import is_run_id, new_run_id
from stageflow_durable.model.pipeline import InputT, Pipeline
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings.queues import QUEUE_NAME, is_queue_name
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import Created
from stageflow_durable.transitions.accept import NewRun

log = logging.getLogger("stageflow.accept")
DEFAULT_CLIENT = "default"
_NO_METADATA = encode({})
PRIORITIES = range(10)

Deadline: TypeAlias = datetime | timedelta | float
"""An aware point in time, or a timedelta or seconds from now."""


@dataclass(frozen=True, slots=True)
class Submission(Generic[InputT_co]):
    """One run to start, for ``enqueue_many``, with options of its own. ``input``: what the pipeline takes, or a mapping
    of its fields.

    ``deadline``: seconds or a timedelta from now, an aware datetime, or None. ``run_id``: for a run without a key, an
    id that the caller made (26 characters, a ULID), so that the same submission can be repeated after StoreUnavailable
    and still starts one run. ``attributes``: what the run is found by; see :meth:`stageflow_durable.Engine.enqueue`.
    ``actor``: who asks for it.
    """

    input: InputT_co
    client_id: str = DEFAULT_CLIENT
    idempotency_key: str | None = None
    deadline: Deadline | None = None
    priority: int | None = None
    queue: str | None = None
    metadata: Mapping[str, Any] | None = None
    run_id: str | None = None
    attributes: Mapping[str, Any] | None = None
    actor: str | None = None


Many: TypeAlias = Iterable[InputT | Mapping[str, Any] | Submission[InputT] | Submission[Mapping[str, Any]]]
"""Inputs as ``enqueue`` takes them, each alone or with options of its own."""


def several(submissions: Any) -> list[Submission[Any]]:
    """Each as a submission. Raises InvalidInput for what is one input, or none."""
    if isinstance(submissions, Mapping | str | bytes | Submission) or not isinstance(submissions, Iterable):
        kind = type(submissions).__name__
        raise InvalidInput("enqueue_many", [f"submissions: {kind} given; give a list of inputs, or of Submissions"])
    return [one if isinstance(one, Submission) else Submission(one) for one in submissions]


class Acceptor:
    """Turns submissions into recorded, published runs."""

    def __init__(
        self, store: Store, publisher: Publisher, clock: Clock, queue: str, payload_bytes: int = PAYLOAD_BYTES
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._queue = queue
        self._payload_bytes = payload_bytes

    def accept(self, pipeline: Pipeline[Any, Any], submission: Submission[Any]) -> Created:
        """Record a run and publish it. If the broker is away the run is recorded, and the sweep publishes it.

        StoreUnavailable: nothing was recorded, unless the connection broke during the commit. With a key the call can
        be repeated safely.
        """
        created = self._store.create(self._new(pipeline, submission))
        self.deliver(created)
        return created

    def accept_many(
        self, pipeline: Pipeline[Any, Any], submissions: Sequence[Submission[Any]], *, collect: bool
    ) -> list[Created | StageflowError]:
        """Record many runs. ``collect``: return errors in the places of the refused ones. Else raise the first that
        does not validate, before anything is recorded; one whose key has other parameters is raised when it is reached,
        and the runs recorded before it are published. StoreUnavailable: as in :meth:`accept`; submissions with a key or
        a ``run_id`` can be repeated safely.
        """
        prepared = [self._prepared(pipeline, submission, collect) for submission in submissions]
        news = {place: new for place, new in enumerate(prepared) if isinstance(new, NewRun)}
        recorded = dict(zip(news, self._recorded(list(news.values()), collect), strict=True))
        return [new if isinstance(new, StageflowError) else recorded[place] for place, new in enumerate(prepared)]

    def _recorded(self, news: Sequence[NewRun], collect: bool) -> Sequence[Created | StageflowError]:
        """Record all in one transaction; if one has to be raised, record those with keys one by one up to it."""
        if not news:
            return []
        answers = self._store.create_many(news, whole=not collect)
        if not collect and any(isinstance(answer, StageflowError) for answer in answers):
            return self._one_by_one(news)
        self._publish(answers)
        return answers

    def _one_by_one(self, news: Sequence[NewRun]) -> Sequence[Created | StageflowError]:
        found: dict[int, Created | StageflowError] = {}
        try:
            for place, new in enumerate(news):
                if new.key is not None:
                    found[place] = self._store.create(new)
            free = {place: new for place, new in enumerate(news) if new.key is None}
            found |= zip(free, self._store.create_many(list(free.values()), whole=True) if free else [], strict=True)
        finally:
            self._publish(list(found.values()))
        return [found[place] for place in range(len(news))]

    def _publish(self, answers: Sequence[Created | StageflowError]) -> None:
        made = [answer for answer in answers if isinstance(answer, Created)]
        publish(self._store, self._publisher, tuple(nudge for created in made for nudge in created.nudges))

    def _prepared(
        self, pipeline: Pipeline[Any, Any], submission: Submission[Any], collect: bool
    ) -> NewRun | StageflowError:
        try:
            return self._new(pipeline, submission)
        except StageflowError as error:
            if not collect:
                raise
            return error

    def deliver(self, created: Created) -> None:
        """Publish a new run; what the broker does not take is left to the sweep."""
        publish(self._store, self._publisher, created.nudges)

    def _new(self, pipeline: Pipeline[Any, Any], submission: Submission[Any]) -> NewRun:
        given, classes = checked_input(pipeline, submission.input)
        key = None if submission.idempotency_key is None else _name(submission.idempotency_key, "idempotency key")
        text, fingerprint = encode_and_fingerprint(given, classes, "input")
        return NewRun(
            id=_run_id(submission) or new_run_id(int(self._clock.time() * 1000)),
            client_id=_name(submission.client_id, "client_id"),
            plan=pipeline.plan,
            key=key,
            fingerprint=fingerprint,
            input=within(text, given, self._payload_bytes, f"input of {pipeline.name}"),
            metadata=self._metadata(submission),
            queue=self._queue if submission.queue is None else _queue(submission.queue),
            priority=_priority(submission.priority),
            deadline=self._deadline(submission.deadline),
            repeats=submission.run_id is not None,
            attributes=attributes.checked(submission.attributes, "enqueue"),
            actor=None if submission.actor is None else _name(submission.actor, "actor"),
        )

    def _metadata(self, submission: Submission[Any]) -> str:
        traced = _traceparent()
        if not submission.metadata and not traced:
            return _NO_METADATA
        given = {**traced, **_object(submission.metadata or {}, "metadata")}
        return within(encode(given), given, self._payload_bytes, "enqueue", "metadata")

    def _deadline(self, deadline: Deadline | None) -> float | None:
        if deadline is None:
            return None
        if isinstance(deadline, datetime):
            return _moment(deadline, self._store.clock())
        return self._store.clock() + _from_now(deadline)


def _traceparent() -> dict[str, str]:
    """The span in which the caller is, where OpenTelemetry is in use: the run's trace is linked to it."""
    tracing = sys.modules.get("opentelemetry.trace")
    found = None if tracing is None else tracing.get_current_span().get_span_context()
    if found is None or not found.is_valid:
        return {}
    return {"traceparent": f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"}


def _name(text: str, what: str) -> str:
    if not valid_key(text, what).strip():
        raise InvalidKey(f"{what} is blank; give 1 to 255 characters that say something, or leave it out")
    return text


def _queue(name: object) -> str:
    if not is_queue_name(name):
        raise InvalidInput("enqueue", [f"queue: {shown(name)} is not {QUEUE_NAME}"])
    return str(name)


def _run_id(submission: Submission[Any]) -> str | None:
    given = submission.run_id
    if given is not None and (submission.idempotency_key is not None or not is_run_id(given)):
        raise InvalidInput("enqueue", ["run_id: 26 characters of a ULID, and no idempotency_key beside it"])
    return given


def _moment(deadline: datetime, now: float) -> float:
    if deadline.tzinfo is None:
        raise InvalidInput(
            "enqueue", ["deadline: a naive datetime; use an aware one, e.g. datetime.now(UTC) + …, or a timedelta"]
        )
    seconds = deadline.timestamp()
    if seconds > now + LONGEST:
        raise InvalidInput("enqueue", [f"deadline: {deadline} given; at most ten years from now, or none at all"])
    return seconds


def _from_now(deadline: object) -> float:
    if isinstance(deadline, bool) or not isinstance(deadline, int | float | timedelta):
        raise InvalidInput(
            "enqueue", [f"deadline: {shown(deadline)} given; seconds or a timedelta from now, or an aware datetime"]
        )
    if not is_duration(deadline, above=True):
        raise InvalidInput(
            "enqueue", [f"deadline: {shown(deadline)} given; more than 0 and at most ten years from now"]
        )
    return seconds_of(deadline)


def publish(store: Store, publisher: Publisher, nudges: tuple[Nudge, ...], delay: float = 0.0) -> bool:
    """Publish what was committed, or leave it to the sweep with one warning. Returns whether the broker took it.

    Does not raise errors of the broker: the rows are committed, and a caller that saw an error would repeat its work.
    """
    if not nudges or store.after_commit(partial(publish, store, publisher, nudges, delay)):
        return True
    try:
        publisher.publish(nudges, delay)
    except (BrokerUnavailable, PublishingFailed) as error:
        log.warning("%s; %d message(s) are left to the recovery sweep", error, len(nudges))
        if not delay:
            _leave_to_the_sweep(store, nudges)
        return False
    return True


def _leave_to_the_sweep(store: Store, nudges: tuple[Nudge, ...]) -> None:
    try:
        store.unpublish(nudges)
    except Exception as error:  # noqa: BLE001  # the sweep finds them anyway, later
        log.info("the sweep looks for them later (%s)", type(error).__name__)


def checked_input(pipeline: Pipeline[Any, Any], given: Any) -> tuple[Any, Classes | None]:
    """The validated input, and the classes by which it is restored. Without an ``input_type`` it is any JSON object.
    Raises InvalidInput naming the fields.
    """
    what = f"input of {pipeline.name}"
    if pipeline.input_type is None:
        return _object(given, what), None
    declared = typed(pipeline.input_type)
    return declared.validated(given, what), declared.classes


def _object(given: Any, what: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidInput(what, [f"value: {type(given).__name__} given, a JSON object (dict) is needed"])
    return dict(given)  # its values are checked when it is encoded


def _priority(priority: int | None) -> int | None:
    if priority is not None and (isinstance(priority, bool) or priority not in PRIORITIES):
        raise InvalidInput("enqueue", [f"priority: {priority!r} given, 0 to 9 is allowed"])
    return priority
