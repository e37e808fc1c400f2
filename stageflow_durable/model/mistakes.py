"""What is wrong with a pipeline as it was declared: every mistake, one line each, naming stage and field. Pure.

What is looked at may be anything, whatever its annotation says: that is what is to be found out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any

from stageflow_durable.codec import decode, encode, plain
from stageflow_durable.duration import SHORTEST_TIMEOUT, is_duration, shown
from stageflow_durable.errors import UnsavableValue
from stageflow_durable.model import json_schema
from stageflow_durable.model.callables import uncallable
from stageflow_durable.model.limits import mistakes_of
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import Default, SchemaMigration, StageKind, StageSpec
from stageflow_durable.settings.queues import QUEUE_NAME, is_queue_name

After = Sequence[tuple[str, ...]]
"""What each stage waits for, in their order."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAMED = "letters, digits, '_', '.', '-' (1 to 100)"
_DURATION = "{} has to be seconds or a timedelta, and positive: at least 1 ms, at most ten years"
_ON_LEASE_LOST = (None, "continue", "end")
_ORDERED_KINDS = frozenset({StageKind.WORK, StageKind.AGENT})


def is_name(given: object) -> bool:
    """Whether a pipeline or a stage may be called so."""
    return isinstance(given, str) and bool(_NAME.fullmatch(given))


def options_of_pipeline(
    *,
    name: object,
    version: object,
    retry: object,
    on_failure: object,
    on_compensation_failure: object,
    on_lease_lost: object,
) -> Iterator[str]:
    """Mistakes in what a pipeline itself was given."""
    if not is_name(name):
        yield f"name {name!r}: {_NAMED}"
    if not isinstance(version, str) or not version.strip():
        yield f'version {version!r} has to be text, as in version="2"'
    if not isinstance(retry, RetryPolicy | None):
        yield f"retry {retry!r} is not a RetryPolicy"
    if on_failure not in ("compensate", "park"):
        yield f"on_failure={on_failure!r}: 'compensate' or 'park'"
    if on_compensation_failure not in ("continue", "halt"):
        yield f"on_compensation_failure={on_compensation_failure!r}: 'continue' or 'halt'"
    if on_lease_lost not in _ON_LEASE_LOST:
        yield f"on_lease_lost={on_lease_lost!r}: 'continue' or 'end'"


def schemas(schema: object, migrations: Any, stages: frozenset[object]) -> Iterator[str]:
    """Mistakes in a pipeline's schema and its migrations."""
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        yield f"schema {schema!r} has to be a number from 1"
        return
    if not isinstance(migrations, Mapping) or not all(isinstance(number, int) for number in migrations):
        yield f"migrations {migrations!r}: a dict from the number of an older schema to a SchemaMigration"
        return
    missing = sorted(set(range(min(migrations, default=schema), schema)) - set(migrations))
    if missing:
        yield f"migrations from schema {', '.join(map(str, missing))} are missing: schema is {schema}"
    yield from (f"migrations[{number}]: schema is {schema}" for number in migrations if not 1 <= number < schema)
    for number, step in migrations.items():
        if not isinstance(step, SchemaMigration):
            yield f"migrations[{number}] {step!r} is not a SchemaMigration"
            continue
        named = {"input": step.input, **{f"outputs[{name!r}]": move for name, move in step.outputs.items()}}
        yield from (
            f"migrations[{number}].{what}: {wrong}"
            for what, move in named.items()
            if not (what == "input" and move is None) and (wrong := uncallable(move, "value"))
        )
        yield from (
            f"migrations[{number}].outputs[{name!r}]: no such stage" for name in step.outputs if name not in stages
        )


def names_of_stages(specs: Sequence[Any]) -> Iterator[str]:
    """Mistakes in what stages are called, and in how ``after`` is written; without them the graph can be read."""
    if not specs:
        yield "it has no stages"
    for spec in specs:
        if not is_name(spec.name):
            yield f"stage {spec.name!r}: name: {_NAMED}"
        if not all(isinstance(name, str) for name in spec.after or ()):
            yield f"stage {spec.name!r}: after {spec.after!r} is not the name of a stage, or several"
    names = [spec.name for spec in specs if isinstance(spec.name, str)]
    yield from (f"duplicate stage name {name!r}" for name in sorted({n for n in names if names.count(n) > 1}))


