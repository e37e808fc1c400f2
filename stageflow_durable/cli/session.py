"""What one invocation works with: the application named by the caller, its settings, its operations, and the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.output import say
from stageflow_durable.errors import ConfigurationError, SchemaAhead, SchemaBehind, StageflowError

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Application, Operations
    from stageflow_durable.settings import Settings

_KEY = "stageflow_durable.session"

NO_APPLICATION = (
    "this needs the application: say --app module:attribute (e.g. --app shop:engine), set STAGEFLOW_APP, "
    'or write app = "shop:engine" under [tool.stageflow] in pyproject.toml'
)


def utc_now() -> datetime:
    """The time by which ages are counted."""
    return datetime.fromtimestamp(time.time(), UTC)


class Session:
    """One invocation. A test hands in its own as click's ``obj``."""

    def __init__(
        self,
        *,
        reference: str | None = None,
        operations: Operations | None = None,
        application: Application | None = None,
        settings: Settings | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.reference = reference
        """What ``--app`` said on the command line."""
        self.now = now
        self._operations = operations
        self._application = application
        self._settings = settings
        self._told = False

    @staticmethod
    def of(ctx: click.Context) -> Session:
        """The session of this invocation, kept in ``ctx.meta``: ``ctx.obj`` is Celery's under ``celery stageflow``."""
        if _KEY not in ctx.meta:
            ctx.meta[_KEY] = ctx.obj if isinstance(ctx.obj, Session) else Session(reference=_named_to_celery(ctx))
        session: Session = ctx.meta[_KEY]
        return session

    @property
    def settings(self) -> Settings:
        """Settings from the environment and pyproject.toml, or the application's where these say nothing."""
        if self._settings is None:
            from stageflow_durable.settings import load_settings

            self._settings = load_settings(app=self.reference)
        return self._settings

    def application(self) -> Application:
        """The application's engine. Fails when none is named, or the name is wrong."""
        if self._application is None:
            from stageflow_durable.cli.application import load_application
            from stageflow_durable.cli.logs import listen

            listen()
            self._application = load_application(self.application_reference())
        return self._application

    def application_reference(self) -> str:
        """``module:attribute`` of the application. Fails when none is named."""
        reference = self.reference or self.settings.app
        if not reference:
            raise Misuse(NO_APPLICATION)
        return reference

    def has_application(self) -> bool:
        """Whether an application is named at all."""
        return bool(self._application or self.reference or self.settings.app)

    def operations(self) -> Operations:
        """Operations on the database alone: no application is imported unless --app names one, or only it knows."""
        if self._operations is None:
            self._operations = self._by_application() if self._application or self.reference else self._by_database()
        return self._operations

    def database_url(self) -> str:
        """Where the database is: the named application's, else as set, else the file of a stopped one-machine mode.

        Raises ConfigurationError.
        """
        settings = self.application().settings if self._application or self.reference else self.settings
        try:
            url: str = settings.require_database()
        except ConfigurationError:
            left = self.stopped(settings)
            if left is None:
                raise
            url = left.require_database()
        return url

    def explained(self, error: StageflowError) -> str:
        """What to say of ``error``: where a table or column is missing, which schema is there and which is needed."""
        if isinstance(error, SchemaBehind):
            try:
                self.require_schema()
            except (SchemaBehind, SchemaAhead) as known:
                return str(known)
            except (StageflowError, click.ClickException):
                pass  # it cannot be found out; what is known is said
        return str(error)

    def require_schema(self) -> None:
        """Raise SchemaBehind or SchemaAhead, naming both versions, unless the database is as this release needs it."""
        from stageflow_durable.state import schema

        schema.require_current(self.database_url())

    @property
    def at_rest(self) -> bool:
        """Whether the database that was opened is that of a stopped one-machine mode."""
        return self._told

    def stopped(self, settings: Settings) -> Settings | None:
        """The settings with the database that a stopped one-machine mode left behind; None when there is none."""
        from stageflow_durable.embedded.attachment import stopped

        left: Settings | None = stopped(settings)
        if left is not None and not self._told:
            self._told = True
            say(f"stageflow: nothing runs in {settings.home}; this is its database (to carry on: stageflow up)")
        return left

    def _by_application(self) -> Operations:
        application = self.application()
        try:
            application.settings.require()
        except ConfigurationError:
            left = self.stopped(application.settings)
            return application if left is None else self._opened(left)
        return application

    def _by_database(self) -> Operations:
        try:
            return self._opened(self.settings)
        except ConfigurationError:
            if self.settings.app and (found := self._by_named_application()):
                return found
            left = self.stopped(self.settings)
            if left is None:
                raise
            return self._opened(left)

    def _by_named_application(self) -> Operations | None:
        """By the application that the settings name, which may know a database; None where a file was left instead."""
        try:
            return self._by_application()
        except click.ClickException:  # it cannot be imported here, which looking at a file does not need
            if self.stopped(self.settings) is None:
                raise
            return None

    @staticmethod
    def _opened(settings: Settings) -> Operations:
        from stageflow_durable.cli.logs import without_broker
        from stageflow_durable.connect import open_operations

        without_broker()
        found: Operations = open_operations(settings)
        return found


def _named_to_celery(ctx: click.Context) -> str | None:
    """``celery -A shop stageflow …``: Celery has imported the module, and the engine stands beside its application."""
    named = ctx.parent.params.get("app") if ctx.parent else None
    if not isinstance(named, str):
        return None
    from stageflow_durable.cli.application import engine_named_to_celery

    return engine_named_to_celery(named)


def _remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    session = Session.of(ctx)
    session.reference = value or session.reference


app_option = click.option(
    "-A",
    "--app",
    metavar="MODULE:ATTRIBUTE",
    expose_value=False,
    callback=_remember,
    help="The application's Engine, e.g. shop:engine; else STAGEFLOW_APP or [tool.stageflow].",
)
"""``--app``, before or after the command's name."""

json_option = click.option("--json", "as_json", is_flag=True, help="JSON for programs; times are UTC.")
"""``--json``, for every command that prints what a program may want."""
