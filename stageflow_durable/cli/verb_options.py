"""What the commands of the verbs take, made of the verbs' declarations (:mod:`engine.operator_verbs`)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin

import click

from stageflow_durable.cli.completion import runs_known
from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.parameters import current_actor, json_value
from stageflow_durable.cli.reading import read_source
from stageflow_durable.engine.actors import Credential
from stageflow_durable.engine.operator_verbs import Argument, OperatorVerbs, Option

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")
Verb = Callable[..., Any]


def takes_many(verb: Verb) -> bool:
    """Whether its command takes several runs, or a filter of runs."""
    return bool(getattr(verb, "bulk", False))


def verb_parameters(verb: Verb) -> Callable[[F], F]:
    """The arguments and options of a verb's command; for one with a bulk form ``[RUN]...`` instead of ``RUN``."""

    def decorate(command: F) -> F:
        for parameter, declared in reversed(list(_declared(verb))):
            if isinstance(declared, Argument):
                command = _argument(parameter.name, declared, many=takes_many(verb))(command)
            else:
                command = _option(parameter, declared)(command)
        return command

    return decorate


def options_given(verb: Verb, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command line said for the verb's options, to be passed on; what it did not say is left to the verb."""
    found = {}
    for parameter, declared in _declared(verb):
        if isinstance(declared, Option) and _is_said(value := given[parameter.name]):
            option = _called(parameter.name, declared)
            found[parameter.name] = json_value(value, option) if declared.is_json else value
    return found


def _is_said(value: Any) -> bool:
    return value is not None and value is not False and value != ()


def perform(
    operations: object, verb: Callable[Concatenate[OperatorVerbs, P], T], *given: P.args, **options: P.kwargs
) -> T:
    """Call the verb of whatever offers it."""
    answer: T = getattr(operations, verb.__name__)(*given, **options)
    return answer


def _declared(verb: Verb) -> Iterator[tuple[inspect.Parameter, Argument | Option]]:
    """Each parameter that the command takes, with how it takes it."""
    for parameter in inspect.signature(verb).parameters.values():
        _type, *notes = get_args(parameter.annotation) or (parameter.annotation,)
        for note in notes:
            if isinstance(note, Argument | Option):
                yield parameter, note


def _argument(name: str, declared: Argument, *, many: bool) -> Callable[[F], F]:
    if many and name == "run_id":
        return click.argument("run_ids", metavar=f"[{declared.metavar}]...", nargs=-1, shell_complete=runs_known)
    complete = runs_known if name == "run_id" else None
    return click.argument(name, metavar=declared.metavar, shell_complete=complete)


def _option(parameter: inspect.Parameter, declared: Option) -> Callable[[F], F]:
    name, of_type = parameter.name, get_args(parameter.annotation)[0]
    shape: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar}
    if of_type is bool:
        shape["is_flag"] = True
    elif get_origin(of_type) is Sequence:
        shape["multiple"] = True
    elif name in _FILLED_IN:
        shape |= _FILLED_IN[name]
    else:
        shape["required"] = parameter.default is inspect.Parameter.empty
    return click.option(_called(name, declared), name, **shape)


def _called(name: str, declared: Option) -> str:
    return declared.name or f"--{name.replace('_', '-')}"


def _reason(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    if value is None and sys.stdin.isatty() and not ctx.resilient_parsing:
        value = click.prompt("Reason", err=True, type=str)
    if not (value or "").strip() and not ctx.resilient_parsing:
        raise Misuse(f'{ctx.info_name} needs --reason "…": it stands in the run\'s history')
    return (value or "").strip()


def _actor(ctx: click.Context, _parameter: click.Parameter, value: str) -> str | Credential:
    """A name as it is typed; what a file holds proves one, where the application knows whose it is."""
    if not value.startswith("@") or ctx.resilient_parsing:
        return value
    return Credential(read_source(value, "--actor").strip())


_FILLED_IN: dict[str, dict[str, Any]] = {
    "reason": {"callback": _reason},
    "actor": {"default": current_actor, "callback": _actor},
}
"""What a person does not type: a reason is asked for on a terminal, and who acts is known."""
