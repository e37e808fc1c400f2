"""Running something in a sandbox and judging how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stageflow_durable.codec import plain
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.sandbox.backends import Order, chosen
from stageflow_durable.sandbox.errors import LimitExceeded, ToolFailed
from stageflow_durable.sandbox.policy import SandboxPolicy, check_file_name
from stageflow_durable.sandbox.program import Program, program_of
from stageflow_durable.sandbox.result import SandboxResult, read_result

MOST_INPUT = 64 << 20
SAID = 300
KEY_VARIABLE = "STAGEFLOW_IDEMPOTENCY_KEY"


def run(
    what: Sequence[str] | Callable[[Any], Any],
    policy: SandboxPolicy,
    *,
    input: Any = None,
    files: Mapping[str, bytes | str] | None = None,
    idempotency_key: str | None = None,
    look: Callable[[], None] = lambda: None,
) -> SandboxResult:
    """Run a command, or a function by its name, in a sandbox; wait for its end.

    ``input``: what it reads from stdin as JSON, a function gets as its argument. ``files``: content by name, put into
    its work directory. ``look`` is called now and then, and ends the sandbox by raising. Raises
    :class:`SandboxUnavailable` if nothing here isolates as ``policy`` asks, :class:`LimitExceeded`,
    :class:`ToolFailed` for an exit code other than 0; ConfigurationError for what cannot be run at all.
    """
    program = program_of(what)
    given = _files(files or {}, policy)
    stdin = json.dumps(plain(input, "input")).encode()
    if len(stdin) + sum(map(len, given.values())) > MOST_INPUT:
        raise ConfigurationError(f"input and files of a sandbox are more than {MOST_INPUT >> 20} MiB together")
    backend = chosen(policy)
    secrets = _resolved(policy)
    variables = secrets if idempotency_key is None else {**secrets, KEY_VARIABLE: idempotency_key}
    answer = backend.run(Order(program, policy, stdin, given, variables), look)
    return _judged(read_result(answer, backend.name, secrets), policy, program)


def _files(files: Mapping[str, bytes | str], policy: SandboxPolicy) -> dict[str, bytes]:
    for name in files:
        check_file_name(name, "files")
    given = {name: data.encode() if isinstance(data, str) else bytes(data) for name, data in files.items()}
    if sum(map(len, given.values())) > policy.limits.disk or len(given) > policy.limits.disk_files:
        raise ConfigurationError("files of a sandbox are more than its work directory may hold; raise disk, disk_files")
    return given


def _resolved(policy: SandboxPolicy) -> dict[str, str]:
    found: dict[str, Any] = {
        name: value if isinstance(value, str) else value() for name, value in policy.secrets.items()
    }
    for name, value in found.items():
        if not isinstance(value, str) or not value or "\0" in value:
            raise ConfigurationError(f"SandboxPolicy secrets: {name} has no text")
    return found


def _judged(result: SandboxResult, policy: SandboxPolicy, program: Program) -> SandboxResult:
    name = program.name
    if result.limit is not None:
        reached = getattr(policy.limits, result.limit)
        said = f"{name} was ended at its limit of {result.limit}, {reached:,} ({_used(result)}); raise it in the policy"
        raise LimitExceeded(f"{said}, or have it do less", result, limit=result.limit)
    if result.exit_code != 0:
        last = result.stderr.strip()[-SAID:]
        raise ToolFailed(
            f"{name} ended with exit code {result.exit_code}: {last or 'it wrote nothing to stderr'}", result
        )
    return result


def _used(result: SandboxResult) -> str:
    usage = result.usage
    return f"{usage['wall_seconds']:g} s, {usage['cpu_seconds']:g} s of CPU, {usage['memory_bytes']:,} bytes of memory"
