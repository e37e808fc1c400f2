"""``Retry-After`` in every form that remotes send; what cannot be used is ignored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.message import Message

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.errors import TransientError
from stageflow_durable.retry import parse_retry_after, retry_after_of

NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        (3, 3.0),
        (0.25, 0.25),
        (timedelta(minutes=2), 120.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 30.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 30.0),
        ("Sun Nov  6 08:49:37 1994", 30.0),
        (datetime(1994, 11, 6, 9, 49, 37, tzinfo=timezone(timedelta(hours=1))), 30.0),
        (str(366 * 86400), 366 * 86400.0),
    ],
)
def test_given_a_usable_value_then_it_is_seconds_from_now(value: object, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None, "", "soon", "-1", -1, "1e3", "+5", "١٢", "12 s", "nan", float("nan"), float("inf"), True, b"12", [12],
        "9" * 400, 10**400, 366 * 86400 + 1, timedelta(seconds=-1), timedelta.max, "Sun, 06 Nov 1994 08:49:06 GMT",
        "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 9999 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 +9999999999",
        datetime(1994, 11, 6, 8, 49, 37), datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_given_a_malformed_negative_or_absurd_value_then_it_is_ignored(value: object) -> None:
    assert parse_retry_after(value, NOW) is None


@given(
    st.text() | st.text("0123456789.-+:, SunNovGMT") | st.floats() | st.integers() | st.datetimes() | st.timedeltas()
)
def test_given_anything_then_the_answer_is_none_or_a_bounded_delay(value: object) -> None:
    seconds = parse_retry_after(value, NOW)

    assert seconds is None or 0 <= seconds <= 366 * 86400


class Answer(Exception):
    """An error as client libraries raise it, with what is given."""

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


def answered(headers: object) -> object:
    return type("Response", (), {"headers": headers})()


class Brittle:
    def get(self, name: str) -> object:
        raise RuntimeError(name)


def message() -> Message:
    headers = Message()
    headers["retry-after"] = "7"
    return headers


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (TransientError(retry_after=4), 4.0),
        (TransientError(), None),
        (Answer(response=httpx.Response(429, headers={"Retry-After": "5"})), 5.0),
        (Answer(response=answered({"retry-after": "6"})), 6.0),
        (Answer(headers=message()), 7.0),
        (Answer(headers={"Retry-After": "soon"}, retry_after=8), None),
        (Answer(headers={}, retry_after=8), 8.0),
        (Answer(headers=Brittle(), retry_after=9), 9.0),
        (Answer(response=answered("text"), headers=["Retry-After"]), None),
        (ValueError("plain"), None),
    ],
)
def test_given_an_error_then_what_the_remote_asked_for_is_found_by_shape(
    error: Exception, seconds: float | None
) -> None:
    assert retry_after_of(error, NOW) == seconds
