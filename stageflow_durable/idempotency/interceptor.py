"""Any stage body behind an idempotency key: it runs once, and duplicates get what it returned.

```python
guard = IdempotencyInterceptor(RedisIdempotencyStore("redis://…"), key_extractor=lambda ctx: ctx.input.order_id)
output = guard.run(ctx, charge)                                       # around any callable

class Charge(IdempotentStageMixin):                                   # or within a stage class
    idempotency = guard
    def execute(self, ctx): ...
```
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any

from stageflow_durable.codec import encode, fingerprint
from stageflow_durable.errors import (
    ConfigurationError,
    FenceLost,
    IdempotencyConflict,
    IdempotencyParamMismatch,
    StoreUnavailable,
)
from stageflow_durable.idempotency.keeper import Held, LeaseKeeper
from stageflow_durable.idempotency.keys import Scope, seconds_of
from stageflow_durable.idempotency.store import Answer, Claimed, Done, IdempotencyStore, InProgress
from stageflow_durable.model.output import OutputKind, StageOutput

FIRST_POLL_SECONDS = 0.01
LONGEST_POLL_SECONDS = 0.5

_UNNAMED_CLIENT = "default"
_NEVER = threading.Event()


class IdempotencyInterceptor:
    """Claims the key before the body, remembers its output after; duplicates wait for it, in bounded time.

    Remembered is an ``ok`` with its value, falsy ones exactly; models and dataclasses come back as the dict of their
    fields. ``reject`` vouches that nothing happened and frees the key. Anything else (``retry``, ``fail``, ``skip``,
    ``cancel``, an exception) ends the lease, and the next claim with the same parameters runs the body again. The
    lease is renewed while the body runs; a process that dies keeps the key for one lease.

    :param key_extractor: the key of a context, or None: not guarded this time. Default: ``ctx.idempotency_key``.
    :param params_extractor: the parameters to compare. Default: ``ctx.input``.
    :param ttl_seconds: how long an output is remembered; positive.
    :param validate_params: whether one key with two sets of parameters is refused; the same everywhere for a key.
    :param operation: what the key is for, with the client its scope. Default: pipeline and stage of the context.
    :param lease_seconds: how long a dead owner keeps the key; positive.
    :param wait_seconds: how long a duplicate waits for the first; 0: refused at once.
    :param pause: sleeps the given seconds between two looks.
    :raises ConfigurationError: a duration is not positive.
    """

    name = "idempotency"
    priority = 10

    def __init__(
        self,
        store: IdempotencyStore,
        key_extractor: Callable[[Any], str | None] | None = None,
        params_extractor: Callable[[Any], object] | None = None,
        ttl_seconds: float | timedelta = 86400,
        validate_params: bool = True,
        *,
        operation: str | None = None,
        lease_seconds: float | timedelta = 30.0,
        wait_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = _NEVER.wait,
    ) -> None:
        self._store = store
        self._key_of = key_extractor or _own_key
        self._params_of = (params_extractor or _own_input) if validate_params else _nothing
        self._ttl = seconds_of(ttl_seconds, "ttl_seconds")
        self._lease = seconds_of(lease_seconds, "lease_seconds")
        self._operation = operation
        self._wait = wait_seconds
        self._clock = clock
        self._pause = pause
        self._running = LeaseKeeper(self._renew, self._lease / 3)

    def before(self, ctx: Any) -> StageOutput | None:
        """Claim the key: None when the body is to run, the remembered output when it ran before.

        :raises IdempotencyParamMismatch: the key was used with other parameters, finished or in flight.
        :raises IdempotencyConflict: another still works under the key after ``wait_seconds``, or its work was undone.
        """
        key = self._key_of(ctx)
        if key is None:
            return None
        scope = Scope(getattr(ctx, "client_id", None) or _UNNAMED_CLIENT, self._operation or _operation_of(ctx))
        answer = self._answer(ctx, scope, key)
        if isinstance(answer, Done):
            _emit(ctx, "work.idempotency_hit", scope, key)
            return StageOutput(OutputKind.OK, value=answer.result)
        self._running.add(Held(ctx, scope, key, answer.fence))
        return None

    def after(self, ctx: Any, output: StageOutput) -> None:
        """Remember an ``ok``; free the key after a ``reject``; end the lease otherwise.

        :raises FenceLost: another took the key over meanwhile.
        :raises UnsavableValue: the output cannot be remembered; the key is held until its lease lapses.
        """
        held = self._running.pop(ctx)
        if held is None:
            return
        if output.kind is OutputKind.OK:
            self._store.complete(held.scope, held.key, held.fence, output.value, ttl_seconds=self._ttl)
        else:
            self._store.release(held.scope, held.key, held.fence, vouched=output.kind is OutputKind.REJECT)

    def on_error(self, ctx: Any, error: BaseException) -> None:
        """End the lease: nothing is remembered, and a retry need not wait."""
        held = self._running.pop(ctx)
        if held is None:
            return
        try:
            self._store.release(held.scope, held.key, held.fence)
        except (StoreUnavailable, FenceLost) as reason:
            # The lease lapses without us; the body's own error is what the caller has to see.
            error.add_note(f"the lease of idempotency key {held.key!r} could not be ended: {reason}")

    def run(self, ctx: Any, body: Callable[[Any], Any]) -> StageOutput:
        """The output of ``body(ctx)``, or what is remembered of it; a value that is no ``StageOutput`` is an ``ok``.

        Within a body that already runs under this guard, ``body`` is simply called.
        """
        if ctx in self._running:
            return _output(body(ctx))
        remembered = self.before(ctx)
        if remembered is not None:
            return remembered
        try:
            output = _output(body(ctx))
        except BaseException as error:
            self.on_error(ctx, error)
            raise
        self.after(ctx, output)
        return output

    async def arun(self, ctx: Any, body: Callable[[Any], Awaitable[Any]]) -> StageOutput:
        """:meth:`run` for an ``async def`` body; the store is asked in a thread, the body runs in the caller's loop."""
        if ctx in self._running:
            return _output(await body(ctx))
        remembered = await asyncio.to_thread(self.before, ctx)
        if remembered is not None:
            return remembered
        try:
            output = _output(await body(ctx))
        except BaseException as error:
            await asyncio.to_thread(self.on_error, ctx, error)
            raise
        await asyncio.to_thread(self.after, ctx, output)
        return output

    def _answer(self, ctx: Any, scope: Scope, key: str) -> Claimed | Done:
        try:
            return self._wait_for_it(scope, key, self._params_of(ctx))
        except IdempotencyParamMismatch as error:
            _emit(ctx, "work.idempotency_mismatch", scope, key, fields=list(error.fields))
            raise
        except IdempotencyConflict:
            _emit(ctx, "work.idempotency_conflict", scope, key)
            raise

    def _wait_for_it(self, scope: Scope, key: str, params: object) -> Claimed | Done:
        mark, text = fingerprint(params), encode(params)
        deadline, poll = self._clock() + self._wait, FIRST_POLL_SECONDS
        while isinstance(answer := self._claim(scope, key, mark, text), InProgress):
            left = deadline - self._clock()
            if left <= 0:
                raise IdempotencyConflict(key, f"in progress by {answer.owner}; waited {self._wait} s")
            self._pause(min(poll, left))
            poll = min(poll * 2, LONGEST_POLL_SECONDS)
        return answer

    def _claim(self, scope: Scope, key: str, mark: str, text: str) -> Answer:
        owner = f"{socket.gethostname()}/{os.getpid()}"[:255]
        return self._store.claim(
            scope, key, mark, owner=owner, lease_seconds=self._lease, ttl_seconds=self._ttl, params_text=text
        )

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
    key: str | None = getattr(ctx, "idempotency_key", None)
    return key


def _own_input(ctx: Any) -> object:
    return getattr(ctx, "input", None)


def _nothing(_ctx: Any) -> object:
    return None


def _operation_of(ctx: Any) -> str:
    return "/".join(part for part in (getattr(ctx, "pipeline", None), getattr(ctx, "stage", None)) if part)


def _output(value: Any) -> StageOutput:
    return value if isinstance(value, StageOutput) else StageOutput(OutputKind.OK, value=value)


def _emit(ctx: Any, event: str, scope: Scope, key: str, **data: object) -> None:
    emit = getattr(ctx, "emit", None)
    if emit is not None:
        emit(event, key=key, client_id=scope.client_id, operation=scope.operation, **data)
