"""A signal that ends a process is told from what a body raised, also where a cleanup failed on the way out."""

from __future__ import annotations

import contextlib
import signal

import billiard.common
import pytest

from stageflow_durable import Pipeline, RunStatus
from stageflow_durable.delivery.process import told_to_end
from stageflow_durable.engine.process_end import Interrupted, is_end_of_process
from stageflow_durable.testing import engine_for_tests


def _terminated() -> BaseException:
    before = signal.getsignal(signal.SIGTERM)
    try:
        billiard.common._shutdown_cleanup(signal.SIGTERM, None)
    except SystemExit as error:
        return error
    finally:
        billiard.common._should_have_exited[0] = False
        signal.signal(signal.SIGTERM, before)
    raise AssertionError


def test_a_child_that_is_terminated_ends() -> None:
    assert told_to_end(_terminated())
    assert is_end_of_process(_terminated())


def test_a_cleanup_that_fails_on_the_way_out_changes_nothing() -> None:
    failed = ConnectionError("already closed")
    failed.__context__ = _terminated()
    assert is_end_of_process(failed)


def test_a_bodys_own_exit_does_not_end_the_process() -> None:
    for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ValueError("x")):
        assert not is_end_of_process(error)
    after = ValueError("after")
    after.__context__ = SystemExit(3)
    assert not is_end_of_process(after)


def test_given_a_child_that_is_terminated_in_a_body_then_that_is_no_outcome() -> None:
    error = _terminated()

    def body(ctx: object) -> None:
        raise error

    with engine_for_tests([Pipeline("p").stage("s", body)]) as engine:
        handle = engine.enqueue("p", {})
        with pytest.raises(SystemExit):
            engine.step()
        assert handle.status() is RunStatus.RUNNING
        assert handle.describe().error is None


def test_a_persons_interrupt_means_the_test_and_not_the_stage() -> None:
    def body(ctx: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with engine_for_tests([Pipeline("p").stage("s", body)]) as engine:
        engine.enqueue("p", {})
        with pytest.raises(KeyboardInterrupt) as interrupted, contextlib.suppress(ValueError):
            engine.drain()
        assert isinstance(interrupted.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is before
