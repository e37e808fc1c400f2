"""Links to approvals: one lets one person look at what is asked at a stage, and decide about it once, until it expires.

A link's token names the run, holds a secret and is signed. Having it proves who somebody is, so the database has its
hash alone: whoever reads the database cannot decide by it, and a forged one is refused before the database is asked.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from stageflow_durable.clock import as_moment
from stageflow_durable.duration import seconds_of
from stageflow_durable.engine.actors import Actor
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.engine.public_urls import PublicUrls
from stageflow_durable.engine.twins import in_thread
from stageflow_durable.errors import InvalidInput, InvalidKey, LinkRefused, UnknownRun
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.model.keys import is_run_id
from stageflow_durable.model.run import OpenedApproval, RunSummary
from stageflow_durable.settings import Settings, Urls, listed
from stageflow_durable.transitions.approval import DECISIONS, NewLink, still_for, usable
from stageflow_durable.transitions.rows import LinkRow

if TYPE_CHECKING:
    from stageflow_durable.engine.actors import Credential

PATH = "approvals"
"""The part of a link between the address of the application and the token."""

VERB = "approval-link"
"""What ``Engine(authorize=)`` is asked about whoever makes a link."""

_SECRET_BYTES = 16
_TOKEN = re.compile(r"(?P<said>(?P<run>[0-9A-Z]{26})\.[0-9a-f]{32})\.(?P<signature>[0-9a-f]{32})", re.ASCII)


class LinkUrls:
    """Makes links, and reads them. ``older``: audit keys of before, whose links are still taken."""

    def __init__(self, public_url: str | None, audit_key: str | None, older: Sequence[str] = ()) -> None:
        self._urls = PublicUrls(PATH, b"approval links 1", public_url, audit_key, older)

    def make(self, run_id: str) -> tuple[str, str]:
        """A new link, and the hash of its token. Raises ConfigurationError."""
        secret = secrets.token_hex(_SECRET_BYTES)
        url = self._urls.url("approval_link()", (run_id, secret), signed=f"{run_id}.{secret}")
        return url, _hash(url.rpartition("/")[2])

    def read(self, token: str) -> tuple[str, str]:
        """The run that a token was made for, and the token's hash. Raises LinkRefused for one not made here."""
        given: object = token  # an application may hand on what its framework gives it
        found = _TOKEN.fullmatch(given) if isinstance(given, str) else None
        if found is None or not is_run_id(found["run"]) or not self._urls.accepts(found["signature"], found["said"]):
            raise LinkRefused("", "", "forged", "this link was not made here")
        return found["run"], _hash(token)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class LinkOperations(OperatorVerbs):
    """What an engine does for links to approvals. A subclass brings its parts."""

    if TYPE_CHECKING:

        @cached_property
        def settings(self) -> Settings: ...  # noqa: D102  # as Engine has it

        @cached_property
        def urls(self) -> Urls: ...  # noqa: D102  # as Engine has it

    @cached_property
    def _link_urls(self) -> LinkUrls:
        return LinkUrls(self.settings.public_url, self.urls.audit_key, listed(self.settings.old_audit_keys))

    def approval_link(
        self,
        run_id: str,
        stage: str,
        *,
        to: str,
        expires: timedelta | float = timedelta(days=7),
        reason: str = "sent by the application",
        actor: str | Credential | Actor = "application",
    ) -> str:
        """A link by which ``to`` may look at what ``stage`` of a run asks for, and approve or deny it once. It may be
        made before the run comes there. ``expires``: after that time it is refused, a timedelta or seconds.

        Whoever has the link is taken for ``to``, as an authenticated actor: send it to nobody else. Only its hash is
        stored. Raises UnknownRun, InvalidInput, InvalidKey; NotAllowed where ``to`` may not approve there, where
        ``actor`` asked for the run that ``to`` is to approve, or where the run has no such approval ahead;
        ConfigurationError without ``public_url`` or an audit key.
        """
        valid_key(stage, "stage")
        valid_key(to, "to")
        if to != to.strip():
            raise InvalidKey("to has blanks around it; leave them out")
        try:
            seconds = seconds_of(expires, above=True)
        except ValueError as error:
            raise InvalidInput(VERB, [f"expires: {error}"]) from None
        order = self._order(VERB, run_id, reason, actor)
        url, token = self._link_urls.make(order.run_id)
        self.store.make_link(order, NewLink(token, stage, to, seconds))
        return url

    aapproval_link = in_thread(approval_link)

    def open_approval_link(self, token: str) -> OpenedApproval:
        """What whoever opens a link sees; it changes nothing. ``token``: what stands behind the last slash.

        Raises LinkRefused, StoreUnavailable, SchemaBehind.
        """
        run_id, link = self._usable(token)
        try:
            plan = self.store.plan(run_id)
            known = self.pipelines.get(plan.pipeline)
            still_for(run_id, link, plan, None if known is None else known.plan)
            run = self.store.run(run_id, {})
        except UnknownRun:
            raise _gone(run_id, link) from None
        expires = as_moment(link.expires_at)
        return OpenedApproval(run.run_id, run.pipeline, run.stage(link.stage), link.actor, expires, run.status)

    aopen_approval_link = in_thread(open_approval_link)

    def decide_by_link(
        self, token: str, decision: Literal["approve", "deny"], *, digest: str, reason: str
    ) -> RunSummary:
        """Decide as the person whom a link was made for; ``decision``: ``approve`` or ``deny``. ``digest``: of what
        they looked at. ``Engine(authorize=)`` is asked about them.

        After StoreUnavailable it is not known whether it was recorded: a link that was used says so. Raises
        LinkRefused, InvalidInput; NotAllowed where nothing is asked, something else is asked by now, somebody
        has decided already, its deadline has passed, or they may not; StoreUnavailable, SchemaBehind.
        """
        given: object = decision
        if not isinstance(given, str) or given not in DECISIONS:
            raise InvalidInput("link", [f"decision: {' or '.join(DECISIONS)}"])
        run_id, link = self._usable(token)
        by = Actor(link.actor, authenticated=True)
        try:
            return self._decide(decision, run_id, link.stage, reason, by, digest=digest, token=link.token)
        except UnknownRun:
            raise _gone(run_id, link) from None

    adecide_by_link = in_thread(decide_by_link)

    def _usable(self, token: str) -> tuple[str, LinkRow]:
        run_id, hashed = self._link_urls.read(token)
        return run_id, usable(run_id, self.store.link(run_id, hashed), self.store.clock())


def _gone(run_id: str, link: LinkRow) -> LinkRefused:
    return LinkRefused(run_id, link.stage, "gone", "its run was deleted")
