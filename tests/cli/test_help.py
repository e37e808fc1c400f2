"""The tree of commands: its help, how it loads, how it fails."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from stageflow_durable.cli import celery_group
from stageflow_durable.cli.failures import plainly
from stageflow_durable.cli.root import COMMANDS
from tests.cli.conftest import Invoke

HEAVY = ("sqlalchemy", "celery", "kombu", "pydantic", "redis", "rich", "alembic")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_the_short_help_that_the_list_shows(name: str, invoke: Invoke) -> None:
    command = celery_group.get_command(click.Context(celery_group), name)
    assert command is not None
    assert command.short_help == COMMANDS[name][1]
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: stageflow {name}")


def test_the_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom stageflow_durable.cli import main\nsys.argv = ['stageflow', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_without_a_command_the_help_is_shown_as_wrong_usage(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: stageflow" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rsume"], "no command 'rsume'; did you mean resume? (see: stageflow --help)"),
        (["frobnicate"], "no command 'frobnicate' (see: stageflow --help)"),
        (["--bogus"], "--bogus"),
        (["show"], "missing argument 'RUN' (see: stageflow show --help)"),
        (["db", "downgrade"], "downgrade"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_2(invoke: Invoke, arguments: list[str], says: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("stageflow: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_version_is_told(invoke: Invoke) -> None:
    assert invoke("--version").stdout.startswith("stageflow ")


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    @click.group(cls=type(celery_group))
    def tree() -> None: ...

    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    def pick(ctx: click.Context, cmd_name: str) -> click.Command | None:
        return interrupted

    tree.get_command = pick  # type: ignore[method-assign]  # one command is enough
    result = CliRunner().invoke(tree, ["show"])
    assert (result.exit_code, result.output) == (130, "\n")


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), plainly():
        _ = 1 / 0


@pytest.mark.parametrize("where", ["before", "after"])
def test_the_application_may_be_named_before_or_after_the_command(where: str) -> None:
    named, command = ["--app", "no_such_module:engine"], ["enqueue", "p", "--input", "{}"]
    arguments = [*named, *command] if where == "before" else [*command, *named]
    result = CliRunner().invoke(celery_group, arguments, prog_name="stageflow")
    assert result.exit_code == 2
    assert "no module 'no_such_module'" in result.stderr


def test_a_terminal_without_utf8_gets_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stageflow_durable.cli", "…"],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"stageflow: no command")
    assert done.stderr.count(b"\n") == 1
