"""Validated settings: keywords over environment over ``[tool.stageflow]`` in pyproject.toml.

``load_settings()`` reads them; ``Settings.require()`` answers where database and broker are, or how to set them up.
"""

from stageflow_durable.settings.load import check_keywords, load_settings
from stageflow_durable.settings.parsing import safe_url
from stageflow_durable.settings.values import Settings, Urls

__all__ = ["Settings", "Urls", "check_keywords", "load_settings", "safe_url"]
