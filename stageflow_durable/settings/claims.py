"""The broker's URL as redis-py takes it: kombu has words of its own for the same server."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

_KOMBUS = frozenset({"connect_timeout", "heartbeat", "login_method", "insist"})
"""Options that kombu takes for its own connection."""


def for_redis_py(url: str) -> str:
    """``url`` (``redis://``, ``rediss://``, ``redis+socket://``, ``unix://``) in redis-py's words.

    Certificates are required, or not, in its spelling (``CERT_NONE`` is ``none``); a socket is a ``unix://`` whose
    database is ``db=``; options of kombu's alone are left out.
    """
    place, _mark, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if place.startswith("redis+socket://"):
        place = "unix://" + place.removeprefix("redis+socket://")
        options["db"] = options.pop("virtual_host", options.get("db", "0")).strip("/") or "0"
    if place.startswith("redis://") and any(name.startswith("ssl_") for name in options):
        place = "rediss://" + place.removeprefix("redis://")  # kombu speaks TLS where an option is of it
    if "ssl_cert_reqs" in options:
        options["ssl_cert_reqs"] = options["ssl_cert_reqs"].removeprefix("CERT_").lower()
    kept = {name: value for name, value in options.items() if name not in _KOMBUS}
    return place + (f"?{urlencode(kept)}" if kept else "")


def claims_by(broker: str | None) -> str | None:
    """Where claims are kept when nothing else is said: the broker, if it is one server that speaks Redis."""
    # A failover list, a sentinel and a provider of credentials are kombu's to read, not redis-py's.
    speaks_redis = broker is not None and broker.startswith(("redis://", "rediss://", "redis+socket://"))
    alone = broker is not None and ";" not in broker and "credential_provider=" not in broker
    return broker if speaks_redis and alone else None
