"""URLs below the address at which others reach this application. What one says is signed with a key that is derived
from the audit key, so that a forged one is refused before the database is asked.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings.derived import derived, signature


class PublicUrls:
    """Makes the URLs of one kind. ``purpose``: of its key, so that no signature of another kind passes for one of
    these. ``older``: audit keys of before, whose URLs are still taken.
    """

    def __init__(
        self, path: str, purpose: bytes, public_url: str | None, audit_key: str | None, older: Sequence[str] = ()
    ) -> None:
        self._path = path
        self._public_url = public_url
        self._keys = [derived(key, purpose) for key in (audit_key, *older) if key]
        self._signs = bool(audit_key)

    def url(self, what: str, said: tuple[str, ...], *, signed: str) -> str:
        """The URL whose token is ``said`` and the signature of ``signed``. ``what``: the call that needs it, for the
        error. Raises ConfigurationError.
        """
        if self._public_url is None:
            raise ConfigurationError(
                f"{what} needs the address at which the URLs of this engine are served: set STAGEFLOW_PUBLIC_URL, or "
                "Engine(public_url=…), e.g. https://shop.example.com/stageflow"
            )
        if not self._signs:
            raise ConfigurationError(
                f"{what} needs the audit key, which its URLs are signed with: set STAGEFLOW_AUDIT_KEY, the same for "
                "all processes"
            )
        return f"{self._public_url}/{self._path}/{'.'.join((*said, signature(self._keys[0], signed)))}"

    def accepts(self, given: str, signed: str) -> bool:
        """Whether the signature that was given was made here, of this text."""
        # All are computed, so that the time taken does not tell which key fits.
        fits = [hmac.compare_digest(signature(key, signed), given) for key in self._keys]
        return any(fits)
