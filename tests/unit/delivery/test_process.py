"""One process with several owners: what one of them meets stays its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from stageflow_durable.delivery.process import Process


def test_given_an_owner_whose_beat_fails_then_the_others_beat_and_it_is_told() -> None:
    process: Any = object.__new__(Process)
    first, second = Mock(), Mock()
    first.beat.side_effect = ValueError("no such thing")
    told = SimpleNamespace(set=Mock())
    vars(process).update(_owners=[first, second], _joined=True, _tried=told)
    with pytest.raises(ValueError, match="no such thing"):
        process._beat()
    second.beat.assert_called_once_with()
