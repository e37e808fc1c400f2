"""A Redis stream as a sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.sinks import TOLD, RunEvent
from stageflow_durable.settings.parsing import redis_url, safe_url
from stageflow_durable.sinks.checked import check_kinds, check_name
from stageflow_durable.sinks.message import as_text

ANSWER_SECONDS = 5.0


class RedisStream:
    """Appends each event to a stream (``XADD``), with the fields ``id``, ``type``, ``run`` and ``event`` (JSON).

    ``url``: of Redis or Valkey. ``stream``: its key. ``keep``: about how many entries the stream keeps; the oldest go.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str = "stageflow:events",
        keep: int = 100_000,
        name: str | None = None,
        kinds: Sequence[str] = TOLD,
    ) -> None:
        try:
            self._url = str(redis_url(url))
        except ValueError as error:
            raise ConfigurationError(f"the URL of a Redis stream: {error}") from None
        given: Any = (stream, keep)
        if self._url == "off" or not isinstance(given[0], str) or not stream:
            raise ConfigurationError("a Redis stream has a URL, redis://…, and a key that is not empty")
        if isinstance(given[1], bool) or not isinstance(given[1], int) or keep < 1:
            raise ConfigurationError(f"keep={keep!r}: a whole number from 1, how many entries the stream keeps")
        self.name = check_name(f"redis:{stream}" if name is None else name)
        self.kinds = check_kinds(kinds)
        self._stream, self._keep = stream, keep
        self._client: Any = None

    def __repr__(self) -> str:
        return f"RedisStream({safe_url(self._url)!r}, stream={self._stream!r})"

    def deliver(self, event: RunEvent) -> None:
        """Append it. Raises what the client raises."""
        fields = {"id": event.id, "type": event.type, "run": event.run_id, "event": as_text(event)}
        self._connected().xadd(self._stream, fields, maxlen=self._keep, approximate=True)

    def close(self) -> None:
        """Close the connections; the next event opens others."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Any:
        if self._client is None:
            import redis

            bounds = {"socket_timeout": ANSWER_SECONDS, "socket_connect_timeout": ANSWER_SECONDS}
            self._client = redis.Redis.from_url(self._url.replace("redis+socket://", "unix://", 1), **bounds)
        return self._client
