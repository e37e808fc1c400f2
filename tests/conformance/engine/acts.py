"""Pipelines whose stages do what a script says, and note that they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stageflow_durable import PermanentError, Pipeline
from stageflow_durable.testing import Crash

DIES = Crash
"""As an answer: the process dies in the body."""

FAILS = PermanentError
"""As an answer: the stage fails for good, and may have acted."""


@dataclass
class Acts:
    """``log`` is what ran, in order: ``"a"`` for the stage, ``"undo a ok"`` for its undo with the outcome it was told.

    ``script`` holds answers by name (``"a"``, ``"undo a"``), the first for the first call: a value is returned, an
    exception raised, a function called with the context. Without one a stage returns its name, an undo None.
    """

    log: list[str] = field(default_factory=list)
    script: dict[str, list[Any]] = field(default_factory=dict)
    contexts: list[Any] = field(default_factory=list)

    def play(self, name: str, *answers: Any) -> None:
        """What ``name`` does at its next calls."""
        self.script.setdefault(name, []).extend(answers)

    def stage(self, ctx: Any) -> Any:
        """The body of every stage."""
        self.log.append(ctx.stage)
        return self._answer(ctx.stage, ctx, ctx.stage)

    def undo(self, ctx: Any) -> Any:
        """The undo of every stage."""
        self.log.append(f"undo {ctx.stage} {ctx.outcome}")
        return self._answer(f"undo {ctx.stage}", ctx, None)

    def _answer(self, name: str, ctx: Any, otherwise: Any) -> Any:
        self.contexts.append(ctx)
        answers = self.script.get(name, [])
        answer = answers.pop(0) if answers else otherwise
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        return answer(ctx) if callable(answer) else answer

    def line(
        self, names: str, *, name: str = "line", options: Mapping[str, Any] | None = None, **of: Mapping[str, Any]
    ) -> Pipeline[Any, Any]:
        """Stages one after another, each with an undo.

        ``of``: options of single stages, ``options``: of the pipeline.
        """
        pipeline = Pipeline[Any, Any](name, **(options or {}))
        for stage in names.split():
            pipeline = pipeline.stage(stage, self.stage, **{"compensate": self.undo, **of.get(stage, {})})
        return pipeline

    def graph(self, name: str = "graph", /, **after: str) -> Pipeline[Any, Any]:
        """Stages with an undo each, which wait for others: ``graph(a="", b="a", c="a", d="b c")``."""
        pipeline = Pipeline[Any, Any](name)
        for stage, names in after.items():
            pipeline = pipeline.stage(stage, self.stage, compensate=self.undo, after=tuple(names.split()))
        return pipeline


DIAMOND = {"a": "", "left": "a", "right": "a", "join": "left right", "z": "join"}
"""One branch and its join."""
