"""A webhook as a sink: each event is a POST of JSON, signed."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from stageflow_durable.clock import SystemClock
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.sinks import TOLD, RunEvent
from stageflow_durable.settings.parsing import web_address
from stageflow_durable.sinks.checked import check_headers, check_kinds, check_name, check_timeout
from stageflow_durable.sinks.message import as_text
from stageflow_durable.sinks.signatures import key_of, signed

MOST_OF_AN_ANSWER = 65_536
"""Bytes that are read of an answer. What it says is not looked at, and not repeated anywhere."""


_QUERY = re.compile(r"[!-~]*")


class NotTaken(Exception):
    """The receiver did not take an event; the message says what it answered."""


def _name_of(host: str, target: str) -> str:
    return f"webhook:{host[:100]}:{hashlib.sha256(target.encode()).hexdigest()[:8]}"


class Webhook:
    """POSTs each event, and takes every answer from 200 to 299 for "taken".

    ``url``: http or https; what it says is the operator's decision, so that addresses of a private network are allowed.
    Those of the link alone (169.254.0.0/16, fe80::/10, with the metadata of clouds) are not, and redirections are not
    followed: neither the receiver nor its DNS sends us anywhere else. Proxies of the environment are not used.

    ``secret``: both sides know it; ``whsec_…`` or any text of at least 16 characters. ``timeout``: seconds for one
    delivery as a whole. ``headers``: more of them, as ``{"Authorization": "…"}``. ``name``: by default the URL's host
    and a digest of what follows it, which may be a secret.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str,
        name: str | None = None,
        kinds: Sequence[str] = TOLD,
        timeout: float = 10.0,
        headers: Mapping[str, str] | None = None,
        time: Callable[[], float] | None = None,
    ) -> None:
        """``time``: seconds since the epoch."""
        address, mark, query = str(url).partition("?")
        try:
            web_address(address)
        except ValueError as error:
            raise ConfigurationError(f"the URL of a webhook {error}") from None
        if not _QUERY.fullmatch(query):
            raise ConfigurationError("the URL of a webhook: behind its ? only printed ASCII, the rest as %20")
        parts = urlsplit(address)  # with the slash at its end: to many receivers it is another address
        self._key = key_of(secret)
        self._host, self._secure = str(parts.hostname), parts.scheme == "https"
        # Always said: else http.client looks for it behind the last colon, which an address of IPv6 has as well.
        self._port = parts.port or (443 if self._secure else 80)
        self._target = f"{parts.path or '/'}{mark}{query}"
        self.name = check_name(_name_of(self._host, self._target) if name is None else name)
        self.kinds = check_kinds(kinds)
        self._timeout, self._headers = check_timeout(timeout), check_headers(headers or {})
        self._time = time or SystemClock().time
        self._connection: _Connection | _SecureConnection | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"Webhook({self.name!r})"

    def deliver(self, event: RunEvent) -> None:
        """Send it. Raises NotTaken, or what the network raises."""
        body = as_text(event).encode()
        said = {"Content-Type": "application/json", "User-Agent": "stageflow", "Connection": "keep-alive"}
        status = self._posted(body, {**said, **self._headers, **signed(self._key, event.id, int(self._time()), body)})
        if not 200 <= status < 300:
            moved = ", which is not followed: give the address that it leads to" if 300 <= status < 400 else ""
            raise NotTaken(f"{self._host} answered {status}{moved}")

    def close(self) -> None:
        """Close the connection; the next event opens another."""
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close()
            self._connection = None

    def _posted(self, body: bytes, headers: Mapping[str, str]) -> int:
        if self._pid != os.getpid():  # what the parent has open is the parent's
            self._connection, self._pid = None, os.getpid()
        kept = self._connection is not None
        try:
            return self._post(body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not kept:
                raise
            return self._post(body, headers)  # the receiver had closed what was kept open: it read nothing of this

    def _post(self, body: bytes, headers: Mapping[str, str]) -> int:
        connection = self._connection or self._connect()
        self._connection = None
        with _closed_after(self._timeout, connection):
            connection.request("POST", self._target, body=body, headers=dict(headers))
            answer = connection.getresponse()
            whole = len(answer.read(MOST_OF_AN_ANSWER)) < MOST_OF_AN_ANSWER
        if whole and not answer.will_close:
            self._connection = connection
        else:
            connection.close()
        return answer.status

    def _connect(self) -> _Connection | _SecureConnection:
        if self._secure:
            return _SecureConnection(
                self._host, self._port, timeout=self._timeout, context=ssl.create_default_context()
            )
        return _Connection(self._host, self._port, timeout=self._timeout)


@contextmanager
def _closed_after(seconds: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    """Bound a delivery as a whole: one that sends a byte now and then would never run into a socket's timeout."""
    late = threading.Event()

    def close() -> None:
        late.set()
        with suppress(OSError):
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException as error:
        connection.close()
        if late.is_set() or isinstance(error, TimeoutError):
            raise NotTaken(f"{connection.host} did not answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()


def _opened(address: tuple[str, int], timeout: Any = None, _source: Any = None) -> socket.socket:
    """A connection to one of the host's addresses: to that which was looked at, not to what a second question to DNS
    would find.
    """
    host, port = address
    problem: OSError | None = None
    for family, kind, protocol, _name, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        _refuse_link_local(host, str(where[0]))
        made = socket.socket(family, kind, protocol)
        made.settimeout(timeout)
        try:
            made.connect(where)
        except OSError as error:
            made.close()
            problem = error
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
    raise problem or OSError(f"{host} has no address")


_METADATA = frozenset({ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")})
"""Where clouds tell a machine its credentials, besides the addresses of the link."""


_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""Addresses of IPv6 whose last four bytes are those of IPv4 to which a gateway, or the machine, sends them on."""


def _inner(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Where an address leads to: that of IPv4 which is within it, or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.packed[:15] != bytes(15) and any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(address.packed[12:])
    return address.ipv4_mapped or address.sixtofour or address


def _refuse_link_local(host: str, text: str) -> None:
    address = ipaddress.ip_address(text.partition("%")[0])
    inner = _inner(address)
    if inner.is_link_local or inner.is_multicast or inner.is_unspecified or inner in _METADATA:
        raise NotTaken(
            f"{host} leads to {inner}, an address of the link or of a cloud's metadata: nothing is sent there"
        )


class _Connection(http.client.HTTPConnection):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._create_connection = _opened


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._create_connection = _opened
