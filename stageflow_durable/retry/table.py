"""Which errors are of which category: data, one line a fact, read from an error's own class to its ancestors."""

from __future__ import annotations

import errno
from enum import StrEnum

from stageflow_durable import errors
from stageflow_durable.codec import UnreadableValue


class Category(StrEnum):
    """What kind of failure an error is."""

    TRANSIENT = "transient"
    """It may pass by itself: retried."""
    PERMANENT = "permanent"
    """The same input fails again: not retried."""
    POLICY = "policy"
    """The remote will not do this for us (forbidden, content filter): not retried, and said so."""
    BUG = "bug"
    """Our own code or deployment is wrong: not retried, never compensated by itself; the run is parked for a person."""
    UNKNOWN = "unknown"
    """No table knows it: retried, unless the policy says otherwise."""


TRANSIENT, PERMANENT, POLICY, BUG, UNKNOWN = Category

SEVEREST_FIRST = (BUG, POLICY, PERMANENT, UNKNOWN, TRANSIENT)
"""Several errors at once (an ``ExceptionGroup``) are what the first of these among them is."""

BY_TYPE: dict[type[BaseException], Category] = {
    # our own
    errors.Retryable: TRANSIENT,
    errors.Conflict: TRANSIENT,  # "read it again and decide again" is what a retry does
    errors.Terminal: PERMANENT,
    errors.StageCancelled: PERMANENT,
    errors.NotAllowedInStage: BUG,
    errors.ConfigurationError: BUG,
    errors.DefinitionError: BUG,
    errors.UnknownPipeline: BUG,
    errors.SchemaBehind: BUG,
    errors.SchemaAhead: BUG,
    errors.SchemaInUse: BUG,
    errors.UnsavableValue: BUG,
    errors.StepMismatch: BUG,
    UnreadableValue: BUG,
    # timeouts and connections
    TimeoutError: TRANSIENT,
    ConnectionError: TRANSIENT,
    # values: the same input fails again
    ValueError: PERMANENT,
    ArithmeticError: PERMANENT,
    # a slip in the code, which is fixed by a deploy and not by undoing what customers ordered
    TypeError: BUG,
    AttributeError: BUG,
    NameError: BUG,
    ImportError: BUG,
    SyntaxError: BUG,
    KeyError: BUG,
    IndexError: BUG,
    AssertionError: BUG,
    NotImplementedError: BUG,
    RecursionError: BUG,
    # what ends a program, a loop or a generator, raised in a stage
    SystemExit: BUG,
    KeyboardInterrupt: BUG,
    GeneratorExit: BUG,
    # the file system
    FileNotFoundError: PERMANENT,
    FileExistsError: PERMANENT,
    IsADirectoryError: PERMANENT,
    NotADirectoryError: PERMANENT,
    PermissionError: PERMANENT,
    BlockingIOError: TRANSIENT,
    InterruptedError: TRANSIENT,
}

BY_NAME: dict[str, Category] = {
    # By name, so that nothing is imported: an error's module is loaded before the error exists.
    "asyncio.exceptions.IncompleteReadError": TRANSIENT,
    "http.client.IncompleteRead": TRANSIENT,
    "http.client.BadStatusLine": TRANSIENT,
    "socket.gaierror": TRANSIENT,
    "ssl.SSLCertVerificationError": PERMANENT,
    "ssl.SSLError": TRANSIENT,
    "urllib.error.URLError": TRANSIENT,
    "urllib3.exceptions.MaxRetryError": TRANSIENT,
    "urllib3.exceptions.ProtocolError": TRANSIENT,
    "urllib3.exceptions.TimeoutError": TRANSIENT,
    "urllib3.exceptions.NewConnectionError": TRANSIENT,
    "requests.exceptions.ConnectionError": TRANSIENT,
    "requests.exceptions.Timeout": TRANSIENT,
    "requests.exceptions.ChunkedEncodingError": TRANSIENT,
    "httpx.TransportError": TRANSIENT,
    "httpx.UnsupportedProtocol": PERMANENT,
    "httpx.InvalidURL": PERMANENT,
    "httpx.TooManyRedirects": PERMANENT,
    "httpx.DecodingError": PERMANENT,
    "aiohttp.client_exceptions.ClientConnectionError": TRANSIENT,
    "aiohttp.client_exceptions.ClientPayloadError": TRANSIENT,
    "redis.exceptions.ConnectionError": TRANSIENT,
    "redis.exceptions.TimeoutError": TRANSIENT,
    "redis.exceptions.ReadOnlyError": TRANSIENT,
    "redis.exceptions.TryAgainError": TRANSIENT,
    "kombu.exceptions.OperationalError": TRANSIENT,
    "billiard.exceptions.SoftTimeLimitExceeded": TRANSIENT,
    "sqlalchemy.exc.OperationalError": TRANSIENT,
    "sqlalchemy.exc.InterfaceError": TRANSIENT,
    "sqlalchemy.exc.TimeoutError": TRANSIENT,
    "sqlalchemy.exc.DataError": PERMANENT,
    "sqlalchemy.exc.IntegrityError": PERMANENT,
    "sqlalchemy.exc.ProgrammingError": BUG,
    "psycopg.OperationalError": TRANSIENT,
    "psycopg.InterfaceError": TRANSIENT,
    "psycopg.DataError": PERMANENT,
    "psycopg.IntegrityError": PERMANENT,
    "psycopg.ProgrammingError": BUG,
    "psycopg2.OperationalError": TRANSIENT,
    "psycopg2.InterfaceError": TRANSIENT,
    "psycopg2.IntegrityError": PERMANENT,
    "psycopg2.ProgrammingError": BUG,
    "sqlite3.OperationalError": TRANSIENT,
    "sqlite3.IntegrityError": PERMANENT,
    "sqlite3.ProgrammingError": BUG,
}

TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ESTALE,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
"""Of an ``OSError`` that is no more than that; the others are unknown."""

TRANSIENT_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
POLICY_STATUSES = frozenset({403})
HTTP_ERRORS = range(400, 600)

POLICY_CODES = frozenset({"content_filter", "content_policy_violation"})
"""An error's ``code`` as model providers name a refusal by their content filter."""
