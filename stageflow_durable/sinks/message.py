"""An event as programs are sent it: one JSON object."""

from __future__ import annotations

import json
from typing import Any

from stageflow_durable.legible import jsonable
from stageflow_durable.model.sinks import RunEvent


def as_object(event: RunEvent) -> dict[str, Any]:
    """The event as plain JSON: ``id``, ``type``, ``at`` (ISO 8601, UTC), ``run`` (``id``, ``pipeline``, ``client_id``,
    ``key``), ``seq``, ``item`` and ``data``.
    """
    run = {"id": event.run_id, "pipeline": event.pipeline, "client_id": event.client_id, "key": event.key}
    about = {"id": event.id, "type": event.type, "at": event.at, "run": run, "seq": event.seq, "item": event.item}
    found: dict[str, Any] = jsonable({**about, "data": dict(event.data)})
    return found


def as_text(event: RunEvent) -> str:
    """The same as text, on one line of ASCII: nothing in it acts on a terminal or breaks a line."""
    return json.dumps(as_object(event), separators=(",", ":"))
