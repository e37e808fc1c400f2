"""Who awaits runs, in memory: see ``model/awaited``."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow_durable.model.awaited import MOST
from stageflow_durable.model.status import Phase
from stageflow_durable.store.memory.rows import Tables
from stageflow_durable.store.values import AtRest, Stand


def note(tables: Tables, _now: float, run_ids: Sequence[str], entry: str) -> dict[str, int]:
    """Note whom to tell of these runs; returns the number of each that was noted: of the end, of those that are not at
    rest; of every change, of all that are there.
    """
    noted: dict[str, int] = {}
    for run in filter(None, map(tables.runs.get, run_ids)):
        if run.phase is not Phase.SETTLED or entry[0].isupper():
            entries = (run.awaited_by or "").split()
            if entry not in entries:
                tables.runs.put(run.id, run._replace(awaited_by=" ".join([entry, *entries][:MOST])))
            noted[run.id] = run.seq
    return noted


def stand(tables: Tables, _now: float, run_ids: Sequence[str]) -> dict[str, Stand]:
    """How these runs stand; those that are not there are left out."""
    found = filter(None, map(tables.runs.get, run_ids))
    return {run.id: Stand(run.seq, run.phase is Phase.SETTLED) for run in found}


def at_rest(tables: Tables, _now: float, run_ids: Sequence[str]) -> list[AtRest]:
    """Those of the runs that are at rest; their outputs are read apart."""
    found = filter(None, map(tables.runs.get, run_ids))
    return [AtRest(run, None) for run in found if run.phase is Phase.SETTLED]
