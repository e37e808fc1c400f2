"""An engine on the one-machine mode, for as long as a block of code lasts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from stageflow_durable.model.pipeline import Pipeline


class EmbeddedEngines:
    """What the class of engines does for the one-machine mode."""

    if TYPE_CHECKING:

        def __init__(self, *_given: Any, **_keywords: Any) -> None: ...

        def close(self) -> None: ...  # noqa: D102  # as Engine has it

    @classmethod
    @contextmanager
    def embedded(
        cls,
        name: str,
        pipelines: Iterable[Pipeline[Any, Any]] | Pipeline[Any, Any] = (),
        *,
        home: str | Path = ".stageflow",
        **keywords: Any,
    ) -> Iterator[Self]:
        """A context manager: start (or attach to) the one-machine mode in ``home`` and give an engine on it."""
        from stageflow_durable.embedded import start
        from stageflow_durable.state.schema import upgrade

        with start(Path(home), upgrade=upgrade) as running:
            urls = running.urls
            engine = cls(
                name,
                pipelines,
                home=Path(home),
                database_url=urls.database_url,
                broker_url=urls.broker_url,
                redis_url=urls.redis_url,
                audit_key=urls.audit_key,
                **keywords,
            )
            try:
                yield engine
            finally:
                engine.close()
