"""Signed messages: who reaches the broker, and has not the audit key, publishes nothing that a worker acts upon.

A signature stands behind the mark, where a release that knows none takes it for a part of the mark (ADR 0026).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from stageflow_durable.delivery.messages import Words
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.work import Nudge, address
from stageflow_durable.settings.derived import derived as derived_for
from stageflow_durable.settings.derived import signature as signature_of

_PURPOSE = b"message signing 1"


def derived(audit_key: str) -> bytes:
    """The key that messages are signed with."""
    return derived_for(audit_key, _PURPOSE)


class Signer:
    """Signs what is published, and judges what has come. ``mode``: ``off``, ``sign`` or ``require``. ``older``: audit
    keys of before, by which what has come may be signed as well.
    """

    def __init__(self, mode: str = "off", audit_key: str | None = None, older: Sequence[str] = ()) -> None:
        if mode != "off" and not audit_key:
            raise ConfigurationError(
                f"message_signing={mode} needs the audit key: set STAGEFLOW_AUDIT_KEY, the same for all processes"
            )
        self._required = mode == "require"
        self._key = derived(audit_key) if mode != "off" and audit_key else None
        self._accepted = [key for key in (self._key, *map(derived, older)) if key is not None]

    def mark(self, nudge: Nudge, link: int) -> str:
        """The mark of a link of a nudge's chain, as its message carries it."""
        plain = nudge.marked(link)
        if self._key is None:
            return plain
        mark, space, hinted = plain.partition(" ")
        signature = _signature(self._key, nudge.run_id, nudge.address, nudge.gen, mark, hinted, nudge.queue)
        return f"{mark}~{signature}{space}{hinted}"

    def refused(self, words: Words, queue: str) -> str | None:
        """Why a message is not to be acted upon; None: it is. ``queue``: where it was taken from."""
        if not self._required:
            return None  # what is not signed is accepted, so that what is wrongly signed can be sent without
        if not words.signature:
            return "it is not signed"
        said = words.run_id, address(words.strand, words.item), words.gen, words.mark, words.hinted, queue
        # Each is computed: which of them fits is told by no time.
        fitting = [hmac.compare_digest(_signature(key, *said), words.signature) for key in self._accepted]
        return None if any(fitting) else "its signature is not by this key, or not for this"


def _signature(key: bytes, run_id: str, strand: str, gen: int, mark: str, hinted: str, queue: str) -> str:
    # No run, mark, fence or strand holds a line break, so that nothing can be moved from one to another.
    said = f"{run_id}\n{gen}\n{mark}\n{strand}\n{len(queue)}\n{queue}\n{hinted}"
    return signature_of(key, said)


UNSIGNED = Signer()
"""Of an engine that signs nothing."""
