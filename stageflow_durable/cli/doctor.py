"""``stageflow doctor``: database, broker, application and runs; each unsafe setting with the line that fixes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from stageflow_durable.cli import checks, sandbox, serving
from stageflow_durable.cli.checks import Check, Level
from stageflow_durable.cli.failures import FAILED, one_line
from stageflow_durable.cli.output import console, print_json
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.times import Seconds
from stageflow_durable.errors import ConfigurationError, StageflowError
from stageflow_durable.legible import for_people
from stageflow_durable.masking import masked

if TYPE_CHECKING:
    from rich.text import Text

    from stageflow_durable.delivery.probes import BrokerFacts

_MARK = {
    Level.OK: ("ok  ", "green"),
    Level.WARN: ("WARN", "bold yellow"),
    Level.FAIL: ("FAIL", "bold red"),
    Level.SKIP: ("skip", "dim"),
}


@click.command(short_help="Unsafe settings, each with the line that fixes it.")
@click.option(
    "--timeout",
    type=Seconds(0.1),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the broker.",
)
@json_option
@app_option
@click.pass_context
def doctor(ctx: click.Context, timeout: float, as_json: bool) -> None:
    """Database, schema, broker, the application's Celery settings, workers and overdue runs.

    Works with only the database's URL; what needs the application is skipped without one. Exits 1 when anything fails.
    """
    found = list(examined(Session.of(ctx), timeout))
    if as_json:
        print_json(found)
    else:
        _print(for_people(found))
    if any(check.level is Level.FAIL for check in found):
        ctx.exit(FAILED)


def examined(session: Session, timeout: float) -> Iterator[Check]:
    """Every check, in the order in which one depends on another."""
    database = list(
        _guarded("database", "set STAGEFLOW_DATABASE_URL to a database that answers", lambda: _database(session))
    )
    yield from database
    if all(check.level is Level.OK for check in database):
        yield from _guarded("database server", "let the role read pg_stat_activity", lambda: _server(session))
        yield from _guarded("runs", "stageflow db upgrade", lambda: _runs(session))
        if session.has_application():
            yield from _guarded("served", "stageflow db upgrade", lambda: _served(session))
    yield from _guarded(
        "application",
        "fix the application; stageflow --app module:attribute doctor",
        lambda: _delivery(session, timeout),
    )


def _guarded(name: str, fix: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """A look that cannot be taken is a verdict too; the others go on."""
    try:
        yield from look()
    except (StageflowError, click.ClickException) as error:
        yield Check(name, Level.FAIL, one_line(masked(getattr(error, "message", None) or str(error))), fix)
    except Exception as error:  # noqa: BLE001  # of what is wrong here the others are told all the same
        said = one_line(masked(f"{type(error).__name__}: {error}"))
        yield Check(name, Level.FAIL, f"could not be looked at: {said}", "report it, if the line does not say why")


def _database(session: Session) -> Iterator[Check]:
    from stageflow_durable.settings import safe_url
    from stageflow_durable.state import schema

    url = session.database_url()
    current = schema.current(url)
    yield checks.ok("database", f"{safe_url(url)} answers")
    if not url.startswith("sqlite"):
        from stageflow_durable.state.database import is_pooled

        yield checks.pooler(is_pooled(url))
    yield checks.schema(current, schema.head(), ahead=schema.is_ahead(current))


def _server(session: Session) -> Iterator[Check]:
    from stageflow_durable.state.server import server_facts

    facts = server_facts(session.database_url())
    if facts is not None:
        yield from checks.server(facts, sum(one.alive for one in session.operations().workers()))


def _runs(session: Session) -> Iterator[Check]:
    operations = session.operations()
    attention = operations.runs(attention=True, limit=1000)
    recent = operations.runs(limit=1000)
    active = sum(run.status in checks.GOING for run in recent)
    alive = checks.live_workers(operations.workers(), active)
    yield replace(alive, fix="stageflow up") if session.at_rest and alive.fix else alive
    yield checks.overdue(attention, session.now())
    yield checks.audit_key(operations.has_audit_key)
    yield from serving.carried(attention)
    yield from serving.taken(operations.overview())
    yield from checks.sinks(operations.sink_views(), session.now())
    yield from serving.shared(operations.roster())
    yield from serving.strangers(operations.strangers())


def _served(session: Session) -> Iterator[Check]:
    application = session.application()
    if session.at_rest:
        return
    mine = application.profile
    wanted = serving.Served(mine.engine, mine.broker, application.queues, mine.pipelines)
    yield from serving.served(wanted, session.operations().roster())


# --- broker and application -------------------------------------------------------------------------------------------


def _delivery(session: Session, timeout: float) -> Iterator[Check]:
    application = session.application() if session.has_application() else None
    settings = application.settings if application is not None else session.settings
    if _stopped(session, settings):
        yield Check("broker", Level.WARN, f"nothing runs in {settings.home}: runs wait", "stageflow up")
        yield checks.skipped("application", "its Celery settings and timeouts are looked at while it runs")
        return
    url = _broker_url(settings)
    seen: list[BrokerFacts] = []
    if url is None:
        yield checks.skipped("broker", "no broker is named; set STAGEFLOW_BROKER_URL")
    else:
        asked, app = url, None if application is None else application.celery_app
        yield from _guarded("broker", "set STAGEFLOW_BROKER_URL", lambda: _broker(asked, timeout, app, seen))
        yield from _guarded("claims", "STAGEFLOW_REDIS_URL=off", lambda: _claims(settings, timeout))
    if application is None:
        yield checks.skipped(
            "application", "none is named; its Celery settings and timeouts were not looked at (--app module:attribute)"
        )
        return
    yield from _guarded(
        "application",
        "correct the application's Celery settings; see deploy.md",
        lambda: _application(application, seen[0] if seen else None),
    )
    if seen and not seen[0].error:
        transport = seen[0].transport
        yield from _guarded(
            "worker settings", "see deploy.md", lambda: _workers(application, transport, timeout, session)
        )


def _broker(url: str, timeout: float, app: Any, seen: list[BrokerFacts]) -> Iterator[Check]:
    from stageflow_durable.delivery.probes import probe_broker

    facts = probe_broker(url, timeout=timeout, app=app)
    seen.append(facts)
    yield from checks.broker(facts)


def _claims(settings: Any, timeout: float) -> Iterator[Check]:
    from stageflow_durable.delivery.probes import probe_claims

    redis_url = settings.redis_url if settings.broker_url else settings.require().redis_url
    yield checks.claims(redis_url, probe_claims(redis_url, timeout=timeout) if redis_url else None)


def _stopped(session: Session, settings: Any) -> bool:
    try:
        settings.require()
    except ConfigurationError:
        return session.stopped(settings) is not None
    return False


def _broker_url(settings: Any) -> str | None:
    if settings.broker_url or settings.database_url:
        url: str | None = settings.broker_url
        return url
    return str(settings.require().broker_url)


def _application(application: Any, facts: BrokerFacts | None) -> Iterator[Check]:
    from stageflow_durable.delivery.probes import celery_facts

    found = celery_facts(application.celery_app)
    yield from checks.application(found)
    yield serving.takes_json(found.accept_content)
    yield from sandbox.stages(tuple(application.pipelines.values()))
    if facts is not None:
        settings = application.settings
        yield checks.visibility(
            found.visibility_timeout,
            facts.transport,
            settings.in_place_seconds + settings.short_delay_seconds,
            _longest_timeout(application),
            adopted=found.adopted,
            quick_acks=settings.quick_acks,
        )
        yield from _habits(application, facts.transport, adopted=found.adopted)


def _workers(application: Any, transport: str, timeout: float, session: Session) -> Iterator[Check]:
    from stageflow_durable.cli import worker_checks
    from stageflow_durable.cli.habits import CELERYS_OWN_SECONDS, REDIS
    from stageflow_durable.delivery.far import far_messages
    from stageflow_durable.delivery.worker_facts import worker_facts

    app, settings = application.celery_app, application.settings
    facts = worker_facts(app)
    yield from worker_checks.workers(facts, transport, alone=settings.database_url is None)
    if transport in REDIS:
        visible = (app.conf.broker_transport_options or {}).get("visibility_timeout")
        later_than = CELERYS_OWN_SECONDS if visible is None else float(visible)
        queues = [*dict.fromkeys((*application.queues, str(app.conf.task_default_queue)))]
        now = session.now().timestamp()
        try:
            found = far_messages(app, queues, now=now, later_than=later_than, timeout=timeout)
        except Exception as error:  # noqa: BLE001  # a user that may publish, and not look; a transport of its own
            why = one_line(masked(f"{type(error).__name__}: {error}"))
            yield checks.skipped(worker_checks.FAR, f"the broker does not let messages be looked at: {why}")
        else:
            yield from worker_checks.far(found, visible)


def _habits(application: Any, transport: str, *, adopted: bool) -> Iterator[Check]:
    from stageflow_durable.cli.habits import own_tasks, rabbitmq
    from stageflow_durable.delivery.habits import habits

    queue = application.settings.queue
    found = habits(application.celery_app, queue)
    yield from own_tasks(found, transport, adopted=adopted)
    yield from rabbitmq(found, transport, queue)


def _longest_timeout(application: Any) -> float | None:
    specs = [spec for pipeline in application.pipelines.values() for spec in pipeline.stages]
    return max((spec.timeout for spec in specs if spec.timeout is not None), default=None)


# --- the report -------------------------------------------------------------------------------------------------------


def _print(found: Sequence[Check]) -> None:
    out = console()
    width = max(len(check.name) for check in found)
    for check in found:
        for line in _lines(check, width):
            out.print(line, soft_wrap=True)
    count = {level: sum(check.level is level for check in found) for level in Level}
    out.print(", ".join(f"{number} {level}" for level, number in count.items() if number))


def _lines(check: Check, width: int) -> Iterator[Text]:
    from rich.text import Text

    mark, style = _MARK[check.level]
    yield Text.assemble((mark, style), f"  {check.name.ljust(width)}  {check.message}")
    if check.fix and check.level is not Level.OK:
        yield Text.assemble(f"      {' ' * width}  fix: ", (check.fix, "bold"))
