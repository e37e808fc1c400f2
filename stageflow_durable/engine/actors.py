"""Who acts: a name that somebody typed, or one that is known to be theirs; and whether they may.

A name as text is recorded as it was typed. What satisfies ``approvers=`` and ``separation=`` is an authenticated actor:
``Engine(authenticate=)`` makes one of a :class:`Credential`, a page or a link of one of those that signed in there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stageflow_durable.errors import ConfigurationError, InvalidInput, NotAllowed
from stageflow_durable.model.callables import shown
from stageflow_durable.model.run import RunSummary


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves who acts: a token, a request, whatever ``Engine(authenticate=)`` understands. It is shown nowhere."""

    value: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody by name. ``authenticated``: whether the name is known to be theirs, or was only typed."""

    name: str
    authenticated: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidInput for what is neither True nor False: whatever is true would pass for a proof."""
        given: Any = self.authenticated
        if given is not True and given is not False:
            raise InvalidInput("actor", [f"authenticated: {type(given).__name__} given; True or False"])

    def __str__(self) -> str:
        return self.name


Authenticate = Callable[[Any], str | None]
"""Gives the name of whoever a credential belongs to, or None if it is not accepted."""

Authorize = Callable[[Actor, str, RunSummary | None], bool]
"""Whether an actor may do this verb to this run (None: the verb is about no run)."""


def require_function(option: str, given: object, *arguments: str) -> None:
    """Raise ConfigurationError for an option that could not be called with these arguments, or not be answered by at
    once: a coroutine is neither a name nor True. None is allowed.
    """
    if given is None:
        return
    if not callable(given):
        raise ConfigurationError(f"{option}={given!r} is not a function")
    if inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(getattr(given, "__call__", None)):  # noqa: B004  # its own, if it is an object
        raise ConfigurationError(f"{option}={shown(given)} is async; give a plain function (def)")
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # one of C: it is found out when it is called
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        called = ", ".join(arguments)
        raise ConfigurationError(f"{option}={shown(given)} takes {signature}; it is called with {called}") from None


def actor_of(given: Any, authenticate: Authenticate | None, verb: str, run_id: str) -> Actor:
    """The actor that a caller named: text, a :class:`Credential`, or an :class:`Actor`.

    Raises NotAllowed where the credential is not accepted, ConfigurationError where nobody can tell.
    """
    if isinstance(given, Actor):
        return given
    if not isinstance(given, Credential):
        return Actor(given)
    if authenticate is None:
        raise ConfigurationError("actor=Credential(…): give the engine authenticate=, which says whose it is")
    name = authenticate(given.value)
    if not (isinstance(name, str) and name.strip()):
        raise NotAllowed(run_id, verb, "the credential is not accepted")
    return Actor(name, authenticated=True)


def require_allowed(authorize: Authorize | None, actor: Actor, verb: str, run_id: str, run: RunSummary | None) -> None:
    """Raise NotAllowed unless the actor may do it. Only True allows it."""
    if authorize is not None and authorize(actor, verb, run) is not True:
        known = "" if actor.authenticated else " (a name that was typed, not authenticated)"
        raise NotAllowed(run_id, verb, f"{actor} may not {verb}{known}", of="run" if run is not None else "owner")
