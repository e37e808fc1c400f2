"""Secrets in free text."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from stageflow_durable.delivery.dropped import said, said_of
from stageflow_durable.engine.outcome import MAX_ERROR, text_of
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.masking import MASK, masked, masked_value, masking
from stageflow_durable.settings import safe_url
from stageflow_durable.settings.claims import claims_by, for_redis_py


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "POST https://user:pa55word@api.example.com/v1?token=abc&page=2 failed",
            "POST https://***@api.example.com/v1?token=***&page=2 failed",
        ),
        ("https://ghp_abc@github.com/x", "https://***@github.com/x"),
        ("https://sk_live_abc:@api.stripe.com", "https://***@api.stripe.com"),
        ("redis://:pa/ss@h:6379/0", "redis://***@h:6379/0"),
        ("two: amqp://a:b@h//, postgresql+psycopg://c:d@h/x", "two: amqp://***@h//, postgresql+psycopg://***@h/x"),
        ("'https://a:b@h/x?api_key=1&sig=2;key=3'", "'https://***@h/x?api_key=***&sig=***;key=***'"),
        ("host=h user=u password=hunter2 dbname=x", "host=h user=u password=*** dbname=x"),
        ("password='two words' x", "password=*** x"),
        ("https://example.com:8080/users?mail=ada@example.com", "https://example.com:8080/users?mail=ada@example.com"),
        ("ada@example.com, 3 = 4 & no url", "ada@example.com, 3 = 4 & no url"),
        ("https://example.com/a?design=4&monkey=5", "https://example.com/a?design=4&monkey=5"),
        ("GET / Authorization: Bearer abc.def\nAccept: */*", "GET / Authorization: ***\nAccept: */*"),
        ("Set-Cookie: session=1; HttpOnly", "Set-Cookie: ***"),
        ("refused: bearer eyJhbGciOiJIUzI1NiJ9.e30.abc", "refused: bearer ***"),
        ("the bearer of this letter", "the bearer of this letter"),
        ("{'user': 'ann', 'password': 'it\\'s'}", "{'user': 'ann', 'password': '***'}"),
        ('{"api_key":"k\\"1","n":1,"pin":1234}', '{"api_key":"***","n":1,"pin":***}'),
        ("{'Authorization': 'Basic YTpi', 'n': 1}", "{'Authorization': '***', 'n': 1}"),
        ('{"has_token": true, "token": null}', '{"has_token": true, "token": null}'),
        ("{'password': b'hunter2', 'token': Decimal('1'), 'n': 1}", "{'password': ***, 'token': ***, 'n': 1}"),
        ("password='a\\'b' x", "password=*** x"),
        ('{"password": ["a", "b"], "api_keys": [\'c\']}', '{"password": ***, "api_keys": ***}'),
        ("SECRET_KEY=abc AccountKey=def db-pass=g", "SECRET_KEY=*** AccountKey=*** db-pass=***"),
        ('{\\"password\\": \\"hunter2\\", \\"n\\": 1}', '{\\"password\\": \\"***\\", \\"n\\": 1}'),
        ("{'authorization': {'id': 'a-1'}}", "{'authorization': {'id': 'a-1'}}"),
        ("Payment authorization: declined by the issuer, insufficient funds",) * 2,
        ("authorization: Basic YTpi", "authorization: ***"),
        ("tokens: 512, cookie policy, a token: ring", "tokens: 512, cookie policy, a token: ring"),
    ],
)
def test_who_logs_in_and_what_is_named_a_secret_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown


SECRETS = (
    "redis://user:pa55word@h:6379/0",
    "redis://:pa55word@h:6379/0",
    "redis://:pa55/word@h:6379/0",
    *(f"https://h/x?{name}=pa55word&page=2" for name in ("password", "client_secret", "access_token", "api_key")),
    *(f"https://h/x?page=2&{name}=pa55word" for name in ("sslpassword", "aws_credentials", "sig", "auth")),
)


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("told", [masked, safe_url, said], ids=["an error", "a setting", "what came from outside"])
def test_one_rule_says_what_is_masked(told: Callable[[str], str], url: str) -> None:
    shown = told(url)
    assert "***" in shown
    assert "pa55" not in shown
    assert "word=***" in shown or "word" not in shown


@pytest.mark.parametrize(
    "name",
    [
        *(
            "password",
            "db_password",
            "dbPassword",
            "passwd",
            "passphrase",
            "passcode",
            "pwd",
            "client_secret",
            "secret",
        ),
        *("access_token", "accessToken", "csrf-token", "api_key", "apiKey", "API-KEY", "private_key", "secret_key"),
        *("credential", "credentials", "signature", "proxy-authorization", "cookie", "Set-Cookie"),
        *("pin", "cvc", "CVV2", "db_pass", "otp", "jwt", "passwords", "secrets", "api_keys", "password1"),
        *("password_confirmation", "encryption_key", "signing_key", "account_key"),
    ],
)
def test_a_field_that_is_named_like_a_secret_is_masked_in_a_value(name: str) -> None:
    held = {"order": [{name: "hunter2", "n": 1}], "of": ({name: {"deep": "hunter2"}},)}
    assert masked_value(held) == {"order": [{name: MASK, "n": 1}], "of": ({name: MASK},)}


@pytest.mark.parametrize(
    "name",
    [
        *("max_tokens", "token_count", "password_changed_at", "key", "idempotency_key", "passenger", "compass"),
        *("payment_authorization", "authorized_by", "spin", "shipping", "secretary", "monkey", "", "x" * 300 + "token"),
    ],
)
def test_and_no_other(name: str) -> None:
    assert masked_value({name: "seen"}) == {name: "seen"}


def test_an_authorization_is_a_header_as_a_text_and_a_record_otherwise() -> None:
    assert masked_value({"Authorization": "Bearer x"}) == {"Authorization": "***"}
    given = {"authorization": {"id": "a-1", "amount": 42, "token": "x"}}
    assert masked_value(given) == {"authorization": {"id": "a-1", "amount": 42, "token": "***"}}


@pytest.mark.parametrize("value", [None, True, False, ""])
def test_whether_there_is_a_secret_is_none(value: object) -> None:
    assert masked_value({"password": value}) == {"password": value}


def test_texts_are_masked_at_any_depth_and_other_values_stay() -> None:
    url, now = "https://user:pa55word@h/", datetime(2026, 1, 1, tzinfo=UTC)
    held = {"a": [url, now, 1.5, b"raw"], "s": {url}, "t": (url,), "f": frozenset({url}), 7: Decimal(1)}
    shown = "https://***@h/"
    assert masked_value(held) == {
        "a": [shown, now, 1.5, b"raw"],
        "s": {shown},
        "t": (shown,),
        "f": frozenset({shown}),
        7: Decimal(1),
    }


LONG = 400_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "a" * LONG + "://=",
        "x://" + "a" * LONG,
        "://u:" * (LONG // 5) + "@" + "://u:" * (LONG // 5),
        "x://?" + "pass" * (LONG // 4),
        "pass" + " " * LONG + "://",
        "a='" * (LONG // 3) + "://",
        '"a":"' * (LONG // 5),
        "'token':'" + "\\'" * (LONG // 2),
        "cookie" * (LONG // 6) + ":",
        "cookie:" + " " * LONG,
        "bearer " * (LONG // 7),
        "a-" * (LONG // 2) + " =",
        base64.urlsafe_b64encode(bytes(range(256)) * 2000).decode() + "\n=",
        "a=" * (LONG // 2),
        "'a':" * (LONG // 4),
        '\\\\"' * (LONG // 3),
        "[" * LONG + ': = "token": [',
        '"token":' + "[" * LONG,
        '"token":a' + "(" * LONG,
        "authorization: " + "a=" * (LONG // 2),
        "authorization: basic " + " " * LONG,
        "?token=" * (LONG // 7),
    ],
    ids=[
        *("no scheme", "no account", "many accounts", "no option", "no value", "no end", "entries", "escapes"),
        *("headers", "a header of nothing", "bearers", "dashes", "base64", "words", "keys", "backslashes"),
        *("brackets", "an open list", "an open call", "pairs", "blanks", "options"),
    ],
)
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    began = time.perf_counter()
    masked(text)
    assert time.perf_counter() - began < 3


def test_a_password_is_masked_before_its_text_is_cut() -> None:
    url = f"redis://:{'pa55word' * 100}@h"
    for shown in (text_of("x" * (MAX_ERROR - 100) + " " + url), said(url), said_of(ValueError(url))):
        assert "pa55word" not in shown
        assert "redis://***@h" in shown


def test_a_body_that_names_a_url_in_its_error_stores_no_password() -> None:
    text = "https://user:pa55word@api.example.com/v1?token=abc"
    for error in (ConnectionError(text), text):
        assert "pa55word" not in text_of(error)
        assert "abc" not in text_of(error)
        assert "api.example.com/v1" in text_of(error)


def test_a_traceback_in_the_log_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    log = masking(masking(logging.getLogger("stageflow.test-masking")))
    assert len(log.filters) == 1
    try:
        raise ConnectionError("https://user:pa55word@api.example.com/")
    except ConnectionError:
        log.exception("it failed")
    assert "pa55word" not in caplog.text
    assert "https://***@api.example.com/" in caplog.text


class _NoSource:
    def get_source(self, _name: str) -> str:
        raise ValueError("nobody can read this module")


def test_a_traceback_whose_source_cannot_be_loaded_is_left_out_and_the_line_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of_nobody = {"__name__": "of_nobody", "__loader__": _NoSource()}
    exec(compile("def fail():\n    raise ConnectionError", "nowhere.py", "exec"), of_nobody)
    with pytest.raises(ConnectionError) as caught:
        of_nobody["fail"]()  # type: ignore[operator]  # what exec has put there
    assert loggable(caught.value) is not None
    masking(logging.getLogger("stageflow.test-masking")).error("it failed", exc_info=caught.value)
    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [("it failed", None)]


@pytest.mark.parametrize(
    ("broker", "address"),
    [
        ("redis://:p%20w@h:6379/3", "redis://:p%20w@h:6379/3"),
        ("rediss://h/0?ssl_cert_reqs=CERT_NONE", "rediss://h/0?ssl_cert_reqs=none"),
        ("rediss://h/0?ssl_cert_reqs=CERT_REQUIRED", "rediss://h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=optional", "rediss://h/0?ssl_cert_reqs=optional"),
        ("redis://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis+socket:///run/r.sock?virtual_host=3", "unix:///run/r.sock?db=3"),
        ("redis+socket://:pw@/run/r.sock", "unix://:pw@/run/r.sock?db=0"),
        ("redis://h/0?connect_timeout=3&socket_timeout=5", "redis://h/0?socket_timeout=5"),
    ],
)
def test_claims_are_kept_at_the_brokers_url_in_the_words_of_redis_py(broker: str, address: str) -> None:
    assert claims_by(broker) == broker
    assert for_redis_py(broker) == address


@pytest.mark.parametrize(
    "broker", ["sentinel://h:26379/0", "redis://a;redis://b", "amqp://h", "redis://h?credential_provider=x.Y", None]
)
def test_what_only_kombu_can_read_keeps_no_claims(broker: str | None) -> None:
    assert claims_by(broker) is None
