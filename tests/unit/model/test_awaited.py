"""Who awaits a run, as its row says it, and what they are told."""

from __future__ import annotations

import pytest

from stageflow_durable.model.awaited import By, Listener, Told, listeners

ANN, BEN = Listener(By.REDIS, "a" * 16), Listener(By.POSTGRESQL, "0123456789abcdef")


@pytest.mark.parametrize("listener", [ANN, BEN])
def test_who_awaits_the_end_is_told_of_it_and_of_nothing_else(listener: Listener) -> None:
    entry = listener.entry(follows=False)
    assert listeners(entry, ended=True) == [listener]
    assert listeners(entry, ended=False) == []


@pytest.mark.parametrize("listener", [ANN, BEN])
def test_who_follows_a_run_is_told_of_every_change(listener: Listener) -> None:
    entry = listener.entry(follows=True)
    assert listeners(entry, ended=False) == listeners(entry, ended=True) == [listener]


def test_a_process_that_awaits_and_follows_is_told_once() -> None:
    text = f"{ANN.entry(follows=True)} {BEN.entry(follows=False)} {ANN.entry(follows=False)}"
    assert listeners(text, ended=True) == [ANN, BEN]


@pytest.mark.parametrize(
    "text", [None, "", "x0123456789abcdef", "r0123", "r" + "g" * 16, f"{ANN.entry(follows=True)}0"]
)
def test_what_is_no_entry_is_nobody(text: str | None) -> None:
    assert listeners(text, ended=True) == []


def test_an_entry_that_was_cut_off_does_not_spoil_the_others() -> None:
    assert listeners(f"{ANN.entry(follows=False)} {BEN.entry(follows=False)[:9]}", ended=True) == [ANN]


@pytest.mark.parametrize("told", [Told("01J9F2QZ7KXV", ended=True), Told("01J9F2QZ7KXV", ended=False)])
def test_what_is_told_is_read_as_it_was_meant(told: Told) -> None:
    assert Told.read(told.text()) == told
