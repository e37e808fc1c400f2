"""Any stage body behind an idempotency key: it runs once, and duplicates get what it returned.

```python
guard = IdempotencyInterceptor(SqlIdempotencyStore("postgresql://…"), key_extractor=lambda ctx: ctx.input.order_id)
engine = Engine("shop", pipelines=[…], interceptors=[guard])          # around every stage
output = guard.run(ctx, charge)                                       # around any callable

class Charge(IdempotentStageMixin):                                   # or within a stage class
    idempotency = guard
    def execute(self, ctx): ...
```
It remembers where its store does: on ``RedisIdempotencyStore`` work runs a second time once Redis has lost its keys.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from stageflow_durable.codec import Classes, encode_and_fingerprint
from stageflow_durable.errors import (
    ConfigurationError,
    FenceLost,
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidKey,
    StoreUnavailable,
)
from stageflow_durable.idempotency.in_thread import ask_in_thread
from stageflow_durable.idempotency.keeper import Held, LeaseKeeper
from stageflow_durable.idempotency.keys import Scope, key_text, seconds_of
from stageflow_durable.idempotency.remembered import Known, comes_back, remembered
from stageflow_durable.idempotency.store import Answer, Claimed, Done, IdempotencyStore, InProgress
from stageflow_durable.model.context import AttemptEnd, Observer
from stageflow_durable.model.output import OutputKind, StageOutput

FIRST_POLL_SECONDS = 0.01
LONGEST_POLL_SECONDS = 0.5

_UNNAMED_CLIENT = "default"
_NEVER = threading.Event()
_NOTHING = StageOutput.skip("nothing was committed")

T = TypeVar("T")

log = logging.getLogger("stageflow.idempotency")


@dataclass(slots=True)
class _Wish:
    """A claim that may take several looks, and how long to pause before the next."""

    scope: Scope
    key: str
    fingerprint: str
    params_text: str
    deadline: float
    classes: Classes
    poll: float = FIRST_POLL_SECONDS


class IdempotencyInterceptor:
    """An interceptor that claims the key before the body and remembers its output afterwards. Duplicates wait for it,
    in bounded time.

    Remembered is an ``ok`` with its value, which comes back equal: models and dataclasses as objects of the classes
    that ``result_type``, or the body's annotation, leads to. What cannot is told in the log when it is remembered, and
    refused to duplicates; the body is not called for them. ``reject`` vouches that nothing happened and frees the key.
    Anything else (``retry``, ``fail``, ``skip``, ``cancel``, an exception) ends the lease, and the next claim with the
    same parameters runs the body again. The lease is renewed while the body runs; a process that dies keeps the key
    for one lease.

    :param key_extractor: the key of a context, or None: not guarded this time; or the name of a field of its input,
        dotted where it is inside another (``"order.id"``). Default: ``ctx.data["idempotency_key"]`` where a context has
        that, else ``ctx.idempotency_key``.
    :param params_extractor: the parameters to compare. Default: ``ctx.data["idempotency_params"]``, else ``ctx.input``.
    :param ttl_seconds: how long an output is remembered; positive.
    :param validate_params: whether one key with two sets of parameters is refused; the same everywhere for a key.
    :param operation: what the key is for, with the client its scope. Default: pipeline and stage of the context.
    :param lease_seconds: how long a dead owner keeps the key; positive.
    :param result_type: the type that the body returns; with :meth:`run` and the mixin its annotation is known as well.
    :param wait_seconds: how long a duplicate waits for the first; 0: refused at once.
    :param pause: sleeps the given seconds between two looks.
    :raises ConfigurationError: a duration is not positive, or longer than ten years.
    """

    name = "idempotency"
    priority = 10

    def __init__(
        self,
        store: IdempotencyStore,
        key_extractor: Callable[[Any], str | None] | str | None = None,
        ttl_seconds: float | timedelta = 86400,
        validate_params: bool = True,
        *,
        params_extractor: Callable[[Any], object] | None = None,
        operation: str | None = None,
        result_type: Any = None,
        lease_seconds: float | timedelta = 30.0,
        wait_seconds: float | timedelta = 30.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = _NEVER.wait,
    ) -> None:
        self._store = store
        self._key_of = _field(key_extractor) if isinstance(key_extractor, str) else key_extractor or _own_key
        self._params_of = (params_extractor or _own_input) if validate_params else _nothing
        self._ttl = seconds_of(ttl_seconds, "ttl_seconds")
        self._lease = seconds_of(lease_seconds, "lease_seconds")
        self._operation = operation
        self._known = Known(result_type)
        self._told: set[str] = set()
        self._wait = seconds_of(wait_seconds, "wait_seconds") if wait_seconds else 0.0
        self._clock = clock
        self._pause = pause
        self._running = LeaseKeeper(self._renew, self._lease / 3)

    def around(self, ctx: Any, call_next: Callable[[Any], Any]) -> StageOutput:
        """What is remembered under the key, or the outcome of ``call_next(ctx)``, which is remembered once the engine
        has committed it: what a stage writes with its checkpoint and what the key answers do not part.

        :raises IdempotencyParamMismatch: the key was used with other parameters, finished or in flight.
        :raises IdempotencyConflict: another still works under the key after ``wait_seconds``, or its work was undone.
        :raises UnreadableValue: what is remembered cannot come back equal.
        """
        if ctx in self._running:
            return _output(call_next(ctx))
        said: list[StageOutput] = []
        try:
            known = self._claimed(ctx, self._known.declared)
            if known is not None:
                return known
            ctx.on_end(self._told_by(ctx, said))
            said.append(_output(call_next(ctx)))
        except BaseException as error:
            self._give_up(ctx, error)
            raise
        return said[0]

    def run(self, ctx: Any, body: Callable[[Any], Any]) -> StageOutput:
        """The output of ``body(ctx)``, or what is remembered of it; a value that is no ``StageOutput`` is an ``ok``. It
        is remembered at once.

        Within a body that already runs under this guard, ``body`` is simply called. Raises what :meth:`around` does.

        :raises FenceLost: another took the key over meanwhile.
        :raises UnsavableValue: the output cannot be remembered; the key is held until its lease lapses.
        """
        if ctx in self._running:
            return _output(body(ctx))
        try:
            known = self._claimed(ctx, self._known.of(body))
            if known is not None:
                return known
            output = _output(body(ctx))
        except BaseException as error:
            self._give_up(ctx, error)
            raise
        self._settle(ctx, output)
        return output

    async def arun(self, ctx: Any, body: Callable[[Any], Awaitable[Any]]) -> StageOutput:
        """:meth:`run` for an ``async def`` body: it runs in the caller's loop, and the store is asked in threads.

        A duplicate that waits holds no thread: else a hundred of them would keep the first from completing.
        """
        if ctx in self._running:
            return _output(await body(ctx))
        try:
            known = await self._aclaimed(ctx, self._known.of(body))
            if known is not None:
                return known
            output = _output(await body(ctx))
        except BaseException as error:
            await ask_in_thread(self._give_up, ctx, error)
            raise
        await ask_in_thread(self._settle, ctx, output)
        return output

    def forget(self, ctx: Any) -> None:
        """Erase what is remembered under the key of a context. Raises StoreUnavailable, and what the extractors raise.

        The key stays taken until it expires: who comes with it is refused, and the body is not run again.
        """
        wish = self._wish(ctx, self._known.declared)
        if wish is not None:
            self._store.forget(wish.scope, wish.key)

    def _claimed(self, ctx: Any, classes: Classes) -> StageOutput | None:
        """What is remembered under the key; None: it is held from now on, or the context is not guarded."""
        wish = self._wish(ctx, classes)
        while isinstance(answer := self._look(ctx, wish), float):
            self._pause(answer)
        return answer

    def _told_by(self, ctx: Any, said: list[StageOutput]) -> Observer:
        """``said``: what was answered under the key, if anything. Only what the engine has committed counts."""

        def settle(end: AttemptEnd) -> None:
            counts = said and end.committed and end.result.kind is said[0].kind
            self._settle(ctx, said[0] if counts else _NOTHING)

        settle.__name__ = self.name  # for the log, should it fail
        return settle

    def _settle(self, ctx: Any, output: StageOutput) -> None:
        """Remember an ``ok``; free the key after a ``reject``; end the lease otherwise."""
        held = self._running.pop(ctx)
        if held is None:
            return
        if output.kind is OutputKind.OK:
            self._store.complete(held.scope, held.key, held.fence, output.value, ttl_seconds=self._ttl)
            self._tell_of_objects(held, output.value)
        else:
            self._store.release(held.scope, held.key, held.fence, vouched=output.kind is OutputKind.REJECT)

    def _tell_of_objects(self, held: Held, value: object) -> None:
        if held.scope.operation not in self._told and not comes_back(value, held.classes):
            self._told.add(held.scope.operation)
            log.warning(
                "the output of %s holds objects that duplicates cannot have back: give "
                "IdempotencyInterceptor(result_type=…) the type that the body returns",
                held.scope.operation,
            )

    def _give_up(self, ctx: Any, error: BaseException) -> None:
        """End the lease: nothing is remembered, and a retry need not wait."""
        held = self._running.pop(ctx)
        if held is None:
            return
        try:
            self._store.release(held.scope, held.key, held.fence)
        except (StoreUnavailable, FenceLost) as reason:
            # The lease lapses without us; the body's own error is what the caller has to see.
            error.add_note(f"the lease of idempotency key {held.key!r} could not be ended: {reason}")

    async def _aclaimed(self, ctx: Any, classes: Classes) -> StageOutput | None:
        wish = self._wish(ctx, classes)
        # The key is in a store that tells nobody when it changes.
        while isinstance(answer := await ask_in_thread(self._look, ctx, wish), float):  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(answer)
        return answer

    def _wish(self, ctx: Any, classes: Classes) -> _Wish | None:
        key = self._key_of(ctx)
        if key is None:
            return None
        scope = Scope(getattr(ctx, "client_id", None) or _UNNAMED_CLIENT, self._operation or _operation_of(ctx))
        text, fingerprint = encode_and_fingerprint(self._params_of(ctx))
        return _Wish(scope, key, fingerprint, text, self._clock() + self._wait, classes)

    def _look(self, ctx: Any, wish: _Wish | None) -> StageOutput | float | None:
        """What :meth:`_claimed` returns, or the seconds to pause until the next look."""
        if wish is None:
            return None
        answer = self._asked(ctx, wish)
        if isinstance(answer, float):
            return answer
        if isinstance(answer, Done):
            output = StageOutput(OutputKind.OK, value=remembered(answer.result_text, wish.classes, wish.key))
            _emit(ctx, "work.idempotency_hit", wish)
            return output
        self._running.add(Held(ctx, wish.scope, wish.key, answer.fence, wish.classes))
        return None

    def _asked(self, ctx: Any, wish: _Wish) -> Claimed | Done | float:
        try:
            answer = self._claim(wish)
            return self._patience(wish, answer) if isinstance(answer, InProgress) else answer
        except IdempotencyParamMismatch as error:
            _emit(ctx, "work.idempotency_mismatch", wish, fields=list(error.fields))
            raise
        except IdempotencyConflict:
            _emit(ctx, "work.idempotency_conflict", wish)
            raise

    def _claim(self, wish: _Wish) -> Answer:
        owner = f"{socket.gethostname()}/{os.getpid()}"[:255]
        return self._store.claim(
            wish.scope,
            wish.key,
            wish.fingerprint,
            params_text=wish.params_text,
            owner=owner,
            lease_seconds=self._lease,
            ttl_seconds=self._ttl,
        )

    def _patience(self, wish: _Wish, standing: InProgress) -> float:
        left = wish.deadline - self._clock()
        if left <= 0:
            raise IdempotencyConflict(wish.key, f"in progress by {standing.owner}; waited {self._wait:g} s")
        pause = min(wish.poll, left)
        wish.poll = min(wish.poll * 2, LONGEST_POLL_SECONDS)
        return pause

    def _renew(self, held: Held) -> None:
        self._store.renew(held.scope, held.key, held.fence, lease_seconds=self._lease)


class IdempotentStageMixin:
    """A stage class whose ``execute`` runs once a key: set ``idempotency`` on the class or the instance, change
    nothing else.

    ``execute`` may be the class's own or inherited, ``def`` or ``async def``; it returns a ``StageOutput`` always.
    """

    idempotency: IdempotencyInterceptor

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        body = getattr(cls, "execute", None)
        if body is not None:
            stage_class: Any = cls  # the mixin itself has no execute
            stage_class.execute = _guarded_async(body) if iscoroutinefunction(body) else _guarded(body)


def _guarded(body: Callable[[Any, Any], Any]) -> Callable[[Any, Any], StageOutput]:
    @wraps(body)
    def execute(self: Any, ctx: Any) -> StageOutput:
        return _guard_of(self).run(ctx, partial(body, self))

    return execute


def _guarded_async(body: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[StageOutput]]:
    @wraps(body)
    async def execute(self: Any, ctx: Any) -> StageOutput:
        return await _guard_of(self).arun(ctx, partial(body, self))

    return execute


def _guard_of(stage: object) -> IdempotencyInterceptor:
    guard = getattr(stage, "idempotency", None)
    if not isinstance(guard, IdempotencyInterceptor):
        raise ConfigurationError(f"{type(stage).__name__}.idempotency is not set: give it an IdempotencyInterceptor")
    return guard


def _own_key(ctx: Any) -> str | None:
    key: str | None = _told(ctx, "idempotency_key", getattr(ctx, "idempotency_key", None))
    return key


def _own_input(ctx: Any) -> object:
    return _told(ctx, "idempotency_params", getattr(ctx, "input", None))


def _told(ctx: Any, name: str, otherwise: Any) -> Any:
    data = getattr(ctx, "data", None)
    return data[name] if isinstance(data, Mapping) and data.get(name) is not None else otherwise


def _field(path: str) -> Callable[[Any], str]:
    """The key is what the input has in that field. Raises InvalidKey where it has none, or nothing that names."""

    def key_of(ctx: Any) -> str:
        found = getattr(ctx, "input", None)
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
        if found is None:
            raise InvalidKey(f"input.{path} is to be the idempotency key, and is missing; give it, or another field")
        return key_text(found, f"input.{path}, the idempotency key,")

    return key_of


def _nothing(_ctx: Any) -> object:
    return None


def _operation_of(ctx: Any) -> str:
    return "/".join(part for part in (getattr(ctx, "pipeline", None), getattr(ctx, "stage", None)) if part)


def _output(value: Any) -> StageOutput:
    return value if isinstance(value, StageOutput) else StageOutput(OutputKind.OK, value=value)


def _emit(ctx: Any, event: str, wish: _Wish, **data: object) -> None:
    """Tell of it in the run's history, as the engine does of its business keys."""
    note = getattr(getattr(ctx, "services", None), "note", None)
    if note is not None:
        note(event, {"key": wish.key, "client_id": wish.scope.client_id, "operation": wish.scope.operation, **data})
