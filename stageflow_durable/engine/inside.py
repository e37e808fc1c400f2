"""The context in which an attempt's code runs: its own, so that what one run sets no other sees.

Everything that the application wrote for an attempt runs in it: validators, the function of the business key,
interceptors, the body, cleanups. It begins as a copy of what is set where the worker runs, and goes with the attempt.
"""

from __future__ import annotations

import decimal
from contextvars import Context, ContextVar, copy_context

from stageflow_durable.store.session import Place, place_of_session

_run: ContextVar[str | None] = ContextVar("stageflow_run", default=None)


def own_context(run_id: str, place: Place | None = None) -> Context:
    """A context for one attempt of that run; ``place``: where its session is to be found."""
    context = copy_context()
    context.run(_enter, run_id, place)
    return context


def _enter(run_id: str, place: Place | None) -> None:
    _run.set(run_id)
    place_of_session.set(place)
    decimal.setcontext(decimal.getcontext().copy())  # its value is changed in place: a copy of the variable shares it


def run_inside() -> str | None:
    """The run whose code calls this; None: no run's. Threads that ``asyncio.to_thread`` starts are inside too."""
    return _run.get()
