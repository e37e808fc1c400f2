"""Validated settings: keywords over environment over ``[tool.stageflow]`` in pyproject.toml.

``load_settings()`` reads them; ``Settings.require()`` answers where database and broker are, or how to set them up.
"""

from stageflow_durable.settings.load import check_keywords, load_settings
from stageflow_durable.settings.parsing import broker_name, safe_url
from stageflow_durable.settings.queues import default_queue, engine_name
from stageflow_durable.settings.values import Settings, Urls, listed

__all__ = [
    "Settings",
    "Urls",
    "broker_name",
    "check_keywords",
    "default_queue",
    "engine_name",
    "listed",
    "load_settings",
    "safe_url",
]
