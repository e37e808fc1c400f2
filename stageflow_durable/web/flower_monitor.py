"""The pages about runs inside Flower: in its frame and behind its sign-in, filled from the JSON of
:mod:`stageflow_durable.web.monitor`, and told of changes by server-sent events as long as somebody looks.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import RedirectHandler, StaticFileHandler, authenticated, url

from stageflow_durable.errors import SchemaBehind, StoreUnavailable, UnknownRun
from stageflow_durable.masking import masking
from stageflow_durable.web.flower_handlers import SignedIn, Visits
from stageflow_durable.web.http import AWAY_SECONDS, HEADERS, Request, Response, problem
from stageflow_durable.web.monitor import API, TOKEN_OF, Monitor, away, cannot
from stageflow_durable.web.watching import Watch

log = masking(logging.getLogger("stageflow.web"))

STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
# Path, title, script and entry of the menu of each page.
_PAGES = (
    (r"runs", "Runs", "runs.js", "runs"),
    (r"runs/(?P<run>[0-9A-Za-z]{6,26})", "Run", "run.js", "runs"),
    (r"stageflow/workers", "Workers and queues", "workers.js", "runs"),
    (r"limits", "Limits", "limits.js", "runs"),
)
_LIVE = rf"{API}/(?:live|workers/live|limits/live|runs/[0-9A-Za-z]{{6,26}}/live)"

MOST_STREAMS = 64
"""Pages that are told of changes at once; further ones ask now and then."""

STREAM_SECONDS = 900.0
"""After so long a page connects again, and is asked again who looks."""

LOOK_SECONDS, QUIET_SECONDS = 0.5, 15.0
"""How often it is looked, and how often a page that nothing is told is told so: else nobody would see that it left."""


# Of their own: while the database does not answer, streams wait for it, and requests must not wait behind them.
_LOOKING = ThreadPoolExecutor(4, "stageflow-pages")


@cache
def _asset(name: str) -> str:
    """The address of a file below the prefix, with its digest: a new release's is another."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/stageflow/static/{name}?v={digest}"


class _Page(Visits):
    """A page of the monitor: nothing of a run is in it, its script asks for that."""

    def initialize(self, title: str, script: str, tab: str, prefix: str) -> None:
        self._said = {"title": f"{title} · Flower", "script": script, "tab": tab, "prefix": prefix}

    @authenticated  # by Flower, as for its own pages
    def get(self, run: str = "") -> None:
        """The page, with what its requests send back to show that they are of it."""
        visitor = self.who_looks()
        for name, value in {**HEADERS, "Content-Security-Policy": _POLICY}.items():
            self.set_header(name, value)
        prefix = self._said["prefix"]
        said = {
            **self._said,
            "run": run.upper(),
            "who": visitor.name,
            "cannot": cannot(visitor),
            "token": "" if cannot(visitor) else visitor.secret(TOKEN_OF),
            "asset": lambda name: prefix + _asset(name),
        }
        _sent = self.finish(self.render_string("flower_page.html", **said))

    head = get


class _Static(StaticFileHandler):
    """The pages' own scripts and styles, which anybody may see, as Flower's."""

    def set_extra_headers(self, path: str) -> None:
        """A browser asks each time whether it has the newest: modules name each other without a digest."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")


class _Api(SignedIn):
    """The JSON of the monitor."""


class _Live(Visits):
    """Server-sent events: what a page shows, again whenever it has changed."""

    _open = 0

    def initialize(self, monitor: Monitor, prefix: str) -> None:
        self._monitor, self._prefix = monitor, prefix
        self._gone = asyncio.Event()

    def on_connection_close(self) -> None:
        """Whoever looked has left."""
        self._gone.set()

    @authenticated  # as above
    async def get(self) -> None:
        """Tell until they leave."""
        path, query = (self.request.path or "/").removeprefix(self._prefix), self.request.query
        request = Request("GET", path, query=query)
        watch = await asyncio.to_thread(self._monitor.live, self.who_looks(), request)
        if isinstance(watch, Response):
            self._send_all(watch)
            return
        if _Live._open >= MOST_STREAMS:
            self._send_all(problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many look", Retry_After=AWAY_SECONDS))
            return
        for name, value in {**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}.items():
            self.set_header(name, value)
        _Live._open += 1
        try:
            await self._tell(watch)
        except StreamClosedError:
            pass  # they left in the middle of it
        finally:
            _Live._open -= 1

    def _send_all(self, response: Response) -> None:
        self.set_status(int(response.status))
        for name, value in response.all_headers:
            self.set_header(name, value)
        _sent = self.finish(response.body)

    async def _tell(self, watch: Watch) -> None:
        began = said = asyncio.get_running_loop().time()
        while not self._gone.is_set():
            now = asyncio.get_running_loop().time()
            if now - began > STREAM_SECONDS:
                return
            for kind, text in await asyncio.get_running_loop().run_in_executor(_LOOKING, _news, watch):
                self.write(f"event: {kind}\ndata: {text}\n\n")
                said = now
            if now - said > QUIET_SECONDS:
                self.write(": nothing new\n\n")
                said = now
            await self.flush()
            try:
                await asyncio.wait_for(self._gone.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue


def _news(watch: Watch) -> list[tuple[str, str]]:
    """What has changed, or that nobody can say."""
    try:
        return list(watch.news())
    except (StoreUnavailable, SchemaBehind) as error:
        return [("away", f'"{away(error)}"')]
    except UnknownRun:
        return [("gone", '"the run was deleted"')]
    except Exception:
        log.exception("a page could not be told of changes")
        return [("away", '"the server could not look; its log says why"')]


def pages_of(monitor: Monitor, prefix: str, below: str) -> list[Any]:
    """The addresses of the monitor. ``below``: the prefix as a regular expression."""
    api = {"look": monitor.look, "respond": monitor.respond, "prefix": prefix}
    named = [
        url(rf"{below}/{path}", _Page, {"title": title, "script": script, "tab": tab, "prefix": prefix}, name=name)
        for (path, title, script, tab), name in zip(
            _PAGES, ("runs", "run", "stageflow-workers", "stageflow-limits"), strict=True
        )
    ]
    return [
        url(rf"{below}/runs/", RedirectHandler, {"url": f"{prefix}/runs"}),
        url(rf"{below}/stageflow/static/(.*)", _Static, {"path": str(STATIC)}),
        url(rf"{below}/{_LIVE}", _Live, {"monitor": monitor, "prefix": prefix}),
        url(rf"{below}/{API}/.*", _Api, api),
        *named,
    ]
