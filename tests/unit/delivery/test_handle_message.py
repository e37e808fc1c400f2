"""What a message's words become: a nudge, its hint, and the key that tells duplicates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stageflow_durable.delivery.messages import read
from stageflow_durable.delivery.tasks import handle_message
from stageflow_durable.engine.executor import Executed
from stageflow_durable.model.work import Hint, Nudge

HINT = Hint(7, "0a" * 32, "0b" * 12, "a stage")


def carried(mark: str) -> tuple[str, Nudge]:
    """The key that was asked for, and the nudge that was ridden."""
    keys: list[str] = []
    ridden: list[Nudge] = []

    def execute(nudge: Nudge) -> Executed:
        ridden.append(nudge)
        return Executed()

    def first(key: str) -> bool:
        keys.append(key)
        return True

    process: Any = SimpleNamespace(
        queue="q", first=first, execute=execute, publish=lambda _nudges: None, refused=lambda _words, _queue: None
    )
    request = SimpleNamespace(chain=None, delivery_info={"routing_key": "lane"}, retries=0)
    handle_message(SimpleNamespace(request=request), process, read(("R", "a", 3, mark), {}))
    return keys[0], ridden[0]


@pytest.mark.parametrize(
    ("mark", "hint"),
    [
        ("7.0", None),  # as an older version publishes
        (Nudge("R", "a", 3, "lane", 7, hint=HINT).marked(0), HINT),
        ("7.0 what a newer version may add", None),
    ],
)
def test_given_a_message_then_its_hint_is_read_and_its_key_is_the_same_without_it(mark: str, hint: Hint | None) -> None:
    key, nudge = carried(mark)
    assert key == "R:a:3:7.0:0"
    assert (nudge.run_id, nudge.strand, nudge.gen, nudge.queue) == ("R", "a", 3, "lane")
    assert nudge.hint == hint
