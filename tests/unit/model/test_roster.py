"""Why no live worker carries a run, from what the live workers say of themselves."""

from __future__ import annotations

import pytest

from stageflow_durable.model.roster import Known, Need, Profile, Roster

CHECKOUT = {"checkout": Known("1", "c1")}
SHOP = Profile("shop", "redis://a:6379/0", ("stageflow-shop", "stageflow"), CHECKOUT)
MAIL = Profile("mail", "redis://b:6379/0", ("stageflow-mail",), {"mail": Known("2", "m2")})


def need(pipeline: str = "checkout", version: str = "1", digest: str = "c1", queue: str = "stageflow-shop") -> Need:
    return Need(pipeline, version, frozenset({digest}), queue)


def test_a_profile_comes_back_as_it_was_and_equal_ones_share_an_id() -> None:
    again = Profile.decode(SHOP.encoded)
    assert (again.engine, again.broker, dict(again.pipelines)) == (SHOP.engine, SHOP.broker, CHECKOUT)
    assert again.id == SHOP.id == Profile("shop", SHOP.broker, SHOP.queues[::-1], CHECKOUT).id
    assert SHOP.id != MAIL.id


def test_a_run_whose_definition_and_queue_a_worker_has_lacks_nothing() -> None:
    assert Roster((SHOP, MAIL)).missing(need()) is None


def test_a_worker_of_an_older_release_may_know_anything() -> None:
    assert Roster((MAIL,), silent=True).missing(need()) is None
    assert Roster((), silent=True).missing(need()) is None
    assert Roster((MAIL,), silent=True).unserved("gpu") is None


@pytest.mark.parametrize(
    ("workers", "wanted", "kind", "message", "command"),
    [
        ((), need(), "worker", "no worker is alive", "stageflow worker"),
        (
            (SHOP,),
            need("slow", "3", "s3"),
            "pipeline",
            "no live worker knows slow v3; live workers know: checkout v1",
            "stageflow --app MODULE:ENGINE worker",
        ),
        (
            (SHOP,),
            need(version="2", digest="c2"),
            "definition",
            "no live worker knows checkout v2; live workers know checkout v1",
            "stageflow --app MODULE:ENGINE worker",
        ),
        (
            (SHOP,),
            need(digest="edited"),
            "definition",
            "no live worker knows checkout v1 as this run was enqueued with it; live workers know checkout v1",
            "stageflow --app MODULE:ENGINE worker",
        ),
        (
            (SHOP,),
            need(queue="gpu"),
            "queue",
            "no live worker serves queue gpu; live workers serve: stageflow, stageflow-shop",
            "stageflow worker -Q gpu",
        ),
        (
            (SHOP, MAIL),
            need(queue="stageflow-mail"),
            "queue",
            (
                "no live worker that knows checkout serves queue stageflow-mail; the workers that know checkout serve: "
                "stageflow, stageflow-shop"
            ),
            "stageflow worker -Q stageflow-mail",
        ),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_helps(
    workers: tuple[Profile, ...], wanted: Need, kind: str, message: str, command: str
) -> None:
    missing = Roster(workers).missing(wanted)
    assert missing is not None
    assert (missing.kind, missing.message, missing.command) == (kind, message, command)
    assert missing.way_out.endswith(command)


def test_the_newest_definition_may_judge_a_run_of_an_older_one() -> None:
    older = Need("checkout", "0", frozenset({"c0", "c1"}), "stageflow-shop")
    assert Roster((SHOP,)).missing(older) is None


def test_a_sweep_leaves_to_another_broker_what_only_its_workers_take() -> None:
    both = Roster((SHOP, MAIL))
    assert both.speaks_for(SHOP.broker, "stageflow-shop")
    assert not both.speaks_for(MAIL.broker, "stageflow-shop")
    assert both.speaks_for(MAIL.broker, "a queue that nobody serves")
    assert Roster((SHOP, MAIL), silent=True).speaks_for(MAIL.broker, "stageflow-shop")


def test_on_a_queue_that_both_brokers_serve_the_definitions_decide() -> None:
    here = Profile("one", "redis://a:6379/0", ("shared",), {"p": Known("1", "p1"), "both": Known("1", "b1")})
    there = Profile("two", "redis://b:6379/0", ("shared",), {"q": Known("1", "q1"), "both": Known("1", "b1")})
    both = Roster((here, there))
    assert both.carried_elsewhere(here.broker, "shared") == {"q1"}
    assert both.carried_elsewhere(there.broker, "shared") == {"p1"}
    assert not both.speaks_for(here.broker, "shared", frozenset({"q1"}))
    assert both.engines_on("shared") == ("one", "two")
