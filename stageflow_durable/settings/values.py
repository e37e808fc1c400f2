"""The settings as frozen values, and where database and broker are."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import parsing
from stageflow_durable.settings.parsing import safe_url

TRACE_SECONDS = 30 * 86_400.0
"""How long tracebacks are kept unless told otherwise."""

PARSERS: dict[str, parsing.Parser] = {
    "database_url": parsing.database_url,
    "broker_url": parsing.broker_url,
    "redis_url": parsing.redis_url,
    # Below 2 s a stop of the garbage collector or of the disk looks like a death.
    "lease_seconds": parsing.seconds(2, 3600),
    "max_recoveries": parsing.whole(1, 1000),
    "home": parsing.directory,
    "queue": parsing.queue,
    "in_place_stages": parsing.whole(1),
    "in_place_seconds": parsing.seconds(0, 3600),
    "short_delay_seconds": parsing.seconds(0, 3600),
    "sweep_seconds": parsing.seconds(0, 3600, above=True),
    "traceback_seconds": parsing.seconds(60, 315_360_000),
    "log_bytes": parsing.whole(0, 1024 * 1024),
    "max_payload_bytes": parsing.whole(1024, 256 * 1024 * 1024),
    "sqlite_synchronous": parsing.one_of("FULL", "NORMAL", "EXTRA"),
    "visibility_timeout": parsing.whole(1, 43_200),
    "optimistic": parsing.switch,
    "hints": parsing.switch,
    "prepared_statements": parsing.switch,
    "message_templates": parsing.switch,
    "lean_gate": parsing.switch,
    "batches": parsing.switch,
    "quick_acks": parsing.switch,
    "audit_key": parsing.secret,
    "old_audit_keys": parsing.secrets,
    "sentinel_master": parsing.matching(r"[\w.-]{1,200}", "the name of a master, as the sentinels know it"),
    "sentinel_password": parsing.text,
    "message_signing": parsing.word("off", "sign", "require"),
    "remote_control": parsing.word("off", "look", "all"),
    "public_url": parsing.web_address,
    "redact": parsing.names,
    "notify": parsing.notified,
    "notify_secret": parsing.secret,
    "app": parsing.matching(r"[\w.]+(:[\w.]+)?", "module:attribute, as in shop:engine"),
}
URLS = ("database_url", "broker_url", "redis_url")
SECRETS = (*URLS, "audit_key")
HIDDEN = (*SECRETS, "old_audit_keys", "sentinel_password", "notify", "notify_secret")
# The one-machine mode stands above the settings, so it is looked up by name, and only when nothing else is set.
_ATTACH = ("stageflow_durable.embedded.attachment", "attach")


@dataclass(frozen=True, slots=True, repr=False)
class Urls:
    """Where everything is: database and broker always, Redis for claims where there is one.

    ``audit_key`` comes along, since the one-machine mode makes its own. ``repr`` hides all passwords.
    """

    database_url: str
    broker_url: str
    redis_url: str | None = None
    audit_key: str | None = None

    def environment(self) -> dict[str, str]:
        """The ``STAGEFLOW_…`` variables that give a child process the same."""
        return _variables({name: getattr(self, name) for name in SECRETS})

    def __repr__(self) -> str:
        return _redacted(self)


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Everything that can be set, validated on construction (:class:`ConfigurationError`); ``repr`` hides passwords.

    :func:`load_settings` merges the sources.


    ``database_url``, ``broker_url``: None when not set (see :meth:`require`).
    ``redis_url``: where claims are kept, and who awaits a run is told; None: nowhere, SQL alone answers.
    ``lease_seconds``: how long an owner is believed without a heartbeat.
    ``max_recoveries``: lost attempts of one stage before its run is parked.
    ``home``: directory of the one-machine mode.
    ``queue``: of messages; by default the engine's own, ``stageflow-`` and its name.
    ``in_place_stages``, ``in_place_seconds``: how far one message may carry a run.
    ``short_delay_seconds``: the longest delay that Celery carries; beyond it the row alone.
    ``sweep_seconds``: between two recovery sweeps, by default ``min(1, lease_seconds / 4)``.
    ``traceback_seconds``: how long it is kept where attempts raised and what they logged, also of runs that are not
    pruned.
    ``log_bytes``: how much is kept of what an attempt logs; 0: nothing.
    ``max_payload_bytes``: of an input, of metadata and of a stage's output, each as it is encoded.
    ``visibility_timeout``: seconds until an unacknowledged message is delivered again; with ``quick_acks`` only
    other tasks'.
    ``optimistic``: whether to decide without the run's lock, in one statement, where what is known suffices.
    ``hints``: whether messages carry what their run looked like, so that most begin without a look at it.
    ``prepared_statements``: whether those go to PostgreSQL prepared, below the driver's cursors.
    ``message_templates``: messages are filled into what Celery made once, where that gives the same.
    ``lean_gate``: whether a message's claim goes to Redis over a connection that is kept for it.
    ``batches``: whether ``enqueue_many`` shares statements and sendings between its runs.
    ``quick_acks``: whether a worker on Redis keeps what is unacknowledged of ours in itself, and notes other tasks'
    over a connection that is kept for it.
    ``audit_key``: of the event chain's HMACs. ``old_audit_keys``: earlier ones, with commas between them, which are
    accepted where histories are verified and messages were signed.
    ``sentinel_master``, ``sentinel_password``: for a broker at ``sentinel://``, the master's name and the sentinels'
    own password.
    ``message_signing``: ``sign``: messages are signed with a key that is derived from the audit key, those that are not
    are accepted; ``require``: those are dropped.
    ``remote_control``: which of Celery's commands over the broker workers of the engine's own application obey:
    ``look``: those that change nothing; ``all``; ``off``: none.
    ``public_url``: where callbacks and links to approvals of this engine are served, as others reach it.
    ``redact``: names of fields, with commas between them or as a list, whose values people are not shown, besides those
    that are named like secrets.
    ``notify``: who is told when a run needs a person: the URL of a webhook, or a command, as a list or as text, that
    gets JSON on its standard input. ``notify_secret``: that webhook is signed with it.
    ``app``: ``module:attribute`` of the engine, for the command.
    """

    database_url: str | None = None
    broker_url: str | None = None
    redis_url: str | None = None
    lease_seconds: float = 10.0
    max_recoveries: int = 5
    home: Path = Path(".stageflow")
    queue: str = cast("str", None)  # filled in by the engine, from its name: readers of an engine's never see None
    in_place_stages: int = 200
    in_place_seconds: float = 5.0
    short_delay_seconds: float = 5.0
    sweep_seconds: float = cast("float", None)  # filled in below: readers never see None
    traceback_seconds: float = TRACE_SECONDS
    log_bytes: int = 8192
    # A run's outputs are read by each process that carries it: with fifty stages of this size it still gets by.
    max_payload_bytes: int = 1_048_576
    sqlite_synchronous: str = "FULL"
    visibility_timeout: int = 3600
    optimistic: bool = True
    hints: bool = True
    prepared_statements: bool = True
    message_templates: bool = True
    lean_gate: bool = True
    batches: bool = True
    quick_acks: bool = True
    audit_key: str | None = None
    old_audit_keys: str | None = None
    sentinel_master: str | None = None
    sentinel_password: str | None = None
    message_signing: str = "off"
    remote_control: str = "look"
    public_url: str | None = None
    redact: str | None = None
    notify: str | None = None
    notify_secret: str | None = None
    app: str | None = None

    def __post_init__(self) -> None:
        given = {name: (getattr(self, name), name) for name in PARSERS}
        parsed, problems = parse_all({name: pair for name, pair in given.items() if pair[0] is not None})
        refuse(problems + disagreements(parsed))
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        if "sweep_seconds" not in parsed:
            object.__setattr__(self, "sweep_seconds", min(1.0, self.lease_seconds / 4))
        if self.redis_url == "off":
            object.__setattr__(self, "redis_url", None)

    def require(self) -> Urls:
        """Where database and broker are: as set, else those of the one-machine mode that runs in ``home``.

        Raises :class:`ConfigurationError` with both ways out. One of the two set is no reason to guess the other.
        """
        if self.database_url and self.broker_url:
            return Urls(self.database_url, self.broker_url, self.redis_url, self.audit_key)
        if self.database_url or self.broker_url:
            raise ConfigurationError(self._half_set())
        return self._attached()

    def require_database(self) -> str:
        """The database's URL alone, for what needs no broker; else as :meth:`require`."""
        return self.database_url or self.require().database_url

    def environment(self) -> dict[str, str]:
        """The ``STAGEFLOW_…`` variables that give a child process these settings."""
        return _variables({field.name: getattr(self, field.name) for field in fields(self)})

    def _attached(self) -> Urls:
        module, function = _ATTACH
        urls = getattr(importlib.import_module(module), function)(self.home)
        if urls is None:
            raise ConfigurationError(
                f"no database and no broker: set {variable('database_url')} and {variable('broker_url')}, "
                f"or start the one-machine mode with `stageflow up` (nothing runs in {self.home})"
            )
        return replace(cast("Urls", urls), audit_key=self.audit_key) if self.audit_key else cast("Urls", urls)

    def _half_set(self) -> str:
        lacking, there = ("broker_url", "database_url") if self.database_url else ("database_url", "broker_url")
        return (
            f"{variable(lacking)} is not set, though {variable(there)} is: set it too, "
            f"or unset both and start the one-machine mode with `stageflow up`"
        )

    def __repr__(self) -> str:
        return _redacted(self)