def unknown_names(specs: Sequence[StageSpec], resolved: After) -> list[str]:
    """Names in ``after`` that no stage has."""
    known = {spec.name for spec in specs}
    return [
        f"stage {spec.name!r} waits for unknown stage {name!r}"
        for spec, after in zip(specs, resolved, strict=True)
        for name in after
        if name not in known
    ]


def implicit_after_branch(specs: Sequence[StageSpec]) -> Iterator[str]:
    """Stages that leave ``after`` out although there is a branch before them."""
    previous: tuple[str, ...] = ()
    branched = False
    for spec in specs:
        if spec.after is None and branched:
            yield f"stage {spec.name!r}: say after=… ; once there is a branch 'the one before' is ambiguous"
        branched = branched or (spec.after is not None and spec.after != previous)
        previous = (spec.name,)


def options_of_stage(spec: Any) -> list[str]:
    """Mistakes in a stage's options."""
    checks = (
        (not callable(spec.runner), "runner {!r} is not a function and has no execute(ctx)", spec.runner),
        (not isinstance(spec.kind, StageKind), "kind {!r} is not a StageKind", spec.kind),
        (not isinstance(spec.retry, RetryPolicy | None), "retry {!r} is not a RetryPolicy", spec.retry),
        (spec.timeout is not None and not _is_duration(spec.timeout), f"timeout {_DURATION}", shown(spec.timeout)),
        (not isinstance(spec.pivot, bool), "pivot {!r} is not True or False", spec.pivot),
        (
            spec.on_unknown not in ("retry", "park", "compensate"),
            "on_unknown={!r}: 'retry', 'park' or 'compensate'",
            spec.on_unknown,
        ),
        (not _is_duration(spec.key_ttl), f"key_ttl {_DURATION}", shown(spec.key_ttl)),
        (
            spec.on_lease_lost not in _ON_LEASE_LOST,
            "on_lease_lost={}: 'continue' or 'end'",
            shown(spec.on_lease_lost),
        ),
        (
            spec.tools is not None and not hasattr(spec.tools, "of_action"),
            "tools={} is not a ToolRegistry",
            shown(spec.tools),
        ),
        (not _is_queue(spec.queue), f"queue {{}} is not {QUEUE_NAME}", shown(spec.queue)),
    )
    wrong = [text.format(given) for is_wrong, text, given in checks if is_wrong]
    wrong += _sleep(spec.sleep)
    wrong += mistakes_of(spec.limits)
    wrong += () if spec.wait is None else of_wait(spec.wait)
    wrong += () if spec.callback is None else of_callback(spec.callback)
    wrong += () if spec.approval is None else of_approval(spec.approval)
    calls = [*_called(spec.runner if callable(spec.runner) else None, ""), *_called(spec.key, "key: ")]
    return [f"stage {spec.name!r}: {text}" for text in (*spec.misfits, *wrong, *calls, *_undo(spec.compensate))]


def is_moment(given: Any) -> bool:
    """Whether it is an aware datetime that a row can hold."""
    return isinstance(given, datetime) and given.tzinfo is not None and MINYEAR < given.year < MAXYEAR


def _sleep(sleep: Any) -> Iterator[str]:
    """What is wrong with how long a stage sleeps; a function that says it is looked at as a runner is."""
    if sleep is None:
        return
    if (sleep.seconds is None) is (sleep.until is None):
        yield "give a duration or until=, and not both"
    elif sleep.until is None:
        if not _is_duration(sleep.seconds):
            yield _DURATION.format(shown(sleep.seconds))
    elif not callable(sleep.until) and not is_moment(sleep.until):
        yield f"until={shown(sleep.until)} has to be an aware datetime, or a function of one context that gives one"


def of_wait(wait: Any) -> Iterator[str]:
    """What is wrong with the options of a stage that waits for a signal."""
    if wait.timeout is not None and not _is_duration(wait.timeout):
        yield f"timeout {_DURATION.format(shown(wait.timeout))}"
    if wait.timeout is None and wait.on_timeout != "fail":
        yield "on_timeout= is given without timeout="
    schema = None if wait.schema is None else schema_of(wait.schema)
    wrong = [] if schema is None else [schema] if isinstance(schema, str) else json_schema.mistakes(schema)
    yield from (f"schema: {problem}" for problem in wrong)
    if isinstance(wait.on_timeout, Default):
        yield from (f"on_timeout=Default(…): {problem}" for problem in _default(wait.on_timeout.value, schema, wrong))
    elif wait.on_timeout not in ("fail", "skip"):
        yield f"on_timeout={shown(wait.on_timeout)}: 'fail', 'skip' or Default(value)"


