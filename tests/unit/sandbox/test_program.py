"""What goes into a sandbox: a command, or a function by its name with its own package; nothing else of the project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.sandbox.program import Program, mounted, program_of, reference
from tests.unit.sandbox import tools


@pytest.mark.parametrize("given", ["ls -l", [], [""], ["ls", 1], ["l\0s"], None, 7], ids=repr)
def test_a_command_is_a_list_of_texts_and_no_line_for_a_shell(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="no line for a shell"):
        program_of(given)


def test_a_function_goes_by_its_name() -> None:
    assert reference(tools.double) == ("tests.unit.sandbox.tools", "double")
    assert reference(tools.Tools.triple) == ("tests.unit.sandbox.tools", "Tools.triple")


def _local() -> Any:
    def inner(given: Any) -> Any:
        return given

    return inner


@pytest.mark.parametrize("given", [lambda given: given, _local(), tools.Tools()], ids=["lambda", "local", "object"])
def test_what_cannot_be_found_again_by_its_name_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="goes into a sandbox by its name"):
        reference(given)


def test_a_function_that_is_replaced_under_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tools.double
    monkeypatch.setattr(tools, "double", lambda given: given)
    with pytest.raises(ConfigurationError, match="cannot be found again"):
        reference(original)


def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with secrets beside and inside of the package."""
    package = tmp_path / "ownpackage"
    (package / ".git").mkdir(parents=True)
    (package / "inner").mkdir()
    for path in (".env", "ownpackage/.env", "ownpackage/.git/config", "ownpackage/inner/.netrc", "other.py"):
        (tmp_path / path).write_text("secret")
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("def tool(given): return given\n")
    (tmp_path / "ownmodule.py").write_text("def tool(given): return given\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_of_the_project_the_functions_own_package_is_mounted_without_hidden_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, monkeypatch)
    from ownpackage.inner import tool  # type: ignore[import-not-found]  # made above

    paths = program_of(tool).paths
    assert [one for one in paths if str(root) in one[1]] == [("bind", str(root / "ownpackage"), "/code/ownpackage")]
    assert {one for one in paths if one[0] == "hide"} == {
        ("hide", "empty", "/code/ownpackage/.env"),
        ("hide", "nothing", "/code/ownpackage/.git"),
        ("hide", "empty", "/code/ownpackage/inner/.netrc"),
    }
    del sys.modules["ownpackage"], sys.modules["ownpackage.inner"]


def test_of_a_module_its_file_alone_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path, monkeypatch)
    from ownmodule import tool  # type: ignore[import-not-found]  # made above

    paths = program_of(tool).paths
    assert [one for one in paths if str(root) in one[1]] == [("bind", str(root / "ownmodule.py"), "/code/ownmodule.py")]
    del sys.modules["ownmodule"]


def test_no_code_of_the_environment_runs_before_the_function() -> None:
    words = program_of(tools.double).words
    assert words[1:4] == ("-I", "-S", "-B")


def test_parents_are_mounted_first_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    paths = [str(tmp_path / name) for name in ("usr/lib", "lib", "usr", "missing")]
    assert mounted(paths, Program(("x",))) == [
        ("link", "usr/lib", str(tmp_path / "lib")),
        ("bind", str(tmp_path / "usr"), str(tmp_path / "usr")),
    ]