def parse_all(given: Mapping[str, tuple[object, str]]) -> tuple[dict[str, object], list[str]]:
    """Parse ``name -> (value, where it was set)``; returns what could be parsed, and a line for each mistake."""
    parsed: dict[str, object] = {}
    problems: list[str] = []
    for name, (value, where) in given.items():
        try:
            parsed[name] = PARSERS[name](value)
        except ValueError as error:
            problems.append(f"{where}{_shown(name, value)}: {error}")
    return parsed, problems


def disagreements(parsed: Mapping[str, object]) -> list[str]:
    """A line for what is wrong with values only together; those that are not there have their defaults."""
    visible, in_place, short = (
        float(cast("float", parsed.get(name, DEFAULTS[name])))
        for name in ("visibility_timeout", "in_place_seconds", "short_delay_seconds")
    )
    unsigned = _cannot_sign(parsed)
    if parsed.get("quick_acks", DEFAULTS["quick_acks"]):
        return unsigned  # nothing of ours is delivered again
    told = (
        f"visibility_timeout ({visible:g} s) must be more than in_place_seconds + short_delay_seconds "
        f"({in_place + short:g} s): else messages are delivered again while they are worked on"
    )
    return unsigned if visible > in_place + short else [*unsigned, told]


def _cannot_sign(parsed: Mapping[str, object]) -> list[str]:
    told = _cannot_sign_messages(parsed)
    if str(parsed.get("notify", "[")).startswith("[") or parsed.get("notify_secret"):
        return told
    return [*told, f"notify is a webhook, which is signed: set {variable('notify_secret')} to what its receiver knows"]


