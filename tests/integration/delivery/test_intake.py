"""Between the broker and Celery's parent: what is read, handed out, expanded and taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kombu import compression
from redis.exceptions import ConnectionError as Lost

from stageflow_durable.delivery import shapes
from stageflow_durable.delivery.dropped import LINES, Dropped, said, said_of
from stageflow_durable.delivery.intake import Intake, _Brotli, bound_what_expands

untyped: Any = compression


def intake() -> Any:
    made: Any = object.__new__(Intake)
    made.queue, made._popped, made._delivering = None, False, False
    return made


def message(**headers: Any) -> Any:
    given = {"task": "theirs", "id": "an id", **headers}
    return SimpleNamespace(
        headers=given, body=b"[[], {}, {}]", payload=[[], {}, {}], acknowledged=False, reject_log_error=Mock()
    )


def consumer(slots: int = 1) -> Any:
    semaphore = SimpleNamespace(value=slots, release=Mock())
    controller = SimpleNamespace(semaphore=semaphore)
    return SimpleNamespace(connection_errors=(Lost, KeyError), channel_errors=(), controller=controller)


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RecursionError("x"), TypeError("x"), OverflowError("x")]
)
def test_given_a_message_that_ends_what_takes_it_then_it_is_refused_for_good_and_its_place_is_free(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    parent, given = consumer(), message()

    def take(_message: Any) -> None:
        parent.controller.semaphore.value -= 1
        raise error

    intake().taking(parent, take)(given)
    given.reject_log_error.assert_called_once()
    parent.controller.semaphore.release.assert_called_once_with()
    assert "dropped a message (theirs an id)" in caplog.text


def test_given_a_connection_that_is_lost_while_a_message_is_taken_then_it_is_no_message_s_fault() -> None:
    given = message()
    with pytest.raises(Lost):
        intake().taking(consumer(), Mock(side_effect=Lost("closed")))(given)
    given.reject_log_error.assert_not_called()


@pytest.mark.parametrize(
    "headers",
    [{"timelimit": [5, "a"]}, {"timelimit": [None, float("nan")]}, {"id": ["x"]}, {"stamps": []}, {"shadow": 5}],
)
def test_given_a_message_of_any_task_whose_headers_would_end_celery_then_it_is_never_taken(headers: Any) -> None:
    take, given = Mock(), message(**headers)
    intake().taking(consumer(), take)(given)
    take.assert_not_called()
    given.reject_log_error.assert_called_once()


@pytest.mark.parametrize(
    "headers",
    [
        {"timelimit": [None, None]},
        {"timelimit": [30, 20.5]},
        {"eta": "soon", "expires": 5},
        {"retries": None, "group": "g", "argsrepr": "x" * 5000, "more": {"a": {"b": ["c"]}}},
        {"stamped_headers": ["a"], "stamps": {"a": ["b"]}},
    ],
)
def test_given_a_message_of_another_task_that_celery_can_judge_then_celery_judges_it(headers: Any) -> None:
    take, given = Mock(), message(**headers)
    intake().taking(consumer(), take)(given)
    take.assert_called_once_with(given)


def test_given_an_error_after_a_message_was_handed_out_then_it_is_not_taken_for_one_of_reading() -> None:
    made = intake()

    def usual(_fileno: int) -> None:
        made._popped = made._delivering = True
        raise ValueError("of the worker's own")

    with pytest.raises(ValueError, match="of the worker's own"):
        made.read(usual, 5, (Lost,))


def test_given_an_error_before_anything_was_popped_then_it_is_the_connection_s() -> None:
    with pytest.raises(AttributeError):
        intake().read(Mock(side_effect=AttributeError("no socket")), 5, (Lost,))


def test_given_a_text_that_cannot_be_parsed_then_nothing_has_come(caplog: pytest.LogCaptureFixture) -> None:
    made = intake()

    def usual(_fileno: int) -> None:
        made._popped = True
        raise RecursionError("too deep")

    with pytest.raises(Empty):
        made.read(usual, 5, (Lost,))
    assert "it cannot be read: RecursionError: too deep" in caplog.text


def packer(name: str) -> Callable[[bytes], bytes]:
    """As kombu has it, where that is quick."""
    pack = untyped.get_encoder(name)[0]
    return partial(pack, quality=5) if "brotli" in name else pack


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma", "brotli", "zstd"])
def test_what_expands_is_bounded_and_what_is_not_too_large_is_as_it_was(name: str) -> None:
    bound_what_expands()
    pack, expand = packer(name), untyped.get_decoder(name)
    assert expand(pack(b"a body" * 1000)) == b"a body" * 1000
    with pytest.raises(Exception, match="expands to more than"):
        expand(pack(b" " * (shapes.EXPANDED_BYTES + 1)))
    with pytest.raises(Exception, match="not whole"):
        expand(pack(b"a body" * 1000)[:-5])


def test_every_compression_that_kombu_knows_is_bounded() -> None:
    bound_what_expands()
    bodies = {kind: packer(kind)(b" " * (shapes.EXPANDED_BYTES + 1)) for kind in untyped.encoders()}
    assert len(bodies) == 5
    for kind, body in bodies.items():
        with pytest.raises(Exception, match="expands to more than"):
            untyped.get_decoder(kind)(body)


def test_a_brotli_body_is_left_soon_after_its_bound() -> None:
    body = packer("brotli")(b" " * 300_000_000)
    assert len(body) < 1000
    block = 16 * 1024 * 1024
    assert len(_Brotli().decompress(body, 1000)) <= 2 * block
    assert len(_Brotli().decompress(body, 5 * block)) <= 7 * block


@pytest.mark.parametrize("levels", [100, 100_000])
def test_depth_is_measured_without_going_down(levels: int) -> None:
    value: Any = []
    for _ in range(levels):
        value = [value]
    assert shapes.is_deeper(value, shapes.DEPTH) is (levels > shapes.DEPTH)


def test_what_is_said_is_short_on_one_line_and_without_passwords() -> None:
    assert said("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert said("redis://user:s3cret@host/0 and\tmore") == "redis://***@host/0 and\\tmore"
    assert len(said("x" * 10_000)) < 400
    assert said_of(ValueError("x\ny")) == "ValueError: x\\ny"


def test_given_a_flood_when_messages_are_dropped_then_lines_are_few_and_none_is_uncounted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    dropped = Dropped(lambda: now[0])
    for _ in range(1000):
        dropped.add("a message", "no reason")
    assert len(caplog.records) == LINES
    now[0] = 60.0
    dropped.add("a message", "no reason")
    assert f"1001 dropped so far; {1000 - LINES} more were not told" in caplog.records[-1].getMessage()