def of_callback(given: Any) -> Iterator[str]:
    """What is wrong with the schema of what calls a stage back."""
    schema = schema_of(given)
    wrong = [schema] if isinstance(schema, str) else json_schema.mistakes(schema)
    yield from (f"callback: {problem}" for problem in wrong)


def of_approval(approval: Any) -> Iterator[str]:
    """What is wrong with the options of a stage that waits for an approval; its function is looked at as a runner."""
    if approval.timeout is not None and not _is_duration(approval.timeout):
        yield f"timeout {_DURATION.format(shown(approval.timeout))}"
    if approval.timeout is None and approval.on_timeout != "reject":
        yield "on_timeout= is given without timeout="
    for name in ("on_timeout", "on_denied"):
        given = getattr(approval, name)
        if given not in ("reject", "park", "skip"):
            yield f"{name}={shown(given)}: 'reject', 'park' or 'skip'"
    if not isinstance(approval.separation, bool):
        yield f"separation={shown(approval.separation)} is not True or False"
    named = approval.approvers
    if named is None:
        return
    if not isinstance(named, Sequence | frozenset | set) or not named:
        yield f"approvers={shown(named)}: names of actors, at least one; leave it out where anybody may approve"
    elif not all(isinstance(name, str) and name.strip() for name in named):
        yield "approvers: each is the name of an authenticated actor, as text"


def joins_behind_approvals(plan: Plan) -> list[str]:
    """A denial that passes over what comes next says nothing of other stages, for which that may wait too."""
    return [
        f"stage {name!r} waits for {approval.name!r}, which may skip it, and for others too; give it a stage of its own"
        for approval in plan.stages
        if approval.is_approval and "skip" in (approval.on_denied, approval.on_timeout)
        for name in plan.successors[approval.name]
        if len(plan.by_name[name].after) > 1
    ]


def waits_behind_approvals(plan: Plan) -> list[str]:
    """A denial that passes over a wait alone would let happen what comes behind that."""
    return [
        f"stage {name!r} comes right after {approval.name!r}, which may skip it, and is no work: what comes behind it "
        "would happen although it was denied; put the work there, or use 'reject' or 'park'"
        for approval in plan.stages
        if approval.is_approval and "skip" in (approval.on_denied, approval.on_timeout)
        for name in plan.successors[approval.name]
        if plan.by_name[name].is_sleep or plan.by_name[name].takes_answers
    ]


def schema_of(given: Any) -> Any:
    """The JSON schema of a Pydantic model, or the schema itself; text: why there is none."""
    if isinstance(given, Mapping):
        return given
    exported = getattr(given, "model_json_schema", None) if isinstance(given, type) else None
    if exported is None:
        return f"{shown(given)} is neither a Pydantic model nor a JSON schema (a dict)"
    try:
        return exported()
    except Exception as error:  # noqa: BLE001  # Pydantic's, or of the application's own hooks
        return f"{given.__name__} has no JSON schema: {type(error).__name__}"


def _default(value: Any, schema: Any, wrong: Sequence[str]) -> Iterator[str]:
    """What is wrong with the value that a wait ends with: it has to be what its schema demands."""
    try:
        text = encode(value)
    except UnsavableValue as error:
        yield str(error)
        return
    if schema is not None and not wrong:
        yield from json_schema.problems(schema, plain(decode(text)))


def _called(given: Any, name: str) -> Iterator[str]:
    if given is not None and (wrong := uncallable(given)):
        yield f"{name}{wrong}"


def _undo(undo: Any) -> Iterator[str]:
    if undo is not None and (wrong := uncallable(undo.action)):
        yield f"compensate: {wrong}"
    if undo is not None and not isinstance(undo.retry, RetryPolicy | None):
        yield f"compensate: retry {undo.retry!r} is not a RetryPolicy"


def _is_queue(name: object) -> bool:
    return name is None or is_queue_name(name)


def _is_duration(seconds: object) -> bool:
    return is_duration(seconds, low=SHORTEST_TIMEOUT)


def unordered_pivots(plan: Plan) -> list[str]:
    """A pivot beside unordered work could pass while that work still fails: nobody could say what to undo."""
    return [
        f"pivot {pivot.name!r} is unordered with {other.name!r}, which may have effects; order them with after="
        for pivot in plan.stages
        if pivot.pivot
        for other in plan.stages
        if other.kind in _ORDERED_KINDS
        and other.name != pivot.name
        and other.name not in plan.ancestors[pivot.name] | plan.descendants[pivot.name]
    ]