def _cannot_sign_messages(parsed: Mapping[str, object]) -> list[str]:
    # Where no database is named, the one-machine mode may bring a key of its own along.
    if parsed.get("audit_key") or not parsed.get("database_url"):
        return []
    signing, said = parsed.get("message_signing", DEFAULTS["message_signing"]), "needs the audit key, which"
    name, told = variable("audit_key"), []
    if signing != "off":
        told.append(f"message_signing={signing} {said} messages are signed with: set {name} everywhere")
    if parsed.get("public_url"):
        told.append(f"public_url {said} callback URLs and links are signed with: set {name} everywhere")
    return told


def listed(values: str | None) -> list[str]:
    """A setting that holds several values, one by one."""
    return values.split(",") if values else []


def refuse(problems: Sequence[str]) -> None:
    """Raise one :class:`ConfigurationError` that lists all mistakes, if there are any."""
    if problems:
        raise ConfigurationError("; ".join(problems))


DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(Settings)}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"STAGEFLOW_{name.upper()}"


def _variables(values: dict[str, object]) -> dict[str, str]:
    if values["broker_url"] and not values["redis_url"]:
        # Else the child would take its broker for claims although we were told not to.
        values["redis_url"] = "off"
    return {variable(name): str(value) for name, value in values.items() if value is not None}


def _shown(name: str, value: object) -> str:
    if name in HIDDEN and name not in URLS:
        return ""
    is_url = isinstance(value, str) and "://" in value
    if name in URLS and not is_url:
        return ""  # it may be the password alone
    return f"={(safe_url(str(value)) if is_url else value)!r}"


def _redacted(settings: Settings | Urls) -> str:
    shown = [f"{field.name}={_hidden(field.name, getattr(settings, field.name))!r}" for field in fields(settings)]
    return f"{type(settings).__name__}({', '.join(shown)})"


def _hidden(name: str, value: object) -> object:
    if value is None or name not in HIDDEN:
        return value
    return safe_url(str(value)) if name in URLS else "***"
