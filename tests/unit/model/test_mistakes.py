"""A pipeline's mistakes are told when it is defined, all at once, each with its stage and its field."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import pytest

from stageflow_durable import Engine, Pipeline, RetryPolicy, Undo
from stageflow_durable.errors import DefinitionError


def body(ctx: Any) -> None:
    """Does nothing."""


def mistakes(pipeline: Any) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        Engine("shop", [pipeline])
    return caught.value.problems


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": "x"}, "timeout 'x' has to be seconds or a timedelta, and positive"),
        ({"timeout": 0}, "timeout 0 has to be"),
        ({"timeout": True}, "timeout True has to be"),
        ({"timeout": float("nan")}, "timeout nan has to be"),
        ({"timeout": timedelta(seconds=-1)}, "timeout -1.0 has to be"),
        ({"key_ttl": "1d"}, "key_ttl '1d' has to be seconds or a timedelta, and positive"),
        ({"key_ttl": None}, "key_ttl None has to be"),
        ({"key": "order_id"}, "key: 'order_id' is not a function of one context"),
        ({"retry": 5}, "retry 5 is not a RetryPolicy"),
        ({"compensate": "refund"}, "compensate: 'refund' is not a function of one context"),
        ({"compensate": Undo(body, retry=3)}, "compensate: retry 3 is not a RetryPolicy"),  # type: ignore[arg-type]  # the point
        ({"kind": "work"}, "kind 'work' is not a StageKind"),
        ({"pivot": "yes"}, "pivot 'yes' is not True or False"),
        ({"on_unknown": "ask"}, "on_unknown='ask': 'retry', 'park' or 'compensate'"),
        ({"queue": ""}, "queue '' is not a queue's name: 1 to 200 bytes"),
        ({"queue": 7}, "queue 7 is not a queue's name: 1 to 200 bytes"),
        ({"after": 5}, "after (5,) is not the name of a stage, or several"),
    ],
)
def test_a_wrong_option_is_told_with_its_stage_and_field(options: dict[str, Any], says: str) -> None:
    [told] = mistakes(Pipeline("checkout").stage("charge", body, **options))
    assert told.startswith(f"stage 'charge': {says}")


def test_all_mistakes_of_a_pipeline_are_told_together() -> None:
    wrong: Any = Pipeline("check out", version=2, retry=3, on_failure="stop")  # type: ignore[call-overload]  # the point
    wrong = wrong.stage("charge", None, timeout="x").stage("", body, key_ttl=0).stage("ship", body, after="chrage")
    told = mistakes(wrong)
    assert [line.partition(":")[0] for line in told] == [
        "name 'check out'",
        'version 2 has to be text, as in version="2"',
        "retry 3 is not a RetryPolicy",
        "on_failure='stop'",
        "stage 'charge'",
        "stage 'charge'",
        "stage ''",
        "stage ''",
    ]


def test_the_graph_is_looked_at_as_soon_as_its_names_can_be_read() -> None:
    told = mistakes(Pipeline("p").stage("a", body, after="b", timeout=0).stage("b", body, after="a"))
    timeout = "stage 'a': timeout 0 has to be seconds or a timedelta, and positive: at least 1 ms, at most ten years"
    assert told == (timeout, "cycle through a, b")


def test_an_option_that_the_stage_object_brings_is_not_given_again_beside_it() -> None:
    class Brings:
        stage_options: ClassVar = {"retry": RetryPolicy()}

        def execute(self, ctx: Any) -> None:
            """Does nothing."""

    [told] = mistakes(Pipeline("p").stage("a", Brings(), retry=RetryPolicy(5)))
    assert told == "stage 'a': retry= is given twice: by the stage object and beside it"
