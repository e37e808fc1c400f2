"""Which tests one process of the tests takes together, and in which order all of them come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from tests.integration.engine.pairs import Pair

SOAK = "test_soak.py"
WAITING = ("process", "chaos", "slow")
LAST_START = 0.85
"""Where, of all, the last of those that wait begins: what is short comes at the end, when processes run out of work."""

Unit = list[pytest.Item]


def arrange(items: list[pytest.Item]) -> None:
    """The mix of faults first; then tests that wait for processes evenly among those that compute, whatever chance made
    of it, so that the one kind uses what the other leaves; a module's tests on one site together.
    """
    for item in items:
        _mark_site(item)
    units = list(_units(items))
    places = [*_spread([unit for unit in units if _waits(unit)], LAST_START)]
    places += _spread([unit for unit in units if not _waits(unit)], 1.0)
    places.sort(key=lambda place: place[0])
    items[:] = [item for _, unit in places for item in unit]
    items.sort(key=lambda item: item.path.name != SOAK)


def _mark_site(item: pytest.Item) -> None:
    # Two processes would start its workers twice, and two sites in turn start them at every turn.
    chosen = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    pair = chosen.get("bare_site")
    if isinstance(pair, Pair):
        item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {pair.name}"))


def _units(items: Iterable[pytest.Item]) -> Iterator[Unit]:
    made: dict[str, Unit] = {}
    for item in items:
        group = item.get_closest_marker("xdist_group")
        made.setdefault(item.nodeid if group is None else group.args[0], []).append(item)
    yield from made.values()


def _waits(unit: Unit) -> bool:
    return any(item.get_closest_marker(name) for item in unit for name in WAITING)


def _spread(units: list[Unit], share: float) -> Iterator[tuple[float, Unit]]:
    for number, unit in enumerate(units):
        yield number / len(units) * share, unit
