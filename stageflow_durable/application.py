"""The engine as an application sees it: pipelines registered, runs enqueued, a Celery application to run workers
with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

from stageflow_durable.clock import SystemClock, World, system_world
from stageflow_durable.connect import let_await, open_store
from stageflow_durable.delivery.configure import own_settings, refuse_unnamed_master, settings_beside, worker_settings
from stageflow_durable.delivery.consumed import consumed, no_json, takes_json
from stageflow_durable.delivery.consumer import boot_id
from stageflow_durable.delivery.engines import Member, WorkerLifecycle, engines_of
from stageflow_durable.delivery.process import Process
from stageflow_durable.delivery.publish import CeleryPublisher
from stageflow_durable.delivery.signing import UNSIGNED, Signer
from stageflow_durable.delivery.spawned import Application
from stageflow_durable.delivery.tasks import register
from stageflow_durable.delivery.worker import attach, own_application
from stageflow_durable.embedded.engines import EmbeddedEngines
from stageflow_durable.engine.accept import DEFAULT_CLIENT, Acceptor, Deadline, Many, Submission, several
from stageflow_durable.engine.actors import Actor, Authenticate, Authorize, Credential, actor_of, require_function
from stageflow_durable.engine.approval_links import LinkOperations
from stageflow_durable.engine.awaiting import Awaiting
from stageflow_durable.engine.callbacks import CallbackOperations
from stageflow_durable.engine.declared import apart, by_name
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.engine.operations import Operations
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.engine.sink_operations import all_sinks, beside_stages, checked_target, sinks_of, wraps_of
from stageflow_durable.engine.twins import in_thread, in_thread_or_transaction
from stageflow_durable.errors import ConfigurationError, InvalidInput, StageflowError, UnknownPipeline
from stageflow_durable.interceptors import check_observers, get_default_interceptors, in_order
from stageflow_durable.masking import mask_also
from stageflow_durable.model.context import Observer
from stageflow_durable.model.pipeline import InputT, Pipeline, ResultT
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.roster import LEGACY_QUEUE, Known, Profile
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.sinks import RunEvent, Sink
from stageflow_durable.model.stage import OnLeaseLost
from stageflow_durable.settings import (
    Settings,
    Urls,
    broker_name,
    check_keywords,
    default_queue,
    engine_name,
    listed,
    load_settings,
)
from stageflow_durable.store.protocol import CallersConnection, CallersSession, Store
from stageflow_durable.store.values import Created

OnError = Literal["raise", "collect"]

Named: TypeAlias = str | Pipeline[InputT, ResultT]
"""A pipeline, or its name."""

_OWN = (
    *("name", "pipelines", "celery_app", "retry", "interceptors", "observers"),
    *("settings", "store", "publisher", "world", "authenticate", "authorize", "sinks", "on_attention"),
)


class Engine(EmbeddedEngines, CallbackOperations, LinkOperations, Operations):
    """A durable engine over a database and a broker.

    ``pipelines``: what this engine runs, several or one; mistakes raise DefinitionError here. ``celery_app``: an
    existing application to adopt; our task brings its own options and queue, nothing of theirs is changed. ``retry``:
    policy of stages and pipelines that have none. ``on_lease_lost``: of those that say nothing; ``"end"`` ends a body
    once its worker could not renew its lease, ``"continue"`` only once its work was taken over. ``interceptors``: what
    wraps each stage; ``observers``: functions that are told how each attempt of a stage or an undo ended, after the
    commit; ``sinks``: who is told of the events of runs, at least once: functions, or what ``stageflow_durable.sinks``
    has; ``on_attention``: one of these that is told of runs that need a person. ``settings``: a Settings, or keywords
    of it (``database_url=…``, ``lease_seconds=…``); mistyped ones raise ConfigurationError here.
    ``authenticate``: a function that gives the name of whoever a ``Credential`` belongs to, or None where it is not
    accepted; ``authorize``: a function of an actor, a verb and a run that says whether they may: it is asked for every
    verb that a person or a program calls, from Python, the command or a page. Only True allows it.
    Nothing is connected before the first use; with nothing set and nothing running that raises ConfigurationError with
    both ways out.

    ``store``, ``publisher``, ``world``: used in place of the engine's own access to the database, delivery of messages,
    and clock and chance. They are for tests and tools; an application leaves them out.
    """

    def __init__(
        self,
        name: str,
        pipelines: Iterable[Pipeline[Any, Any]] | Pipeline[Any, Any] = (),
        *,
        celery_app: Any = None,
        retry: RetryPolicy | None = None,
        on_lease_lost: OnLeaseLost = "continue",
        interceptors: Sequence[Any] | None = None,
        observers: Sequence[Observer] = (),
        settings: Settings | None = None,
        store: Store | None = None,
        publisher: Publisher | None = None,
        world: World | None = None,
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        sinks: Iterable[Sink | Callable[[RunEvent], Any]] = (),
        on_attention: Sink | Callable[[RunEvent], Any] | None = None,
        **keywords: Any,
    ) -> None:
        if settings is not None and keywords:
            raise ConfigurationError(f"give settings= or {', '.join(keywords)}=, not both")
        check_keywords(keywords, others=_OWN)
        self.name = engine_name(name)
        self.pipelines = by_name(pipelines)
        self._keywords = keywords
        self._given = settings
        self._adopted = celery_app
        wrapped, policies = apart(get_default_interceptors() if interceptors is None else interceptors)
        if len(policies) + (retry is not None) > 1:
            raise ConfigurationError("retry= and RetryInterceptor are the same policy, of which an engine has one")
        self._retry = retry or next(iter(policies), None)
        self._given_sinks, self._on_attention = sinks_of(sinks), on_attention and checked_target(on_attention)
        self._interceptors = in_order((*in_order(wrapped), *wraps_of(self._given_sinks)))
        self._observers = check_observers(observers)
        if on_lease_lost not in get_args(OnLeaseLost):
            raise ConfigurationError(f"on_lease_lost={on_lease_lost!r}: 'continue' or 'end'")
        self._on_lease_lost = on_lease_lost
        require_function("authenticate", authenticate, "credential")
        require_function("authorize", authorize, "actor", "verb", "run")
        self._authenticate, self._authorize = authenticate, authorize
        self._world = world or system_world()
        self._clock = self._world.clock
        self._given_store, self._given_publisher = store, publisher
        self._in_use: list[Store | Publisher | Awaiting] = []
        self._lifecycle = WorkerLifecycle(self._make_process, self._after_death)
        self._registered_in = 0
        self._registering: dict[int, threading.Lock] = {}  # by process: a fork may leave the parent's held for ever
        self.celery_app = (
            celery_app
            if celery_app is not None
            else own_application(name, lambda: own_settings(self.settings, self.urls.broker_url))
        )
        if isinstance(self.celery_app, Application):
            self.celery_app.stageflow = self
        self._attach_to_worker()

    def _attach_to_worker(self) -> None:
        engines, first = engines_of(self.celery_app)
        member = Member(
            self.name,
            self,
            self._lifecycle,
            lambda: self.queues,
            lambda: self.settings.quick_acks,
            self._require_usable,
        )
        engines.add(member)
        if first:
            register(self.celery_app, engines)
            attach(self.celery_app, engines)

    def _require_usable(self) -> None:
        """Raise ConfigurationError where no stage could run here."""
        self.store.require_usable()

    # --- parts, made at first use -----------------------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The settings in force; where no queue is set, the queue carries the engine's name."""
        found = self._given or self._loaded()
        return found if found.queue else replace(found, queue=default_queue(self.name))

    def _loaded(self) -> Settings:
        keywords = dict(self._keywords)
        if self._adopted is not None and "broker_url" not in keywords and self._adopted.conf.broker_url:
            keywords["broker_url"] = self._adopted.conf.broker_url
        return load_settings(**keywords)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that its runs use, to be served by workers: its own, those of its stages, and, where its own is
        the default, the default of older releases, which runs of then still name.
        """
        own = self.settings.queue
        of_stages = {stage.queue for pipeline in self.pipelines.values() for stage in pipeline.stages if stage.queue}
        older = (LEGACY_QUEUE,) if own == default_queue(self.name) else ()
        return tuple(dict.fromkeys((own, *older, *sorted(of_stages))))

    @property
    def profile(self) -> Profile:
        """What a worker of this engine knows and serves, in this process."""
        known = {name: Known(found.plan.version, found.plan.digest) for name, found in self.pipelines.items()}
        return Profile(self.name, broker_name(self.urls.broker_url), consumed() or self.queues, known)

    @cached_property
    def urls(self) -> Urls:
        """Where database and broker are. Raises ConfigurationError with the ways out."""
        return self.settings.require()

    @cached_property
    def store(self) -> Store:
        """Where the runs are kept."""
        mask_also(listed(self.settings.redact))
        store = open_store(self.settings, self.urls) if self._given_store is None else self._given_store
        self._in_use.append(store)
        if isinstance(self._clock, SystemClock):  # another clock moves on only while somebody sleeps by it
            self._awaiting = let_await(store, self.urls.redis_url)
            self._in_use.append(self._awaiting)
        return store

    @cached_property
    def publisher(self) -> Publisher:
        """What delivers messages."""
        publisher = self._make_publisher() if self._given_publisher is None else self._given_publisher
        self._in_use.append(publisher)
        return publisher

    def _make_publisher(self) -> CeleryPublisher:
        settings = self.settings
        if self._adopted is None:  # here, where nothing is recorded yet
            refuse_unnamed_master(settings, self.urls.broker_url)
        switches = {"templates": settings.message_templates, "batches": settings.batches}
        return CeleryPublisher(self.celery_app, settings.in_place_stages, **switches, signer=self._signer)

    @cached_property
    def _signer(self) -> Signer:
        # Looked at before anything is recorded: whoever cannot sign must not accept runs.
        settings = self.settings
        signing = settings.message_signing
        return UNSIGNED if signing == "off" else Signer(signing, self.urls.audit_key, listed(settings.old_audit_keys))

    @cached_property
    def _sweeper(self) -> Sweeper:
        return Sweeper(self.store, self.publisher, self._patience, broker=broker_name(self.urls.broker_url))

    @cached_property
    def _patience(self) -> Patience:
        return Patience.of(self.settings)

    @cached_property
    def _acceptor(self) -> Acceptor:
        settings = self.settings
        return Acceptor(self.store, self.publisher, self._world.clock, settings.queue, settings.max_payload_bytes)

    @cached_property
    def _payload_bytes(self) -> int:
        return self.settings.max_payload_bytes

    @cached_property
    def sinks(self) -> Sequence[Sink]:
        """Who is told of events, and of runs that need a person."""
        return all_sinks(self._given_sinks, self._on_attention, self.settings, self.store)

    def _ready(self) -> None:
        """Register the definitions, once a process: threads that come together wait for the first. Raises
        ConfigurationError where workers would refuse messages.
        """
        if self._registered_in == os.getpid():
            return
        if self._adopted is not None and not takes_json(self._adopted):
            raise ConfigurationError(no_json(self._adopted, self.name))
        with self._registering.setdefault(os.getpid(), threading.Lock()):
            if self._registered_in != os.getpid():
                self.store.register([pipeline.plan for pipeline in self.pipelines.values()])
                self._open_sinks()
                if not self.store.after_commit(self._are_registered):
                    self._are_registered()

    def _are_registered(self) -> None:
        self._registered_in = os.getpid()

    # --- starting runs ----------------------------------------------------------------------------------------------

    def enqueue(
        self,
        pipeline: str | Pipeline[InputT, ResultT],
        input: InputT | Mapping[str, Any],
        *,
        client_id: str = DEFAULT_CLIENT,
        idempotency_key: str | None = None,
        deadline: Deadline | None = None,
        priority: int | None = None,
        queue: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        actor: str | Credential | Actor | None = None,
        session: CallersSession | None = None,
        connection: CallersConnection | None = None,
    ) -> RunHandle[ResultT]:
        """Start a run, or find the one that has the key (``handle.replayed``). With the pipeline's name instead of the
        pipeline, the types of input and result are not checked.

        ``deadline``: seconds or a timedelta from now, or an aware datetime. ``attributes``: what the run is found by
        (``runs(attributes=…)``), at most 20 names with text, whole numbers or truth values. They are no part of what
        the key stands for: the same key with others finds the run with those that it was given first. ``actor``: who
        asks for it; the history says so, and who asked may not approve (:meth:`Pipeline.approve`). ``session`` or
        ``connection``: of SQLAlchemy, on the engine's database; the run is there if and only if its transaction
        commits, and begins after that (docs/how-to/idempotency.md). Raises RunBusy if another transaction keeps the key
        for 5 s, and ConfigurationError where it cannot take part.

        Raises UnknownPipeline, InvalidInput naming the fields, InvalidKey, IdempotencyParamMismatch, StoreUnavailable.
        With the broker away the run is recorded, and delivered once it is back.

        After StoreUnavailable nothing was accepted, unless the connection broke while the run was being committed:
        with a key, calling again is safe and finds out.
        """
        found = self.pipeline(pipeline)
        by = None if actor is None else actor_of(actor, self._authenticate, "enqueue", found.name).name
        given = Submission(
            input, client_id, idempotency_key, deadline, priority, queue, metadata, attributes=attributes, actor=by
        )
        if session is None and connection is None:
            self._ready()
            return self._handle(self._acceptor.accept(found, given), found)
        with self.store.joined(session, connection, self._ready) as about:
            created = self._acceptor.accept(found, given)
            about(created.run_id)
        return self._handle(created, found)

    aenqueue = in_thread_or_transaction(enqueue)

    def _before_joining(self) -> None:
        self.store.before_joining(self._ready)

    @overload
    def enqueue_many(
        self, pipeline: Named[InputT, ResultT], submissions: Many[InputT], *, on_error: Literal["raise"] = ...
    ) -> list[RunHandle[ResultT]]: ...

    @overload
    def enqueue_many(
        self, pipeline: Named[InputT, ResultT], submissions: Many[InputT], *, on_error: OnError
    ) -> list[RunHandle[ResultT] | StageflowError]: ...

    def enqueue_many(
        self, pipeline: Named[Any, Any], submissions: Many[Any], *, on_error: OnError = "raise"
    ) -> list[Any]:
        """Start many runs, of inputs as :meth:`enqueue` takes them, and of a :class:`Submission` where one has options
        of its own.

        ``on_error="raise"``: the first that does not validate is raised before anything is recorded, one whose key has
        other parameters once those with keys before it are started; ``"collect"``: errors are returned in the places of
        their submissions.
        """
        found = self.pipeline(pipeline)
        if on_error not in get_args(OnError):
            raise InvalidInput("enqueue_many", [f"on_error: {on_error!r} is neither 'raise' nor 'collect'"])
        given = several(submissions)
        self._ready()
        answers = self._acceptor.accept_many(found, given, collect=on_error == "collect")
        return [self._handle(answer, found) if isinstance(answer, Created) else answer for answer in answers]

    if TYPE_CHECKING:  # in_thread would see the first overload alone

        @overload
        async def aenqueue_many(
            self, pipeline: Named[InputT, ResultT], submissions: Many[InputT], *, on_error: Literal["raise"] = ...
        ) -> list[RunHandle[ResultT]]: ...

        @overload
        async def aenqueue_many(
            self, pipeline: Named[InputT, ResultT], submissions: Many[InputT], *, on_error: OnError
        ) -> list[RunHandle[ResultT] | StageflowError]: ...

        async def aenqueue_many(self, *_: Any, **__: Any) -> Any:
            """Awaitable :meth:`enqueue_many`."""

    else:
        aenqueue_many = in_thread(enqueue_many)

    def pipeline(self, named: str | Pipeline[InputT, ResultT]) -> Pipeline[InputT, ResultT]:
        """The registered pipeline. Raises UnknownPipeline."""
        name = named if isinstance(named, str) else named.name
        if name not in self.pipelines or (
            not isinstance(named, str) and self.pipelines[name].plan.digest != named.plan.digest
        ):
            raise UnknownPipeline(name, tuple(self.pipelines))
        return self.pipelines[name]

    def _handle(self, created: Created, pipeline: Pipeline[Any, ResultT]) -> RunHandle[ResultT]:
        run_id, replayed = created.run_id, created.replayed
        return RunHandle(
            run_id,
            self.store,
            self.run,
            self._clock,
            replayed=replayed,
            pipeline=pipeline,
            awaiting=self._awaiting,
        )

    # --- runs -------------------------------------------------------------------------------------------------------

    def check(self) -> list[tuple[RunSummary, str]]:
        """Unfinished runs that this engine's definitions would park, and why; run it before a deploy."""
        return self.store.misfits([pipeline.plan for pipeline in self.pipelines.values()])

    acheck = in_thread(check)

    # --- workers ----------------------------------------------------------------------------------------------------

    def worker_settings(self) -> dict[str, Any]:
        """Celery settings that make a whole worker safe; for adopted applications that want them:
        ``app.conf.update(engine.worker_settings())``. What such a one has set besides stays: its own
        ``beat_schedule`` (every worker sweeps, no beat is needed), and its other ``broker_transport_options``.
        """
        if self._adopted is None:
            return worker_settings(self.settings)
        return settings_beside(self._adopted.conf, self.settings)

    def _make_process(self) -> Process:
        plans, profile = [pipeline.plan for pipeline in self.pipelines.values()], self.profile
        return Process(
            self.store,
            self.publisher,
            self.pipelines,
            self.settings,
            self._world,
            redis_url=self.urls.redis_url,
            retry=self._retry,
            interceptors=self._interceptors,
            observers=self._observers,
            on_lease_lost=self._on_lease_lost,
            register=lambda: self.store.register(plans, boot_id(), profile),
            profile=profile,
            signer=self._signer,
            callback_url=self._callback_urls.url,
            beside=beside_stages(self.store, self.sinks, self._world),
        )

    def _after_death(self, pid: int) -> None:
        try:
            self._sweeper.process_killed(boot_id(), pid)
            self._free_sinks(pid)
        finally:
            self.store.close()  # no connection of the parent may be open when the next child is forked
            self.publisher.close()

    def close(self) -> None:
        """Give back connections; for scripts and tests."""
        self._lifecycle.close()
        for part in self._in_use:
            part.close()
