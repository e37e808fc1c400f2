"""What has to be true of runs whatever happened to their processes."""

from __future__ import annotations

from collections.abc import Iterable

from stageflow_durable import RunHandle, RunStatus
from tests.integration.engine.site import Site

CHECKPOINT = ("stage.ok", "stage.skipped")


def is_whole(site: Site, run: RunHandle, stages: int) -> None:
    """The run succeeded; each stage was committed once and saw what its ancestors had saved; no outcome was lost."""
    assert run.status() is RunStatus.SUCCEEDED
    names = [f"s{number}" for number in range(1, stages + 1)]
    assert [event["stage"] for event in site.history(run, *CHECKPOINT)] == names
    outputs = run.outputs()
    assert list(outputs) == names
    tokens = {name: outputs[name]["token"] for name in names}
    for number, name in enumerate(names):
        assert outputs[name]["seen"] == {earlier: tokens[earlier] for earlier in names[:number]}
    did = site.ledger.entries([run.run_id])
    assert {entry.key for entry in did} == {stage.key for stage in run.describe().stages}
    _committed_ran_no_more(site, run, tokens)
    sequence = [event.seq for event in run.history()]
    assert sequence == list(range(1, len(sequence) + 1))


def _committed_ran_no_more(site: Site, run: RunHandle, tokens: dict[str, str]) -> None:
    # The body whose output was committed is the last of its stage, and the next stage's first body comes after it.
    order = [(entry.stage, entry.token) for entry in site.ledger.entries([run.run_id]) if entry.kind == "do"]
    assert [stage for stage, _ in order] == sorted((stage for stage, _ in order), key=lambda stage: int(stage[1:]))
    last = dict(order)
    assert last == tokens


def all_whole(site: Site, runs: Iterable[RunHandle], stages: int) -> None:
    """:func:`is_whole` of each."""
    for run in runs:
        is_whole(site, run, stages)


def doubled(site: Site, runs: Iterable[RunHandle]) -> dict[tuple[str, str], int]:
    """Bodies that were called more than once."""
    called = site.ledger.bodies([run.run_id for run in runs])
    return {at: times for at, times in called.items() if times > 1}


def begun(site: Site, run: RunHandle) -> list[str]:
    """The stages that began, in their order, each as often as it did."""
    told = site.history(run, "stage.begun", "stage.ok")
    return [str(event.get("then", event)["stage"]) for event in told if "then" in event or "owner" in event]
