"""A stage whose work is done in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stageflow_durable.errors import ConfigurationError, Retryable
from stageflow_durable.model.callables import shown, uncallable
from stageflow_durable.model.context import StageContext
from stageflow_durable.model.stage import StageKind
from stageflow_durable.sandbox.policy import SandboxPolicy
from stageflow_durable.sandbox.program import program_of
from stageflow_durable.sandbox.running import run


class SandboxStage:
    """A command, or a function by its name, run in a sandbox as a stage: ``Pipeline.stage("render", SandboxStage(…))``.

    ``what``: a list of texts, the program first; or a function of a module, which gets the input as JSON has it and
    returns what JSON can hold. ``input``: a function of the context that says what stdin gets, the run's input unless
    given; ``files``: one that says which files are in the work directory, content by name.

    The stage's output is ``{"exit_code", "stdout", "stderr", "files", "usage", "backend", "value"}``. An exit code
    other than 0 and a limit that was reached fail it for good; where nothing isolates as the policy asks, nothing is
    run and the run is parked. A run that is cancelled, a timeout and the end of the worker end the sandbox. It is run
    again when its worker was lost, with the same ``STAGEFLOW_IDEMPOTENCY_KEY``. Raises ConfigurationError for what
    cannot be run.
    """

    kind = StageKind.WORK

    def __init__(
        self,
        what: Sequence[str] | Callable[[Any], Any],
        policy: SandboxPolicy | None = None,
        *,
        name: str | None = None,
        input: Callable[[StageContext[Any]], Any] | None = None,
        files: Callable[[StageContext[Any]], Mapping[str, bytes | str]] | None = None,
    ) -> None:
        if policy is not None and not isinstance(policy, SandboxPolicy):
            raise ConfigurationError(f"SandboxStage: {shown(policy)} is no SandboxPolicy")
        for option, given in (("input", input), ("files", files)):
            mistake = None if given is None else uncallable(given)
            if mistake is not None:
                raise ConfigurationError(f"SandboxStage {option}: {mistake}")
        self.name = name or _name(what)
        self.policy = policy or SandboxPolicy()
        self._what = what
        if not callable(what):
            program_of(what)  # what is wrong with it is told where it is defined; a module may still be loading
        self._input, self._files = input, files

    def execute(self, ctx: StageContext[Any]) -> dict[str, Any]:
        """Run it and wait; see the class."""
        given = ctx.input if self._input is None else self._input(ctx)
        files = None if self._files is None else self._files(ctx)

        def look() -> None:
            with suppress(Retryable):  # a database that is away ends no tool; whose work it is, the lease decides
                ctx.raise_if_cancelled()

        found = run(self._what, self.policy, input=given, files=files, idempotency_key=ctx.idempotency_key, look=look)
        return found.as_output()


def _name(what: Sequence[str] | Callable[[Any], Any]) -> str:
    if callable(what):
        return shown(what)
    return str(what[0]).rpartition("/")[2] if what and not isinstance(what, str) else "sandbox"
