"""What became of many lines: counted as they are recorded, told as they are printed, which may fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stageflow_durable.cli.failures import one_line
from stageflow_durable.cli.output import print_json_line, print_line, say
from stageflow_durable.cli.words import counted
from stageflow_durable.errors import ResultTimeout, RunError

if TYPE_CHECKING:
    from stageflow_durable.cli.lines import Line
    from stageflow_durable.cli.ports import Handle

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """How the caller wants it. ``timeout``: seconds to wait for a result; None: for ever."""

    wait: bool
    timeout: float | None
    as_json: bool
    key_field: str | None
    from_line: int


def result_of(handle: Handle, wish: Wish) -> tuple[Any, str | None]:
    """The run's result, waited for as long as is wished, or why there is none."""
    try:
        return handle.result(timeout=wish.timeout, for_people=True), None
    except ResultTimeout:
        return None, f"run {handle.run_id} did not end in time, it goes on; stageflow show {handle.run_id} --watch"
    except RunError as error:
        return None, one_line(str(error))


def document(handle: Handle) -> dict[str, Any]:
    """The run as JSON that answers its caller."""
    return {"run_id": handle.run_id, "replayed": handle.replayed}


class Tally:
    """Counts what became of the lines, and tells each refusal as it happens. ``last``: the last line that is recorded
    or was refused; ``complete``: whether that is the last of all.
    """

    def __init__(self, name: str, wish: Wish) -> None:
        self.handles: list[tuple[int, Handle]] = []
        self.refused = self.replayed = self.accepted = self.failed = 0
        self.last = wish.from_line - 1
        self.complete = False
        self._name, self._wish = name, wish

    def take(self, lines: Sequence[Line], tell: Tell) -> None:
        """A batch was recorded. All of it counts before any of it is printed: printing may fail half-way."""
        for line in lines:
            self._count(line)
        for line in lines:
            self._tell(line, tell)

    def _count(self, line: Line) -> None:
        self.last = line.number
        if line.handle is None:
            self.refused += 1
            return
        self.accepted += 1
        self.replayed += line.handle.replayed
        if self._wish.wait:
            self.handles.append((line.number, line.handle))

    def _tell(self, line: Line, tell: Tell) -> None:
        if line.handle is None:
            self._line(line.number, {"error": line.error}, f"refused: {one_line(line.error or '')}", tell)
        elif not self._wish.wait:
            self._line(line.number, document(line.handle), "", tell)

    def end(self, number: int, handle: Handle, tell: Tell) -> None:
        """One run was waited for."""
        result, error = result_of(handle, self._wish)
        self.failed += error is not None
        told = {**document(handle), "status": handle.status(), "result": result, "error": error}
        self._line(number, told, error or "", tell)

    def _line(self, number: int, told: dict[str, Any], trouble: str, tell: Tell) -> None:
        if trouble:
            tell(f"{self._name}:{number}: {trouble}")
        if self._wish.as_json:
            print_json_line({"line": number, **told})

    def interrupted(self, *, torn: bool) -> str:
        """Where it stood when it was interrupted, and how to go on."""
        if self.complete:
            return "no longer waiting; the runs go on: stageflow runs" if self._wish.wait else "every line is recorded"
        further = "some after it may be recorded too; " if torn else ""
        return f"interrupted after line {self.last}; {further}go on with --from-line {self.last + 1}"

    def conclude(self, *, printed: bool = True) -> None:
        """Say the sums; on stdout where a person reads it, unless that is lost."""
        parts = [f"{counted(self.accepted, 'line')} accepted"]
        parts += [f"{self.replayed} of them had been before"] if self.replayed else []
        parts += [f"{self.failed} did not succeed"] if self.failed else []
        parts += [f"{self.refused} refused"] if self.refused else []
        say(", ".join(parts)) if self._wish.as_json or not printed else print_line(", ".join(parts))
