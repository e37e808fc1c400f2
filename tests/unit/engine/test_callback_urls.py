"""Callback URLs: one a stage and run, which nobody else can make."""

from __future__ import annotations

import re

import pytest

from stageflow_durable.delivery.signing import derived as signing_key
from stageflow_durable.engine.approval_links import LinkUrls
from stageflow_durable.engine.callbacks import CallbackUrls
from stageflow_durable.errors import CallbackRefused, ConfigurationError, LinkRefused
from stageflow_durable.settings import Settings
from stageflow_durable.settings.derived import derived

RUN = "01KDVDNA00CHSPEN7TV7RR9JP3"
URL = "https://shop.example.com/stageflow"


def token(urls: CallbackUrls, stage: str = "render", run: str = RUN) -> str:
    return urls.url(run, stage).removeprefix(f"{URL}/callbacks/")


@pytest.fixture
def urls() -> CallbackUrls:
    return CallbackUrls(URL, "the key")


@pytest.mark.parametrize("stage", ["render", "a stage", "Größe", "図", "a/b?c#d", "." * 255, "\U0001f600" * 255])
def test_a_url_says_its_run_and_its_stage_whatever_that_is_called(urls: CallbackUrls, stage: str) -> None:
    assert urls.read(token(urls, stage)) == (RUN, stage)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", token(urls, stage))


def test_each_process_makes_the_same_one_and_each_stage_and_run_another(urls: CallbackUrls) -> None:
    assert urls.url(RUN, "render") == CallbackUrls(URL, "the key").url(RUN, "render")
    other = RUN[:-1] + "4"
    found = {token(urls).rpartition(".")[2], token(urls, "other").rpartition(".")[2]}
    assert len(found | {token(urls, run=other).rpartition(".")[2]}) == 3


def test_one_of_another_key_is_forged_and_one_of_an_older_key_is_not(urls: CallbackUrls) -> None:
    made = token(CallbackUrls(URL, "older"))
    with pytest.raises(CallbackRefused, match="was not made here") as caught:
        urls.read(made)
    assert caught.value.reason == "forged"
    newer = CallbackUrls(URL, "the key", ["oldest", "older"])
    assert newer.read(made) == (RUN, "render")
    assert token(newer) == token(urls)


def test_without_keys_nothing_is_one_of_ours() -> None:
    with pytest.raises(CallbackRefused):
        CallbackUrls(None, None).read(token(CallbackUrls(URL, "k")))


def test_what_is_missing_is_said_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match="STAGEFLOW_PUBLIC_URL"):
        CallbackUrls(None, "the key").url(RUN, "render")
    for without in (CallbackUrls(URL, None), CallbackUrls(URL, None, ["older"])):
        with pytest.raises(ConfigurationError, match="STAGEFLOW_AUDIT_KEY"):
            without.url(RUN, "render")


def test_its_key_is_neither_the_audit_key_nor_that_of_messages() -> None:
    keys = {b"the key", derived("the key", b"callbacks 1"), signing_key("the key")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "given", ["https://shop.example.com/stageflow/", "http://localhost:8000", "https://[::1]/x", "https://a.b/c//"]
)
def test_an_address_is_taken_without_its_last_slash(given: str) -> None:
    assert Settings(public_url=given).public_url == given.rstrip("/")


def test_an_address_without_the_key_that_its_urls_are_signed_with_is_refused_where_it_is_set() -> None:
    with pytest.raises(ConfigurationError, match="public_url needs the audit key.*STAGEFLOW_AUDIT_KEY"):
        Settings(public_url=URL, database_url="sqlite:///x.db")
    assert Settings(public_url=URL, database_url="sqlite:///x.db", audit_key="k" * 32).public_url == URL


@pytest.mark.parametrize(
    "given",
    [
        *("", "shop.example.com", "ftp://shop.example.com", "https://", "https:///x", "https://u:p@shop.example.com"),
        *(
            "https://shop.example.com/?a=b",
            "https://shop.example.com/#a",
            "https://shop.example.com/ x",
            "javascript:x",
        ),
        *("https://shop.example.com/a\nb", "https://shop.example.com:port", 7),
    ],
)
def test_an_address_that_is_none_is_refused(given: object) -> None:
    with pytest.raises(ConfigurationError, match="public_url"):
        Settings(public_url=given)  # type: ignore[arg-type]  # the point


# --- links to approvals -----------------------------------------------------------------------------------------------


def link(urls: LinkUrls) -> str:
    return urls.make(RUN)[0].rpartition("/")[2]


def test_each_link_is_another_and_its_hash_is_what_is_read_of_it() -> None:
    urls = LinkUrls(URL, "the key")
    (first, hashed), (second, _other) = urls.make(RUN), urls.make(RUN)
    assert first != second
    assert first.startswith(f"{URL}/approvals/{RUN}.")
    assert urls.read(first.rpartition("/")[2]) == (RUN, hashed)


def test_a_link_of_an_older_key_is_taken_and_one_of_another_is_not() -> None:
    made = link(LinkUrls(URL, "older"))
    assert LinkUrls(URL, "the key", ["oldest", "older"]).read(made)[0] == RUN
    for other in (LinkUrls(URL, "the key"), LinkUrls(None, None)):
        with pytest.raises(LinkRefused) as caught:
            other.read(made)
        assert caught.value.reason == "forged"


def test_what_a_link_needs_is_said_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match=r"approval_link\(\) needs the address .* STAGEFLOW_PUBLIC_URL"):
        LinkUrls(None, "the key").make(RUN)
    with pytest.raises(ConfigurationError, match=r"approval_link\(\) needs the audit key, .* STAGEFLOW_AUDIT_KEY"):
        LinkUrls(URL, None).make(RUN)
