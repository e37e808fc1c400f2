"""Forgetting in Redis what is remembered under a key: seldom, and apart from what each stage does there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.rules import ERASED_FINGERPRINT, ERASED_RESULT
from stageflow_durable.idempotency.script import Script

_FORGET = Script("""
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 0 end
redis.call('HDEL', KEYS[1], 'params')
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1])
if state == 'done' then redis.call('HSET', KEYS[1], 'result', ARGV[2]) end
return 1
""")


class Forgetting(ABC):
    """The part of a store in Redis that forgets."""

    _link: Any

    @abstractmethod
    def _name(self, scope: Scope, key: str) -> str:
        """The name of a key's record."""

    def forget(self, scope: Scope, key: str) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        self._link.run(_FORGET, self._name(scope, key), ERASED_FINGERPRINT, ERASED_RESULT)
