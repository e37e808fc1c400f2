"""Places that threads take in turn."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from stageflow_durable.state.pool import Place, Places
from tests.services.process import eventually


def taken(places: Places) -> Place:
    place = places.take(5)
    assert place is not None
    return place


def test_given_all_places_taken_when_none_is_left_in_time_then_there_is_none() -> None:
    places = Places(1)
    held = taken(places)
    began = time.monotonic()
    assert places.take(0.05) is None
    assert time.monotonic() - began < 2
    held.leave()
    assert taken(places) is not None


def test_given_a_place_that_is_left_twice_then_it_is_one_place() -> None:
    places = Places(1)
    held = taken(places)
    held.leave()
    held.leave()
    again = taken(places)
    assert places.take(0.01) is None
    again.leave()


def test_given_a_place_that_nobody_holds_any_more_then_another_thread_has_it() -> None:
    """What a time limit interrupts between taking and leaving."""
    places = Places(1)
    taken(places)  # and dropped
    assert taken(places) is not None


def test_given_threads_that_come_again_at_once_then_each_is_served_in_its_turn() -> None:
    places, rounds = Places(1), 30
    order: list[int] = []

    def come(number: int) -> None:
        for _ in range(rounds):
            place = taken(places)
            order.append(number)
            place.leave()  # who leaves and comes again stands behind those who wait

    held = taken(places)
    with ThreadPoolExecutor(4) as threads:
        coming = [threads.submit(come, number) for number in range(4)]
        eventually(lambda: len(places._waiting) == 4, what="all wait")
        held.leave()
        for one in coming:
            one.result(20)
    first = order[:40]
    assert all(sorted(first[at : at + 4]) == [0, 1, 2, 3] for at in range(0, 40, 4)), first


def test_given_who_gave_up_waiting_then_the_place_goes_to_the_next() -> None:
    places, got = Places(1), threading.Event()
    held = taken(places)
    assert places.take(0.01) is None

    def wait() -> None:
        if places.take(5) is not None:
            got.set()

    threading.Thread(target=wait, daemon=True).start()
    eventually(lambda: len(places._waiting) == 1, what="it waits")
    held.leave()
    assert got.wait(5)
