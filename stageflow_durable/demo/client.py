"""How the shop talks to its services: JSON over HTTP with an idempotency key, by the standard library.

Lost connections and timeouts are raised as they come (``ConnectionError``, ``TimeoutError``): the engine knows that
they pass.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """``status``, the JSON ``body`` and ``retry_after`` (the header as it came, or None)."""

    status: int
    body: Mapping[str, Any]
    retry_after: str | None = None

    @property
    def error(self) -> str:
        """What the service said was wrong."""
        return str(self.body.get("error", f"status {self.status}"))


def post(base_url: str, path: str, *, key: str, **fields: object) -> Response:
    """POST ``fields`` as JSON under that idempotency key."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return _exchange(base_url, "POST", path, json.dumps(fields), headers)


def stats(base_url: str) -> dict[str, int]:
    """What a service has served so far, by fate."""
    return dict(_exchange(base_url, "GET", "/stats", None, {}).body)


def _exchange(base_url: str, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Response:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return Response(answer.status, json.loads(answer.read()), answer.headers.get("Retry-After"))
    finally:
        connection.close()
