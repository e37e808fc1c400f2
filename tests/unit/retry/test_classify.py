"""The category of an error decides whether it is retried, ends the stage, or parks the run."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import socket
import sqlite3
import ssl
import urllib.error
from email.message import Message
from http import HTTPStatus
from typing import Any

import httpx
import kombu.exceptions
import psycopg.errors
import pytest
import redis.exceptions
import sqlalchemy.exc
from pydantic import BaseModel, ValidationError

from stageflow_durable import errors
from stageflow_durable.codec import UnreadableValue
from stageflow_durable.retry import Category, RetryPolicy, categories, classify
from stageflow_durable.retry.table import BY_NAME, BY_TYPE

DEFAULT = RetryPolicy()
TRANSIENT, PERMANENT, POLICY, BUG, UNKNOWN = Category


class Answer(Exception):
    """An error as client libraries raise it, with the attributes given."""

    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


class Response:
    def __init__(self, **fields: object) -> None:
        self.__dict__.update(fields)


class Moody(Exception):
    @property
    def status_code(self) -> int:
        raise RuntimeError("not now")


class Declined(Exception):
    pass


class DeclinedForever(Declined):
    pass


class Whole(BaseModel):
    number: int


def invalid() -> ValidationError:
    try:
        Whole(number="x")  # type: ignore[arg-type]  # the point
    except ValidationError as error:
        return error
    raise AssertionError


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://127.0.0.1")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def database(kind: type[sqlalchemy.exc.DBAPIError]) -> sqlalchemy.exc.DBAPIError:
    return kind("select", {}, Exception("gone"))


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (TimeoutError(), TRANSIENT),
        (asyncio.TimeoutError(), TRANSIENT),  # noqa: UP041 - the name that applications still use
        (ConnectionResetError(), TRANSIENT),
        (BrokenPipeError(), TRANSIENT),
        (OSError(errno.ENETUNREACH, "no route"), TRANSIENT),
        (OSError(errno.EMFILE, "too many files"), TRANSIENT),
        (OSError(errno.ENOEXEC, "what is this"), UNKNOWN),
        (OSError("no number"), UNKNOWN),
        (FileNotFoundError(), PERMANENT),
        (PermissionError(), PERMANENT),
        (BlockingIOError(), TRANSIENT),
        (socket.gaierror(-3, "try again"), TRANSIENT),
        (ssl.SSLError(), TRANSIENT),
        (ssl.SSLCertVerificationError(), PERMANENT),
        (http.client.RemoteDisconnected(""), TRANSIENT),
        (http.client.IncompleteRead(b""), TRANSIENT),
        (asyncio.IncompleteReadError(b"", 1), TRANSIENT),
        (ValueError(), PERMANENT),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), PERMANENT),
        (json.JSONDecodeError("", "", 0), PERMANENT),
        (invalid(), PERMANENT),
        (ZeroDivisionError(), PERMANENT),
        (TypeError(), BUG),
        (AttributeError(), BUG),
        (NameError(), BUG),
        (UnboundLocalError(), BUG),
        (ImportError(), BUG),
        (ModuleNotFoundError(), BUG),
        (KeyError("amuont"), BUG),
        (IndexError(), BUG),
        (AssertionError(), BUG),
        (NotImplementedError(), BUG),
        (RecursionError(), BUG),
        (RuntimeError(), UNKNOWN),
        (Exception(), UNKNOWN),
        (MemoryError(), UNKNOWN),
        (KeyboardInterrupt(), BUG),
        (errors.TransientError(), TRANSIENT),
        (errors.StoreUnavailable(), TRANSIENT),
        (errors.FenceLost(), TRANSIENT),
        (errors.PermanentError(), PERMANENT),
        (errors.StageCancelled(), PERMANENT),
        (errors.InvalidKey(), PERMANENT),
        (errors.ConfigurationError(), BUG),
        (errors.UnsavableValue("a", "object"), BUG),
        (UnreadableValue("x"), BUG),
        (errors.RunParked("1", "parked"), UNKNOWN),
        (httpx.ReadTimeout(""), TRANSIENT),
        (httpx.ConnectError(""), TRANSIENT),
        (httpx.RemoteProtocolError(""), TRANSIENT),
        (httpx.UnsupportedProtocol(""), PERMANENT),
        (httpx.InvalidURL(""), PERMANENT),
        (redis.exceptions.ConnectionError(), TRANSIENT),
        (redis.exceptions.BusyLoadingError(), TRANSIENT),
        (redis.exceptions.ReadOnlyError(), TRANSIENT),
        (redis.exceptions.ResponseError(), UNKNOWN),
        (kombu.exceptions.OperationalError(), TRANSIENT),
        (database(sqlalchemy.exc.OperationalError), TRANSIENT),
        (sqlalchemy.exc.TimeoutError(), TRANSIENT),
        (database(sqlalchemy.exc.IntegrityError), PERMANENT),
        (database(sqlalchemy.exc.ProgrammingError), BUG),
        (psycopg.errors.SerializationFailure(), TRANSIENT),
        (psycopg.errors.UndefinedTable(), BUG),
        (psycopg.errors.UniqueViolation(), PERMANENT),
        (sqlite3.OperationalError("database is locked"), TRANSIENT),
        (urllib.error.URLError(ConnectionRefusedError()), TRANSIENT),
        (urllib.error.URLError(ssl.SSLCertVerificationError()), PERMANENT),
        (urllib.error.URLError("no host given"), TRANSIENT),
        ("the message of StageOutput.fail", PERMANENT),
        (Answer(code="content_filter"), POLICY),
        (Answer(code="content_filter", status_code=400), POLICY),
        (Answer(code="rate_limit"), UNKNOWN),
        (ExceptionGroup("", [TimeoutError(), TypeError()]), BUG),
        (ExceptionGroup("", [TimeoutError(), ExceptionGroup("", [ValueError(), answered(403)])]), POLICY),
        (ExceptionGroup("", [TimeoutError(), RuntimeError()]), UNKNOWN),
        (ExceptionGroup("", [TimeoutError(), ConnectionError()]), TRANSIENT),
    ],
    ids=lambda case: case if isinstance(case, str) else type(case).__name__,
)
def test_given_an_error_then_its_category_is(error: BaseException | str, category: Category) -> None:
    assert classify(error, DEFAULT) is category


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (400, PERMANENT), (401, PERMANENT), (402, PERMANENT), (403, POLICY), (404, PERMANENT), (408, TRANSIENT),
        (409, PERMANENT), (422, PERMANENT), (425, TRANSIENT), (429, TRANSIENT), (451, PERMANENT), (500, TRANSIENT),
        (501, TRANSIENT), (502, TRANSIENT), (503, TRANSIENT), (504, TRANSIENT), (599, TRANSIENT),
    ],
)  # fmt: skip
def test_given_an_http_status_wherever_libraries_put_it_then_the_category_is(status: int, category: Category) -> None:
    places: list[BaseException] = [
        answered(status),
        urllib.error.HTTPError("http://127.0.0.1", status, "no", Message(), None),
        Answer(status_code=status),
        Answer(response=Response(status_code=status)),
        Answer(response=Response(status=status)),
        Answer(status=status),
        Answer(code=status),
    ]
    assert {classify(error, DEFAULT) for error in places} == {category}


def test_given_the_standard_librarys_status_then_it_counts() -> None:
    assert classify(Answer(status=HTTPStatus.TOO_MANY_REQUESTS), DEFAULT) is TRANSIENT


@pytest.mark.parametrize(
    "fields", [{"code": 1}, {"status": 200}, {"status": "503"}, {"status_code": True}, {"code": 2013}]
)
def test_given_a_number_that_is_no_http_error_then_it_says_nothing(fields: dict[str, Any]) -> None:
    assert classify(Answer(**fields), DEFAULT) is UNKNOWN


def test_given_an_attribute_that_raises_then_it_says_nothing() -> None:
    assert classify(Moody(), DEFAULT) is UNKNOWN


def test_given_a_failure_by_message_and_retry_on_fail_then_it_is_transient() -> None:
    assert classify("no", RetryPolicy(retry_on_fail=True)) is TRANSIENT


@pytest.mark.parametrize(
    ("policy", "error", "category"),
    [
        (RetryPolicy(retry_on=ValueError), ValueError(), TRANSIENT),
        (RetryPolicy(retry_on=TypeError), TypeError(), TRANSIENT),
        (RetryPolicy(give_up_on=ConnectionError), ConnectionResetError(), PERMANENT),
        (RetryPolicy(retry_on=OSError, give_up_on=FileNotFoundError), FileNotFoundError(), PERMANENT),
        (RetryPolicy(retry_on=FileNotFoundError, give_up_on=OSError), FileNotFoundError(), TRANSIENT),
        (RetryPolicy(retry_on=httpx.HTTPStatusError), answered(404), TRANSIENT),
        (RetryPolicy(retry_on=KeyError), ValueError(), PERMANENT),
        (RetryPolicy(retry_on=ExceptionGroup), ExceptionGroup("", [ValueError()]), TRANSIENT),
    ],
)
def test_given_lists_on_the_policy_then_the_nearest_ancestor_counts(
    policy: RetryPolicy, error: Exception, category: Category
) -> None:
    assert classify(error, policy) is category


def test_given_an_extended_table_then_it_counts_before_everything() -> None:
    extension = categories(
        {Declined: "permanent", f"{__name__}.DeclinedForever": "policy", "builtins.TimeoutError": Category.BUG}
    )
    policy = RetryPolicy(category_of=extension, retry_on=Declined)

    assert classify(Declined(), policy) is PERMANENT
    assert classify(DeclinedForever(), policy) is POLICY
    assert classify(TimeoutError(), policy) is BUG
    assert classify(ConnectionError(), policy) is TRANSIENT


def test_given_an_extension_with_what_is_no_category_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        categories({Declined: "sometimes"})


def raises(_: BaseException) -> str:
    raise LookupError("table lost")


@pytest.mark.parametrize(
    ("category_of", "note"),
    [
        (raises, "category_of failed on this error: LookupError: table lost"),
        (lambda _: "sometimes", "category_of failed on this error: ValueError: 'sometimes' is not a valid Category"),
    ],
)
def test_given_a_category_of_that_fails_then_the_run_parks_and_the_error_says_why(category_of: Any, note: str) -> None:
    error = TimeoutError()

    assert classify(error, RetryPolicy(category_of=category_of)) is BUG
    assert error.__notes__ == [note]


def test_given_the_tables_then_every_entry_is_a_category() -> None:
    assert {type(category) for category in (*BY_TYPE.values(), *BY_NAME.values())} == {Category}
