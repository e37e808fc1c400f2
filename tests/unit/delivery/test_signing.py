"""What a signature covers, who is refused without one, and that nobody is who was not before."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest

from stageflow_durable import Engine, Pipeline
from stageflow_durable.delivery.messages import Unfit, Words, read
from stageflow_durable.delivery.publish import CeleryPublisher
from stageflow_durable.delivery.signing import Signer, derived
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.work import Hint, Nudge
from stageflow_durable.settings import Settings, load_settings

KEY = "an audit key of some length"
HINT = Hint(7, "0a" * 32, "0b" * 12, "reserve")
NUDGE = Nudge("01JDKQ0000000000000000000A", "reserve", 3, "lane", 7, hint=HINT)


def words(mark: str, nudge: Nudge = NUDGE) -> Words:
    return read((nudge.run_id, nudge.strand, nudge.gen, mark), {})


def test_a_signed_message_is_read_as_the_unsigned_one_and_accepted() -> None:
    signed = words(Signer("require", KEY).mark(NUDGE, 0))
    plain = words(NUDGE.marked(0))
    assert signed._replace(signature="") == plain
    assert signed.hint == HINT
    assert Signer("require", KEY).refused(signed, "lane") is None


@pytest.mark.parametrize(
    "changed",
    [
        {"run_id": "01JDKQ0000000000000000000B"},
        {"strand": "reserve2"},
        {"gen": 4},
        {"mark": "8.0"},
        {"mark": "7.1"},
        {"hinted": HINT._replace(stage="charge").text()},
        {"hinted": ""},
    ],
)
def test_a_message_of_which_anything_was_changed_is_refused(changed: dict[str, object]) -> None:
    signer = Signer("require", KEY)
    forged = words(signer.mark(NUDGE, 0))._replace(**changed)  # type: ignore[arg-type]  # each its own type
    assert signer.refused(forged, "lane") is not None


def test_a_message_that_was_moved_to_another_queue_is_refused() -> None:
    signer = Signer("require", KEY)
    assert signer.refused(words(signer.mark(NUDGE, 0)), "other") is not None


def test_every_link_of_a_chain_has_a_signature_of_its_own() -> None:
    signer = Signer("require", KEY)
    links = [words(signer.mark(NUDGE, link)) for link in range(3)]
    assert len({link.signature for link in links}) == 3
    assert [signer.refused(link, "lane") for link in links] == [None] * 3


def test_while_the_key_is_changed_both_are_accepted_and_the_new_one_signs() -> None:
    old, new = Signer("require", KEY), Signer("require", "the key that comes after", [KEY, "one of before"])
    assert new.refused(words(old.mark(NUDGE, 0)), "lane") is None
    assert new.refused(words(new.mark(NUDGE, 0)), "lane") is None
    assert old.refused(words(new.mark(NUDGE, 0)), "lane") is not None
    assert new.refused(words(Signer("require", "a key of nobody's").mark(NUDGE, 0)), "lane") is not None


@pytest.mark.parametrize("mode", ["off", "sign"])
def test_until_they_are_required_unsigned_and_wrongly_signed_messages_are_accepted(mode: str) -> None:
    signer = Signer(mode, KEY)
    for mark in (NUDGE.marked(0), Signer("sign", "another key of some length").mark(NUDGE, 0)):
        assert signer.refused(words(mark), "lane") is None


@pytest.mark.parametrize("signature", ["", "~" + "0" * 32, "~" + "0" * 8])
def test_where_they_are_required_what_is_not_by_this_key_is_refused(signature: str) -> None:
    assert Signer("require", KEY).refused(words(f"7.0{signature}"), "lane") is not None


def test_a_release_that_knows_no_signatures_finds_the_hint_where_it_was() -> None:
    mark, _, hint = Signer("sign", KEY).mark(NUDGE, 0).partition(" ")  # as it reads them
    assert mark.startswith("7.0")
    assert Hint.read(hint) == HINT


def test_the_key_is_derived_as_rfc_5869_says() -> None:
    extracted = hmac.new(b"stageflow_durable", KEY.encode(), sha256).digest()
    assert derived(KEY) == hmac.new(extracted, b"message signing 1\x01", sha256).digest()
    assert derived(KEY) != KEY.encode()


@pytest.mark.parametrize("mode", ["sign", "require"])
def test_signing_without_an_audit_key_is_a_mistake_before_anything_is_recorded(
    mode: str, migrated_sqlite_url: str
) -> None:
    with pytest.raises(ConfigurationError, match="STAGEFLOW_AUDIT_KEY"):
        Settings(database_url=migrated_sqlite_url, broker_url="memory://", message_signing=mode)
    environment = {"STAGEFLOW_DATABASE_URL": migrated_sqlite_url, "STAGEFLOW_MESSAGE_SIGNING": mode}
    with pytest.raises(ConfigurationError, match=f"message_signing={mode} needs the audit key"):
        load_settings(environment=environment)
    with pytest.raises(ConfigurationError, match="STAGEFLOW_AUDIT_KEY"):
        Signer(mode, None)
    with pytest.raises(ConfigurationError, match="must be one of off, sign, require"):
        Settings(message_signing="yes")


def test_given_a_key_of_the_one_machine_mode_then_messages_can_be_signed(migrated_sqlite_url: str) -> None:
    engine = Engine(
        "e",
        [Pipeline("p").stage("s", lambda ctx: 1)],
        database_url=migrated_sqlite_url,
        broker_url="memory://",
        audit_key=KEY,
        message_signing="sign",
    )
    assert isinstance(engine.publisher, CeleryPublisher)
    link = engine.publisher.compile(NUDGE)[0]
    assert Signer("require", KEY).refused(read(link.args, {}), "lane") is None
    engine.close()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("01JDKQ0000000000000000000A", "reserve", 3),
        (["x"], "reserve", 3, "7.0"),
        ("01JDKQ 000", "reserve", 3, "7.0"),
        ("01JDKQ", "a\x00", 3, "7.0"),
        ("01JDKQ", "undo:undo:a", 3, "7.0"),
        ("01JDKQ", "a" * 101, 3, "7.0"),
        ("01JDKQ", "a", True, "7.0"),
        ("01JDKQ", "a", 2**31, "7.0"),
        ("01JDKQ", "a", -1, "7.0"),
        ("01JDKQ", "a", 1, 7.0),
        ("01JDKQ", "a", 1, "7"),
        ("01JDKQ", "a", 1, "7.0\n"),
        ("01JDKQ", "a", 1, "7.0 " + "x" * 401),
    ],
)
def test_arguments_that_no_publisher_of_ours_gives_are_not_understood(arguments: tuple[object, ...]) -> None:
    with pytest.raises(Unfit):
        read(arguments, {})
    with pytest.raises(Unfit):
        read(("01JDKQ", "a", 1, "7.0"), {"mark": "7.0"})


def test_a_message_names_the_item_behind_its_strand_and_one_without_means_none() -> None:
    of_item = read(("R", "undo:charge#17", 3, "0.0"), {})
    assert (of_item.strand, of_item.item) == ("undo:charge", 17)
    assert read(("R", "charge", 3, "0.0"), {}).item == 0
    for wrong in ("charge#0", "charge#", "charge#1x", "#1", "charge#1#2", "charge#1234567890"):
        with pytest.raises(Unfit):
            read(("R", wrong, 3, "0.0"), {})


def test_a_signature_for_one_item_is_none_for_another() -> None:
    signer = Signer("require", KEY)
    nudge = Nudge("R", "charge", 0, "lane", item=17)
    mark = signer.mark(nudge, 0)
    assert signer.refused(read(("R", nudge.address, 0, mark), {}), "lane") is None
    assert signer.refused(read(("R", "charge#18", 0, mark), {}), "lane") is not None
    assert signer.refused(read(("R", "charge", 0, mark), {}), "lane") is not None
