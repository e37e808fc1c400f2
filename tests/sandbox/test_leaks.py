"""What experiments found to leak, each by name: environments, descriptors, terminals, system calls, results, code."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable.sandbox import LimitExceeded, SandboxPolicy, ToolFailed, run
from stageflow_durable.sandbox.backends import Backend
from stageflow_durable.sandbox.calls import MACHINES, NUMBERS, ONLY_ON_X86
from tests.sandbox.outside import PYTHON, Outside
from tests.sandbox.test_escapes import policy

COLUMN = MACHINES[os.uname().machine].column
HERE = Path(__file__).parents[2]


def inside(backend: Backend, place: Outside, *words: str) -> str:
    return run([place.compiled(), *words], policy(backend, place)).stdout


def beside(place: Outside, *words: str) -> str:
    said = subprocess.run(
        [place.compiled(), *words], capture_output=True, text=True, check=True, start_new_session=True
    )
    return said.stdout


# --- system calls -----------------------------------------------------------------------------------------------------

CALLS = {name: numbers[COLUMN] for name, numbers in NUMBERS.items()} | (ONLY_ON_X86 if COLUMN == 0 else {})
ARGUMENTS = {"shmget": "1", "semget": "1", "msgget": "1"}
"""Those to which -1 means to make something."""

HARMFUL = {"vhangup"}
"""Those that have an effect without arguments: not called outside."""


def test_each_call_of_the_filter_is_refused_inside_and_known_outside(backend: Backend, place: Outside) -> None:
    words = [f"{number}:{ARGUMENTS.get(name, '-1')}" for name, number in CALLS.items()]
    refused = dict(zip(CALLS, inside(backend, place, "calls", *words).splitlines(), strict=True))
    assert [name for name, said in refused.items() if not said.startswith("STOPPED Operation not permitted")] == []
    harmless = [word for name, word in zip(CALLS, words, strict=True) if name not in HARMFUL]
    known = [said for said in beside(place, "calls", *harmless).splitlines() if said.startswith("DONE")]
    assert len(known) > 40, "a kernel that knows none of them refuses them without a filter"


@pytest.mark.parametrize("what", ["x32", "i386", "clone3"])
def test_other_doors_to_the_kernel_are_closed(backend: Backend, place: Outside, what: str) -> None:
    command = ["/bin/sh", "-c", f"{place.compiled()} {what} || echo STOPPED"]  # it may be killed for it
    assert run(command, policy(backend, place)).stdout.splitlines()[-1].startswith("STOPPED")
    if what != "x32":  # few kernels have it
        assert beside(place, what).startswith("DONE")


def test_only_sockets_that_a_namespace_holds_can_be_made(backend: Backend, place: Outside) -> None:
    said = inside(backend, place, "sockets").splitlines()
    made = [family for family, line in enumerate(said, 1) if line.startswith("DONE")]
    assert made == ([2, 10] if backend.name == "bubblewrap" else [])
    assert {1, 16} <= {family for family, line in enumerate(beside(place, "sockets").splitlines(), 1) if "DONE" in line}


# --- terminals and descriptors ----------------------------------------------------------------------------------------

TYPING = """
import os, sys
sys.path.insert(0, {root!r})
from tests.sandbox.outside import outside
from tests.sandbox.test_escapes import policy
from stageflow_durable.sandbox import run
from stageflow_durable.sandbox.backends import BACKENDS
backend = next(one for one in BACKENDS if one.name == {backend!r})
with outside() as place:
    print(run([place.compiled(), "type", "hostile"], policy(backend, place)).stdout)
    print(run([{python!r}, place.hostile, "open_terminal"], policy(backend, place)).stdout)
"""


def on_a_terminal(command: list[str]) -> str:
    """What a command says whose terminal is a new one; what is typed on that shows as well."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    said = b""
    try:
        while data := os.read(terminal, 4096):
            said += data
    except OSError:  # its end, on Linux
        pass
    os.waitpid(child, 0)
    os.close(terminal)
    return said.decode()


def test_nothing_is_typed_on_the_terminal_of_whoever_started_it(backend: Backend, place: Outside) -> None:
    program = TYPING.format(root=str(HERE), backend=backend.name, python=PYTHON)
    said = on_a_terminal([sys.executable, "-c", program])
    assert said.count("STOPPED") == 2, said
    assert "hostile" not in said
    outside = on_a_terminal([place.compiled(), "type", "hostile"])
    assert "DONE" in outside or Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "0"


def test_descriptors_are_not_inherited(backend: Backend, place: Outside) -> None:
    opened = os.open(place.secret, os.O_RDONLY)
    os.set_inheritable(opened, True)
    try:
        command = [PYTHON, place.hostile, "inherited", place.marker]
        assert run(command, policy(backend, place)).stdout.startswith("STOPPED")
        assert subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True).stdout.startswith(
            "DONE"
        )
    finally:
        os.close(opened)


def test_of_descriptors_the_program_has_three(backend: Backend, place: Outside) -> None:
    said = run(["/bin/sh", "-c", "echo /proc/self/fd/*; echo $$"], policy(backend, place)).stdout
    names = [name.rpartition("/")[2] for name in said.splitlines()[0].split()]
    assert set(names) <= {"0", "1", "2", "3", "10", "*"}  # the shell's own beside


# --- the environment --------------------------------------------------------------------------------------------------

WORKER = """
import sys
sys.path.insert(0, {root!r})
from tests.sandbox.test_escapes import policy
from tests.sandbox.outside import outside
from stageflow_durable.sandbox import run
from stageflow_durable.sandbox.backends import BACKENDS
backend = next(one for one in BACKENDS if one.name == {backend!r})
with outside() as place:
    for name in ("search_processes", "read_environment"):
        print(run([{python!r}, place.hostile, name, {given!r} if name == "search_processes" else {marker!r}],
                  policy(backend, place)).stdout)
    print(run(["/bin/sh", "-c", "env"], policy(backend, place, environment={{"OWN": "x"}})).stdout)
"""


