"""What happens when a service is not there: a skip on a laptop, a failure where everything is promised."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


class ServiceMissing(Exception):
    """A service cannot be started here; the message says what to install or to set."""


def wanted(*names: str) -> bool:
    """Whether one of these environment variables says yes."""
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in names)


def missing(reason: object) -> NoReturn:
    """Skip the test, or fail it when ``STAGEFLOW_REQUIRE_SERVICES`` or ``CI`` is set."""
    if wanted("STAGEFLOW_REQUIRE_SERVICES", "CI"):
        pytest.fail(f"a required service is missing: {reason}", pytrace=False)
    pytest.skip(str(reason))
