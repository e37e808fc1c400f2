"""What an engine does for its sinks when somebody asks, beside what its workers do by themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stageflow_durable.clock import World
from stageflow_durable.engine.twins import in_thread
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.sinks import Sink, SinkView
from stageflow_durable.settings import Settings
from stageflow_durable.store.protocol import Store

if TYPE_CHECKING:
    from stageflow_durable.engine.delivering import Deliveries


class SinkOperations:
    """Sinks, as people see them. A subclass brings its parts; without an application there are none to tell."""

    _world: World

    if TYPE_CHECKING:

        @cached_property
        def store(self) -> Store: ...  # noqa: D102  # as Engine has it

    @cached_property
    def sinks(self) -> Sequence[Sink]:
        """Who is told of events."""
        return ()

    def _open_sinks(self) -> None:
        """Make the sinks known: what happens from now on is kept for them."""
        for sink in self.sinks:
            self.store.open_sink(sink.name)

    def _free_sinks(self, pid: int) -> None:
        """A process of this host was seen to end."""
        if self.sinks:
            self.store.free_sinks(process_name(pid))

    def deliver(self) -> dict[str, int]:
        """Tell every sink now what there is to tell, as workers do all the time; returns how many events each took. One
        that a worker tells at this moment, or that is not yet tried again, is left to that.
        """
        if not self.sinks:
            return {}
        from stageflow_durable.engine.delivering import deliver_now

        return deliver_now(self.store, self.sinks, process_name(), self._world.clock, self._world.draw)

    adeliver = in_thread(deliver)

    def sink_views(self) -> list[SinkView]:
        """How every sink stands that the database knows, by name."""
        return self.store.sinks()

    asink_views = in_thread(sink_views)

    def forget_sink(self, name: str) -> None:
        """Forget how far a sink was told; pruning waits for it no longer. If an engine still has it, it begins anew,
        with what happens from then on. Raises InvalidInput for one that is not known.
        """
        if not self.store.forget_sink(name):
            known = ", ".join(view.name for view in self.store.sinks()) or "none"
            raise InvalidInput("forget_sink", [f"no sink is named {name!r}; there are: {known}"])

    aforget_sink = in_thread(forget_sink)


def process_name(pid: int | None = None) -> str:
    """What people call this process, or that of a number on this host: host and number."""
    return f"{socket.gethostname()[:50]}:{os.getpid() if pid is None else pid}"


# --- what applications give: nothing of sinks is imported where there are none ----------------------------------------


def sinks_of(given: Any) -> tuple[Sink, ...]:
    """``sinks=`` as sinks. Raises ConfigurationError."""
    if isinstance(given, tuple | list) and not given:
        return ()
    from stageflow_durable.sinks import given as looked_at

    return looked_at.sinks_of(given)


def beside_stages(store: Store, sinks: Sequence[Sink], world: World) -> Sequence[Deliveries]:
    """What a worker process does beside its stages."""
    if not sinks:
        return ()
    from stageflow_durable.engine.delivering import Deliveries

    return (Deliveries(store, sinks, process_name(), world.clock, world.draw),)


def wraps_of(sinks: Sequence[Sink]) -> list[Any]:
    """The interceptors that sinks bring along: what they record while a body runs."""
    return [one.interceptor for one in sinks if hasattr(one, "interceptor")]


def all_sinks(given: Sequence[Sink], on_attention: Any, settings: Settings, store: Store) -> tuple[Sink, ...]:
    """Who is told of events, and of runs that need a person. Raises ConfigurationError."""
    for sink in given:
        getattr(sink, "bind", lambda _store: None)(store)
    return (*given, *_attention_sinks(on_attention, settings, store))


def _attention_sinks(on_attention: Any, settings: Settings, store: Store) -> tuple[Sink, ...]:
    if on_attention is None and settings.notify is None:
        return ()
    from stageflow_durable.engine.attention import AttentionSink
    from stageflow_durable.sinks.notify import notified

    targets = {"attention": on_attention, "notify": settings.notify and notified(settings)}
    return tuple(
        AttentionSink(name, checked_target(given), store) for name, given in targets.items() if given is not None
    )


def checked_target(given: Any) -> Sink:
    """``on_attention=`` as a sink. Raises ConfigurationError."""
    from stageflow_durable.sinks.given import target_of

    return target_of(given)
