"""The setting ``notify`` as a sink: a webhook, or a command."""

from __future__ import annotations

import json

from stageflow_durable.model.sinks import Sink
from stageflow_durable.settings import Settings
from stageflow_durable.sinks.command import Command
from stageflow_durable.sinks.webhook import Webhook


def notified(settings: Settings) -> Sink:
    """Who is told. Raises ConfigurationError."""
    given = settings.notify or ""
    if given.startswith("["):
        return Command(json.loads(given))
    return Webhook(given, secret=settings.notify_secret or "")
