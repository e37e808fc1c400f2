"""Which backend is used: the first that works and isolates as much as is asked; else none, and nothing is run."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import RetryPolicy
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.retry.classify import classify
from stageflow_durable.retry.table import Category
from stageflow_durable.sandbox import SandboxLevel, SandboxPolicy, SandboxUnavailable
from stageflow_durable.sandbox.backends import Order, Verdict, _verdicts, chosen, verdict
from stageflow_durable.sandbox.starting import refusal


class Fake:
    """Answers what it is told to, and counts."""

    not_stopped = ""

    def __init__(self, name: str, level: SandboxLevel, answer: bytes | Exception) -> None:
        self.name, self.level, self.answer = name, level, answer
        self.runs = 0

    def run(self, order: Order, look: Callable[[], None]) -> dict[str, Any]:
        self.runs += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"stdout": b64encode(self.answer).decode(), "exit_code": 0}


WORKS = b"it works\n"
BROKEN = SandboxUnavailable("no namespaces here")


@pytest.fixture(autouse=True)
def _no_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(_verdicts):
        monkeypatch.delitem(_verdicts, name)


def policy(**options: Any) -> SandboxPolicy:
    return SandboxPolicy(**options)


def test_the_first_that_works_is_used() -> None:
    broken = Fake("bubblewrap", SandboxLevel.CONTAINER, BROKEN)
    works = Fake("oci", SandboxLevel.CONTAINER, WORKS)
    assert chosen(policy(), [broken, works]) is works


def test_given_nothing_of_that_level_then_nothing_is_run_and_each_reason_is_told() -> None:
    broken = Fake("bubblewrap", SandboxLevel.CONTAINER, BROKEN)
    lower = Fake("process", SandboxLevel.PROCESS, WORKS)
    with pytest.raises(SandboxUnavailable, match="bubblewrap: no namespaces here; process is of level PROCESS"):
        chosen(policy(), [broken, lower])
    assert lower.runs == 0


def test_given_a_backend_by_name_then_no_other_is_used() -> None:
    broken = Fake("bubblewrap", SandboxLevel.CONTAINER, BROKEN)
    works = Fake("oci", SandboxLevel.CONTAINER, WORKS)
    with pytest.raises(SandboxUnavailable, match="no namespaces here"):
        chosen(policy(backend="bubblewrap"), [broken, works])
    assert works.runs == 0


def test_a_backend_by_name_does_not_lower_the_level() -> None:
    with pytest.raises(SandboxUnavailable, match="process is of level PROCESS"):
        chosen(policy(backend="process"), [Fake("process", SandboxLevel.PROCESS, WORKS)])


def test_a_backend_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no backend 'docker'; known are process"):
        chosen(policy(backend="docker"), [Fake("process", SandboxLevel.PROCESS, WORKS)])


@pytest.mark.parametrize("answer", [b"", b"it works", b"it\n"])
def test_a_program_that_does_not_say_what_it_was_told_proves_nothing(answer: bytes) -> None:
    assert verdict(Fake("odd", SandboxLevel.CONTAINER, answer)).works is False


def test_a_verdict_is_kept_with_its_reason_until_it_is_asked_anew() -> None:
    backend = Fake("bubblewrap", SandboxLevel.CONTAINER, BROKEN)
    found = verdict(backend)
    assert found == Verdict("bubblewrap", SandboxLevel.CONTAINER, False, "no namespaces here", "")
    backend.answer = WORKS
    assert verdict(backend) is found
    assert verdict(backend, anew=True).works
    assert backend.runs == 2


def test_what_did_not_work_is_tried_again_after_a_while() -> None:
    backend = Fake("bubblewrap", SandboxLevel.CONTAINER, BROKEN)
    assert not verdict(backend, now=lambda: 100.0).works
    backend.answer = WORKS
    assert not verdict(backend, now=lambda: 129.0).works
    assert verdict(backend, now=lambda: 131.0).works


@pytest.mark.parametrize(
    ("said", "number", "passes"),
    [
        ("OSError: unshare", 11, True),
        ("bwrap: Creating new namespace failed: Resource temporarily unavailable", None, True),
        ("bwrap: Creating new namespace failed: No space left on device", None, True),
        ("bwrap: No permissions to create new namespace", None, False),
        ("OSError: unshare", 1, False),
    ],
)
def test_what_passes_is_tried_again_and_what_does_not_waits_for_a_person(
    said: str, number: int | None, passes: bool
) -> None:
    error = refusal(said, number)
    assert classify(error, RetryPolicy()) is (Category.TRANSIENT if passes else Category.BUG)
