"""What is larger than ``max_payload_bytes`` is refused where it comes in, by its name and its size."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import RunStatus, StageOutput, Submission
from stageflow_durable.codec import encode
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

LIMIT = 2048
FITS = {"name": "Ada", "photo": "x" * (LIMIT - len(encode({"name": "Ada", "photo": ""})))}
TOO_LARGE = FITS | {"photo": FITS["photo"] + "x"}
NAMED = r"photo \(the largest, 2,026 bytes\): 2,049 bytes encoded, max_payload_bytes allows 2,048; keep"


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """An engine of small means."""
    return make_engine(acts.line("a b"), max_payload_bytes=LIMIT)


def test_an_input_of_the_greatest_size_is_taken_and_a_byte_more_is_refused_by_its_largest_field(
    engine: InProcessEngine,
) -> None:
    handle = engine.enqueue("line", FITS)
    with pytest.raises(InvalidInput, match=f"input of line: {NAMED}"):
        engine.enqueue("line", TOO_LARGE)
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert len(engine.runs()) == 1


def test_metadata_is_refused_likewise(engine: InProcessEngine) -> None:
    with pytest.raises(InvalidInput, match=rf"enqueue: metadata\.{NAMED}"):
        engine.enqueue("line", {}, metadata=TOO_LARGE)
    assert engine.runs() == []


def test_one_of_many_is_refused_in_its_place(engine: InProcessEngine) -> None:
    taken, refused = engine.enqueue_many("line", [Submission(FITS), Submission(TOO_LARGE)], on_error="collect")
    assert not isinstance(taken, InvalidInput)
    assert isinstance(refused, InvalidInput)


@pytest.mark.parametrize("output", [TOO_LARGE, "x" * LIMIT], ids=["object", "text"])
def test_an_output_that_is_too_large_cannot_be_saved_and_parks_the_run_as_a_bug(
    engine: InProcessEngine, acts: Acts, output: Any
) -> None:
    acts.play("a", lambda _ctx: output)
    handle = engine.enqueue("line", {})
    engine.drain()
    run = engine.run(handle.run_id)
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "output cannot be saved" in (run.error or "")
    assert "max_payload_bytes allows 2,048" in (run.error or "")
    assert acts.log.count("a") == 1


def test_an_output_of_the_greatest_size_is_saved(engine: InProcessEngine, acts: Acts) -> None:
    acts.play("a", lambda _ctx: FITS)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.result()["a"] == FITS


def test_what_a_person_found_out_is_held_to_the_same(engine: InProcessEngine, acts: Acts) -> None:
    acts.play("a", lambda _ctx: TOO_LARGE)
    handle = engine.enqueue("line", {})
    engine.drain()
    with pytest.raises(InvalidInput, match=rf"settle: done\.{NAMED}"):
        engine.settle(handle.run_id, "a", done=TOO_LARGE, reason="looked", actor="ann")
    assert handle.status() is RunStatus.PARKED


def test_an_undos_answer_is_nobodys_and_may_be_of_any_size(engine: InProcessEngine, acts: Acts) -> None:
    acts.play("undo a", lambda _ctx: StageOutput.ok(**TOO_LARGE))
    acts.play("b", FAILS)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert acts.log.count("undo a ok") == 1
