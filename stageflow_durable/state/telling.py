"""The store's part for those who await runs: who is to be told, and telling them after a commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from stageflow_durable.model.awaited import Listener, Told, listeners
from stageflow_durable.state import awaited
from stageflow_durable.state.awaited import AtRest, Stand
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.listening import Listening, listening
from stageflow_durable.state.owning import Owning
from stageflow_durable.transitions.change import Change

Announce: TypeAlias = Callable[[Sequence[Listener], Told], None]


class Telling(Owning):
    """Tells of changes, and answers those who ask by themselves. What is told may be lost."""

    _driver: Driver
    _announce: Announce | None = None

    def announce_by(self, announce: Announce) -> None:
        """Call ``announce`` after each commit that changed a run which somebody awaits: with whom to tell, and what."""
        self._announce = announce

    def after_commit(self, action: Callable[[], object]) -> bool:
        """Run ``action`` after the commit of the calling stage, if what it wrote here commits with it. Returns whether
        it will run.
        """
        raise NotImplementedError  # the store knows

    def _tell(self, run_id: str, awaited_by: str | None, ended: bool) -> None:
        waiting = listeners(awaited_by, ended=ended)
        announce = self._announce
        if announce is None or not waiting:
            return
        if not self.after_commit(lambda: announce(waiting, Told(run_id, ended))):
            announce(waiting, Told(run_id, ended))

    def _tell_of(self, change: object) -> None:
        """Tell of a change that was made under the lock, and is committed."""
        if isinstance(change, Change) and (awaited_by := change.facts.run.awaited_by) is not None and change.events:
            self._tell(change.facts.run.id, awaited_by, change.ended)

    def note_awaiting(self, run_ids: Sequence[str], entry: str) -> dict[str, int]:
        """Note whom to tell of these runs (see ``model/awaited``); returns the number of each that was noted: of the
        end, of those that are not at rest.
        """
        return awaited.note(self._driver, run_ids, entry)

    def stand(self, run_ids: Sequence[str]) -> dict[str, Stand]:
        """How these runs stand; those that are not there are left out."""
        return awaited.stand(self._driver, run_ids)

    def at_rest(self, run_ids: Sequence[str]) -> list[AtRest]:
        """Those of the runs that are at rest, with their outputs where those were read along."""
        found = awaited.at_rest(self._driver, run_ids)
        return [one._replace(saved=self.outputs(one.run.id)) for one in found] if len(found) == 1 else found

    def notify(self, token: str, text: str) -> None:
        """Tell a listener by way of the database (PostgreSQL)."""
        awaited.notify(self._driver, token, text)

    def listen(self, token: str) -> Listening | None:
        """A connection on which PostgreSQL tells; None where it cannot: SQLite, and behind a pooler."""
        return listening(self.database, token)