def test_the_workers_environment_is_nowhere(backend: Backend, place: Outside) -> None:
    marker = place.marker
    program = WORKER.format(
        root=str(HERE), backend=backend.name, python=PYTHON, given=marker[::-1], marker=marker[:-1] + "?"
    )
    environment = {**os.environ, "STAGEFLOW_DATABASE_URL": marker, "PYTHONPATH": "x", "LD_LIBRARY_PATH": "/nowhere"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.count("STOPPED") == 2, said.stdout
    assert marker not in said.stdout
    names = {line.partition("=")[0] for line in said.stdout.splitlines() if "=" in line}
    assert names <= {"PATH", "LANG", "HOME", "TMPDIR", "OWN", "PWD", "SHLVL", "_", "OLDPWD"}


def test_a_secret_reaches_the_program_and_no_record(backend: Backend, place: Outside) -> None:
    given = policy(backend, place, secrets={"API_KEY": lambda: place.marker})
    result = run(["/bin/sh", "-c", 'test ${#API_KEY} -gt 10 && echo "$API_KEY" && echo "$API_KEY" >&2'], given)
    assert (result.stdout, result.stderr) == ("***\n", "***\n")
    with pytest.raises(ToolFailed) as failed:
        run(["/bin/sh", "-c", 'echo "$API_KEY" >&2; exit 1'], given)
    assert place.marker not in str(failed.value)
    with pytest.raises(ToolFailed, match="holds the secret API_KEY"):
        run(["/bin/sh", "-c", 'echo "$API_KEY" > result.txt'], given)


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_link_that_is_swapped_all_the_time_never_leads_out(backend: Backend, place: Outside) -> None:
    swap = f"""
import os, time
if os.fork():
    time.sleep(0.3)
else:
    while True:
        for make in (lambda: os.symlink({str(place.secret)!r}, "new"), lambda: open("new", "w").close()):
            make(); os.rename("new", "result.txt")
"""
    for _ in range(5):
        result = run([PYTHON, "-c", swap], policy(backend, place))
        assert result.files in ({}, {"result.txt": b""})


def test_what_is_on_its_way_out_is_bounded_and_harmless(backend: Backend, place: Outside) -> None:
    said = run(["/usr/bin/printf", "\\033[2J\\xff\\000end"], policy(backend, place))
    assert said.stdout == "\x1b[2J\\xff\x00end"


def test_input_comes_as_json_and_may_be_left_unread(backend: Backend, place: Outside) -> None:
    big = {"text": "x" * 3_000_000}
    assert run(["/bin/true"], policy(backend, place), input=big).exit_code == 0
    counted = run(
        [PYTHON, "-c", "import json, sys; print(len(json.load(sys.stdin)['text']))"], policy(backend, place), input=big
    )
    assert counted.stdout == "3000000\n"


def test_named_files_go_in_and_come_out(backend: Backend, place: Outside) -> None:
    given = policy(backend, place, outputs=("out/sum.txt", "missing"))
    command = ["/bin/sh", "-c", "mkdir out && cat data/a.txt b.txt > out/sum.txt"]
    result = run(command, given, files={"data/a.txt": "one ", "b.txt": b"two"})
    assert result.files == {"out/sum.txt": b"one two"}


# --- functions --------------------------------------------------------------------------------------------------------

TOOL = """
import os, sys

def call(given):
    print("said aside")
    return {"twice": given * 2, "uid": os.getuid(), "code": sorted(os.listdir("/code"))}

async def wait(given):
    return given + 1

def crash(given):
    raise ValueError("no such order")

def hidden(given):
    return [os.path.exists(path) and open(path).read() for path in given]

def deep(given):
    os.write(3, b"[" * 100000)
    os._exit(0)

def odd(given):
    return {1, 2}
"""


@pytest.fixture
def tool(place: Outside, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = place.root / f"shop{place.marker[-6:]}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text(TOOL)
    (package / ".env").write_text(place.marker)
    (place.root / ".env").write_text(place.marker)
    monkeypatch.syspath_prepend(str(place.root))
    module = __import__(f"{package.name}.work")
    yield module.work
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


def test_a_function_runs_inside_with_its_own_package_alone(place: Outside, tool: Any) -> None:
    result = run(tool.call, SandboxPolicy(), input=21)
    assert result.value == {
        "twice": 42,
        "uid": 1000,
        "code": sorted([tool.__package__, "inside.py", "packages-0"]),
    }
    assert result.stdout == "said aside\n"
    assert run(tool.wait, SandboxPolicy(), input=1).value == 2
    paths = [f"/code/{tool.__package__}/.env", "/code/.env", str(place.root / ".env")]
    hidden = run(tool.hidden, SandboxPolicy(), input=paths)
    assert place.marker not in json.dumps(hidden.value)


def test_a_function_that_fails_says_how(tool: Any) -> None:
    with pytest.raises(ToolFailed, match="ValueError: no such order"):
        run(tool.crash, SandboxPolicy())
    with pytest.raises(ToolFailed, match="set is not JSON serializable"):
        run(tool.odd, SandboxPolicy())
    with pytest.raises(ToolFailed, match="levels deep"):
        run(tool.deep, SandboxPolicy())


def test_a_value_is_bounded(tool: Any, place: Outside) -> None:
    with pytest.raises(LimitExceeded):
        run(tool.call, SandboxPolicy(), input="x" * 2_000_000)
