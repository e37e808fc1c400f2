"""What is refused when a run is asked for: by name, with the way out, and before anything is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from stageflow_durable import Pipeline
from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import InvalidInput, InvalidKey
from stageflow_durable.testing import InProcessEngine, engine_for_tests


@pytest.fixture
def engine() -> Iterator[InProcessEngine]:
    with engine_for_tests([Pipeline[Any, Any]("checkout").stage("charge", lambda ctx: None)]) as made:
        yield made


@pytest.mark.parametrize("blank", ["", " ", "\u2003 "])
@pytest.mark.parametrize("name", ["idempotency_key", "client_id"])
def test_a_blank_name_is_refused_and_nothing_is_recorded(engine: InProcessEngine, name: str, blank: str) -> None:
    given: dict[str, Any] = {name: blank}
    with pytest.raises(
        InvalidKey, match=rf"^{name.replace('_key', ' key')} is (blank|empty); give 1 to 255 characters"
    ):
        engine.enqueue("checkout", {}, **given)
    [refused] = engine.enqueue_many("checkout", [Submission({}, **given)], on_error="collect")
    assert isinstance(refused, InvalidKey)
    assert engine.runs() == []


@pytest.mark.parametrize("given", [timedelta(minutes=5), 300, 300.0])
def test_a_deadline_from_now_is_a_timedelta_or_seconds(engine: InProcessEngine, given: timedelta | float) -> None:
    deadline = engine.enqueue("checkout", {}, deadline=given).describe().deadline
    assert deadline is not None
    assert deadline.timestamp() == pytest.approx(engine.clock.time() + 300, abs=0.1)


def test_a_deadline_may_be_an_aware_moment(engine: InProcessEngine) -> None:
    moment = datetime(2031, 1, 31, tzinfo=UTC)
    assert engine.enqueue("checkout", {}, deadline=moment).describe().deadline == moment


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (datetime(2031, 1, 31), "a naive datetime; use an aware one"),
        ("5m", "'5m' given; seconds or a timedelta from now, or an aware datetime"),
        (True, "True given; seconds or a timedelta"),
        (0, "more than 0 and at most ten years"),
        (-1.0, "more than 0 and at most ten years"),
        (float("nan"), "more than 0 and at most ten years"),
        (timedelta(days=36_500), "more than 0 and at most ten years"),
        (datetime.max.replace(tzinfo=UTC), "at most ten years from now, or none at all"),
        (datetime(2040, 1, 1, tzinfo=timezone(timedelta(hours=-11))), "at most ten years from now"),
    ],
)
def test_another_deadline_is_refused_by_name(engine: InProcessEngine, given: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"enqueue: deadline: .*{says}"):
        engine.enqueue("checkout", {}, deadline=given)
    assert engine.runs() == []


def test_given_a_queue_that_no_database_takes_then_it_is_refused_by_name(engine: InProcessEngine) -> None:
    with pytest.raises(InvalidInput, match=r"queue: 'slow\\x00' is not a queue's name"):
        engine.enqueue("checkout", {}, queue="slow\0")
    assert engine.runs() == []
