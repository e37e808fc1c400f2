"""Of Celery's remote commands those that look are kept, and the others refuse; a new one is judged by what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery.worker.control import Panel

from stageflow_durable.delivery.remote import narrowed

LOOKS = {
    *("clock", "report", "conf", "dump_conf", "query_task", "ping", "stats", "scheduled", "dump_schedule", "reserved"),
    *("dump_reserved", "active", "dump_active", "revoked", "dump_revoked", "registered", "dump_tasks", "active_queues"),
    *("enable_events", "disable_events", "heartbeat"),
}
"""What the installed Celery has that a worker of ours does; one that a new release brings has to be looked at."""


def kept() -> dict[str, Any]:
    return narrowed(Panel.data, Panel.meta)


def test_those_that_change_nothing_are_kept_and_all_others_refuse() -> None:
    narrow = kept()
    assert narrow.keys() == Panel.data.keys()
    assert {name for name, command in narrow.items() if command is Panel.data[name]} == LOOKS


@pytest.mark.parametrize("name", sorted(Panel.data.keys() - LOOKS - {"hello"}))
def test_a_refusal_names_the_setting(name: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = kept()[name](SimpleNamespace(), anything="x")
    assert "refused" in answer["error"]
    assert "STAGEFLOW_REMOTE_CONTROL=all" in answer["error"]
    assert f"remote command {name}" in caplog.text


def test_a_greeting_is_answered_and_its_orders_are_not_followed() -> None:
    greet = Mock(return_value={"clock": 1})
    meta = SimpleNamespace(type="inspect")
    narrow = narrowed({"hello": greet}, {"hello": meta})
    assert narrow["hello"]("a state", from_node="other@host", revoked=["a task"]) == {"clock": 1}
    greet.assert_called_once_with("a state", "other@host")


def test_commands_of_the_application_are_what_they_were_registered_as() -> None:
    looks, changes = Mock(), Mock()
    meta = {"looks": SimpleNamespace(type="inspect"), "changes": SimpleNamespace(type="control")}
    narrow = narrowed({"looks": looks, "changes": changes}, meta)
    assert narrow["looks"] is looks
    narrow["changes"](None)
    changes.assert_not_called()
