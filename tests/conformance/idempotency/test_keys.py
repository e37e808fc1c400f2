"""Scopes, keys and names (``idempotency/keys.py``)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stageflow_durable.idempotency as room
from stageflow_durable.errors import InvalidKey
from stageflow_durable.idempotency.keys import Scope, address, redis_key, seconds_of, stage_key, valid_key

texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
tricky = st.text(":0123456789ab", min_size=1, max_size=12)


@given(one=st.tuples(tricky, tricky, tricky), other=st.tuples(tricky, tricky, tricky))
def test_names_in_redis_are_equal_only_when_client_operation_and_key_are(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    names = [redis_key(Scope(client, operation), key) for client, operation, key in (one, other)]
    assert (names[0] == names[1]) == (one == other)


@given(texts, texts, texts)
def test_any_text_without_control_characters_is_a_scope_and_a_key(client: str, operation: str, key: str) -> None:
    assert address(Scope(client, operation), key) == (client, operation, key)


@pytest.mark.parametrize(
    ("client", "operation", "named"),
    [("", "charge", "client_id"), ("web", "a\nb", "operation"), ("c" * 256, "charge", "client_id has 256")],
)
def test_given_a_malformed_scope_then_the_part_is_named(client: str, operation: str, named: str) -> None:
    with pytest.raises(InvalidKey, match=named):
        Scope(client, operation)


@pytest.mark.parametrize("wrong", [None, 42, b"key", ["key"]])
def test_given_a_key_that_is_no_text_then_its_type_is_named(wrong: Any) -> None:
    with pytest.raises(InvalidKey, match=f"must be text, not {type(wrong).__name__}"):
        valid_key(wrong)


def test_a_duration_is_seconds_or_a_timedelta() -> None:
    assert seconds_of(timedelta(milliseconds=1500), "x") == seconds_of(1.5, "x") == 1.5


def test_a_stage_key_names_the_run_and_the_stage_and_is_always_the_same() -> None:
    assert stage_key("01J9F2", "charge") == "sf_01J9F2_charge"


@given(st.text(max_size=300))
def test_a_stage_key_is_a_valid_key_of_plain_ascii_whatever_the_stage_is_called(stage: str) -> None:
    key = stage_key("01J9F2", stage)
    assert valid_key(key).isascii()
    assert " " not in key


@given(
    st.lists(st.tuples(st.text("ab-", min_size=1, max_size=3), st.text("ab_~-é", max_size=3)), min_size=2, max_size=2)
)
def test_stage_keys_are_equal_only_when_run_and_stage_are(pairs: list[tuple[str, str]]) -> None:
    keys = [stage_key(run, stage) for run, stage in pairs]
    assert (keys[0] == keys[1]) == (pairs[0] == pairs[1])


@pytest.mark.parametrize("run_id", ["", "a_b", "r" * 41, "a b"])
def test_given_a_run_id_that_could_make_two_keys_collide_then_it_is_refused(run_id: str) -> None:
    with pytest.raises(InvalidKey, match="run id"):
        stage_key(run_id, "charge")


def test_every_public_name_of_the_room_is_there_and_no_other() -> None:
    assert [getattr(room, name).__name__ for name in room.__all__] == room.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = room.Nothing
