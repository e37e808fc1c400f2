"""A verb is declared once, with its parameters; its command, its form for many runs and its twin follow from that."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

import click
import pytest
from click.testing import CliRunner

from stageflow_durable import Engine
from stageflow_durable.cli import celery_group
from stageflow_durable.cli.root import COMMANDS
from stageflow_durable.cli.verb_options import options_given, perform, takes_many, verb_parameters
from stageflow_durable.engine.operations import Operations
from stageflow_durable.engine.operator_verbs import UNSAID, Argument, OperatorVerbs, Option, bulk
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.verbs import VerbName
from tests.cli.conftest import Invoke
from tests.cli.fakes import FakeApplication
from tests.cli.test_help import HEAVY
from tests.cli.test_operate import running

VERBS = [
    member
    for name, member in vars(OperatorVerbs).items()
    if inspect.isfunction(member) and hasattr(OperatorVerbs, f"a{name}")
]
_NAMES = [verb.__name__ for verb in VERBS]
_NESTED = {"confirm_dead": "workers"}


def _command(verb: Callable[..., Any]) -> click.Command:
    name = verb.__name__.replace("_", "-")
    group = celery_group.get_command(click.Context(celery_group), _NESTED.get(verb.__name__, name))
    found = group.commands[name] if isinstance(group, click.Group) else group
    assert found is not None
    return found


def test_the_verbs_are_those_that_the_rules_know_the_answers_and_three_that_change_no_run_that_is_there() -> None:
    assert set(_NAMES) == {*VerbName, "signal", "approve", "deny", "fork", "reveal", "confirm_dead"}


@pytest.mark.parametrize("name", [name for verb in _NAMES for name in (verb, f"a{verb}")])
def test_an_engine_has_the_verbs_as_they_are_declared(name: str) -> None:
    assert getattr(Engine, name) is getattr(Operations, name) is getattr(OperatorVerbs, name)


@pytest.mark.parametrize("verb", VERBS, ids=_NAMES)
def test_a_command_takes_exactly_what_its_verb_declares(verb: Callable[..., Any]) -> None:
    command = _command(verb)
    taken = {parameter.name: parameter for parameter in command.params}
    for parameter in list(inspect.signature(verb).parameters.values())[1:]:
        if parameter.name in ("op_version", "session", "connection"):
            continue  # the command names the version that it has read, and has no transaction of a caller's
        of_type, declared = get_args(parameter.annotation)
        if isinstance(declared, Argument):
            found = taken.pop("run_ids" if takes_many(verb) and parameter.name == "run_id" else parameter.name)
            assert isinstance(found, click.Argument)
            continue
        found = taken.pop(parameter.name)
        assert isinstance(found, click.Option)
        assert (found.help, found.is_flag) == (declared.help, of_type is bool)
        assert found.is_flag or found.metavar == declared.metavar
    beside = {"as_json", "app"}
    if takes_many(verb):
        beside |= {"yes", "dry_run", "limit", "rate", "status", "pipeline", "client_id", "since", "attributes"} | {
            "park_reason",
            "until",
            "error",
        }
    assert set(taken) - {"retry_failed"} == beside, "retry_failed: a filter of the command's own"


@pytest.mark.parametrize("verb", [*VerbName, "signal", "approve", "deny", "fork", "reveal"])
def test_the_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\nfrom stageflow_durable.cli import main\n"
        f"sys.argv = ['stageflow', {str(verb)!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert verb in COMMANDS


class Doors:
    """A verb that does not exist, with a parameter of each kind."""

    @bulk
    def close(
        self,
        run_id: Annotated[str, Argument("RUN")],
        *,
        which: Annotated[str, Option("Which door.", "DOOR")],
        key: Annotated[str | None, Option("A key.", "KEY", name="--with")] = None,
        softly: Annotated[bool, Option("Without noise.")] = False,
        skip: Annotated[Sequence[str], Option("Not this one.", "DOOR")] = (),
        note: Annotated[Any, Option("A note.", "JSON", is_json=True)] = UNSAID,
        op_version: int | None = None,
    ) -> RunSummary:
        raise NotImplementedError  # its declaration is looked at, it is never called


def _closed(*arguments: str) -> tuple[dict[str, Any], str]:
    given_to_verb: dict[str, Any] = {}

    @click.command()
    @verb_parameters(Doors.close)
    def close(run_ids: Sequence[str], **given: Any) -> None:
        given_to_verb.update(options_given(Doors.close, given), run_ids=run_ids)

    done = CliRunner().invoke(close, arguments)
    return given_to_verb, done.output


def test_a_parameter_that_is_declared_has_its_option_without_a_line_in_the_command() -> None:
    line = ("01J9F2", "01J9F3", "--which", "front", "--with", "k", "--softly", "--skip", "a", "--skip", "b")
    assert _closed(*line, "--note", '{"n": null}')[0] == {
        "run_ids": ("01J9F2", "01J9F3"),
        "which": "front",
        "key": "k",
        "softly": True,
        "skip": ("a", "b"),
        "note": {"n": None},
    }


def test_what_is_not_said_is_left_to_the_verb_and_null_is_said() -> None:
    assert _closed("--which", "front")[0] == {"run_ids": (), "which": "front"}
    assert _closed("--which", "front", "--note", "null")[0]["note"] is None


def test_what_has_no_default_is_asked_for() -> None:
    given, said = _closed("01J9F2")
    assert given == {}
    assert "Missing option '--which'" in said


def test_the_help_says_what_is_declared() -> None:
    _given, said = _closed("--help")
    for line in ("[RUN]...", "--which DOOR", "Which door.", "--with KEY", "--softly", "--note JSON"):
        assert line in said
    assert "op-version" not in said


@pytest.mark.parametrize("verb", VERBS, ids=_NAMES)
def test_the_engine_of_these_tests_has_the_verbs_with_the_same_parameters(verb: Callable[..., Any]) -> None:
    of_fake = inspect.signature(getattr(FakeApplication, verb.__name__)).parameters
    given = [name for name in inspect.signature(verb).parameters if name not in ("session", "connection")]
    assert list(of_fake) == given, "but for a transaction of the caller's, which no command has"


def test_a_verb_is_called_by_its_declaration(engine: FakeApplication) -> None:
    engine.held = [running(1)]
    run_id = engine.held[0].run_id
    perform(engine, OperatorVerbs.cancel, run_id, reason="duplicate", actor="ann")
    assert [(call.verb, call.run_id) for call in engine.calls] == [("cancel", run_id)]


def test_past_the_pivot_a_run_is_cancelled_where_a_person_says_so(invoke: Invoke, engine: FakeApplication) -> None:
    engine.held = [running(1, pivot_passed=True)]
    refused = invoke("cancel", "01J9F2QZ7KXV", "--reason", "duplicate")
    assert refused.exit_code == 1
    assert "say --past-pivot" in refused.stderr
    assert invoke("cancel", "01J9F2QZ7KXV", "--past-pivot", "--reason", "duplicate").exit_code == 0
    assert engine.calls[0].given["past_pivot"] is True
