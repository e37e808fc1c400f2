"""``stageflow resume | compensate | cancel | erase``: one run, several, or by filter; with reason, actor and report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stageflow_durable.cli.failures import FAILED, Misuse, one_line
from stageflow_durable.cli.output import console, print_json, print_line, printing, say
from stageflow_durable.cli.parameters import MOST_RUNS, bounded, park_reason_option, run_filters
from stageflow_durable.cli.selection import Filter, chosen, confirmed
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.times import Finite
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.cli.words import counted, shown_length
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.errors import Retryable, StageflowError
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.verbs import Standing, VerbName, refusal

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Named, Operations, Stands

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run: its status ``after``, or the ``error`` that refused it; ``undoes``: what is undone."""

    run_id: str
    ok: bool
    before: str
    after: str | None = None
    undoes: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class How:
    """How a bulk verb goes about it. ``rate``: at most so many runs a second; None: as fast as it goes."""

    yes: bool
    dry_run: bool
    limit: int | None
    rate: float | None
    as_json: bool


def _for_many(command: F) -> F:
    """The options of every verb's form for many runs."""
    for option in (
        app_option,
        json_option,
        click.option("--yes", "-y", is_flag=True, help="Do not ask before changing what a filter found."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
        click.option("--limit", type=click.IntRange(1, MOST_RUNS), metavar="N", help="At most so many runs."),
        click.option("--rate", type=Finite(min=0, min_open=True), metavar="N", help="At most so many runs a second."),
        park_reason_option,
        run_filters,
    ):
        command = option(command)
    return command


@click.command(short_help="Carry on with runs that are parked, failed or cancelled.")
@verb_parameters(OperatorVerbs.resume)
@_for_many
@click.pass_context
def resume(ctx: click.Context, /, **given: Any) -> None:
    """Carry on with runs that are parked, failed or cancelled, at the first stage that is not done.

    A run that is parked because an outcome is unknown is settled first: stageflow settle.
    """
    _act_on_many(ctx, OperatorVerbs.resume, given)


@click.command(short_help="Stop runs and undo what they have done.")
@verb_parameters(OperatorVerbs.cancel)
@_for_many
@click.pass_context
def cancel(ctx: click.Context, /, **given: Any) -> None:
    """Stop runs: nothing begins any more, what runs comes to rest, what was done is undone in reverse order.

    A run whose pivot has begun only goes forward and is refused, unless --past-pivot says that undoing it is meant.
    """
    _act_on_many(ctx, OperatorVerbs.cancel, given)


@click.command(short_help="Undo what runs have done, in reverse order.")
@verb_parameters(OperatorVerbs.compensate)
@click.option("--retry-failed", is_flag=True, help="Only runs with undos that failed for good: try those again.")
@_for_many
@click.pass_context
def compensate(ctx: click.Context, /, **given: Any) -> None:
    """Undo what runs have done, in reverse order; where undos have failed for good, try those again.

    An undo that is given up with --skip stays visible as skipped, with its reason; the others are done.
    """
    if given["retry_failed"] and not given["run_ids"]:
        if given["status"] not in (None, RunStatus.COMPENSATION_FAILED):
            raise Misuse(f"--retry-failed is about runs that are {RunStatus.COMPENSATION_FAILED}; leave --status out")
        given["status"] = RunStatus.COMPENSATION_FAILED
    _act_on_many(ctx, OperatorVerbs.compensate, given)


@click.command(short_help="Erase the values of runs that have ended, for good.")
@verb_parameters(OperatorVerbs.erase)
@_for_many
@click.pass_context
def erase(ctx: click.Context, /, **given: Any) -> None:
    """Erase what runs were given, saved, said and logged, for good: input, outputs, signals, errors, metadata,
    attributes and what their histories quote. For runs that have ended.

    That a run took place, when, and who did what to it stays, and its history stays whole; its keys stay taken, so that
    nothing is done twice. It cannot be resumed, forked or undone any more.
    """
    _act_on_many(ctx, OperatorVerbs.erase, given)


# --- the work -------------------------------------------------------------------------------------------------------


def _act_on_many(ctx: click.Context, declared: Callable[..., RunSummary], given: dict[str, Any]) -> None:
    verb = VerbName(declared.__name__)
    how = How(given["yes"], given["dry_run"], given["limit"], given["rate"], given["as_json"])
    given["since"] = bounded(ctx, given["since"], given["until"], given["error"])
    wanted = Filter(*(given[one.name] for one in fields(Filter)))
    operations = Session.of(ctx).operations()
    runs = chosen(operations, verb, given["run_ids"], wanted, how.limit)
    if runs and not how.dry_run:
        confirmed(verb, len(runs), by_filter=wanted.given, yes=how.yes)
    options = options_given(declared, given)
    past = bool(options.get("past_pivot"))
    act = partial(perform, operations, declared, **options)
    ask = partial(_refused, verb, past=past, only_failed=bool(given.get("retry_failed")))
    outcomes: list[Outcome] = []
    try:
        outcomes.extend(_each(operations, verb, runs, None if how.dry_run else act, how, ask))
    finally:  # interrupted, or the database went away: what was done is told all the same
        _report(verb, outcomes, how)
    if not all(outcome.ok for outcome in outcomes):
        ctx.exit(FAILED)


def _each(
    operations: Operations,
    verb: VerbName,
    runs: Sequence[Named],
    act: Callable[..., RunSummary] | None,
    how: How,
    ask: Callable[[Standing], str | None],
) -> Iterator[Outcome]:
    with _progress(verb, len(runs)) as advance:
        for position, (run, seen) in enumerate(_seen(operations, runs)):
            if position and how.rate and act:
                threading.Event().wait(1 / how.rate)
            yield _gone(run) if seen is None else _one(verb, seen, act, ask)
            advance()


def _seen(operations: Operations, runs: Sequence[Named]) -> Iterator[tuple[Named, Stands | None]]:
    """Each run with how it stands now; None: it is gone."""
    found = iter(operations.standings([run.run_id for run in runs]))
    seen = next(found, None)
    for run in runs:
        if seen is None or seen.run_id != run.run_id:
            yield run, None
            continue
        yield run, seen
        seen = next(found, None)


def _gone(run: Named) -> Outcome:
    return Outcome(run.run_id, False, run.status, error="it is gone: pruned since it was listed")


def _refused(verb: VerbName, facts: Standing, *, past: bool, only_failed: bool) -> str | None:
    if only_failed and facts.status is not RunStatus.COMPENSATION_FAILED:
        return f"it is {facts.status}: none of its undos has failed; leave --retry-failed out"
    return refusal(verb, facts, past_pivot=past)


def _one(
    verb: VerbName,
    seen: Stands,
    act: Callable[..., RunSummary] | None,
    ask: Callable[[Standing], str | None],
) -> Outcome:
    """Decide by the rules, then act on exactly what was seen (``op_version``)."""
    if why := ask(seen.standing):
        return Outcome(seen.run_id, False, seen.status, error=f"{verb} refused: {why}")
    try:
        after = _after(verb, act(seen.run_id, op_version=seen.op_version)) if act else None
    except Retryable:
        raise  # the database is away: every further run would fail alike
    except StageflowError as error:
        return Outcome(seen.run_id, False, seen.status, error=one_line(str(error)))
    undoes = seen.standing.owed if verb in (VerbName.CANCEL, VerbName.COMPENSATE) else ()
    return Outcome(seen.run_id, True, seen.status, after, undoes)


def _after(verb: VerbName, run: RunSummary) -> str:
    """What is said of a run afterwards: its status, where the verb is about that."""
    return "erased" if verb is VerbName.ERASE else run.status


@contextmanager
def _progress(verb: VerbName, number: int) -> Iterator[Callable[[], object]]:
    out = console(stderr=True)
    if number < 2 or not out.is_terminal:
        yield lambda: None
        return
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=out, transient=True
    ) as bar:
        yield partial(bar.advance, bar.add_task(verb, total=number))


# --- the report -----------------------------------------------------------------------------------------------------


def _report(verb: VerbName, outcomes: list[Outcome], how: How) -> None:
    with printing(_total(verb, outcomes, how)):
        if how.as_json:
            print_json(outcomes)
            return
        length = shown_length(outcome.run_id for outcome in outcomes)
        for outcome in outcomes:
            line = f"{outcome.run_id[:length]}  {_told(verb, outcome)}"
            print_line(line) if outcome.ok else say(f"stageflow: {line}")
    if len(outcomes) != 1:
        say(_total(verb, outcomes, how))


def _told(verb: VerbName, outcome: Outcome) -> str:
    if outcome.error:
        return outcome.error
    undone = f" (undo: {', '.join(outcome.undoes)})" if outcome.undoes else ""
    return f"{outcome.before} → {outcome.after or f'would {verb}'}{undone}"


def _total(verb: VerbName, outcomes: list[Outcome], how: How) -> str:
    done = sum(outcome.ok for outcome in outcomes)
    refused = f", {len(outcomes) - done} refused" if done < len(outcomes) else ""
    return f"{verb}: {counted(done, 'run')}{' (dry run)' if how.dry_run else ''}{refused}"
