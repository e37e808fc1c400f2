"""Flower with the URLs of an engine: callbacks, links to approvals, and, for whoever signed in to Flower, approvals and
the pages about runs.

Callbacks and links are for whoever has the URL, which is the proof. The other pages are behind Flower's own sign-in, as
its pages are. Where Flower has a ``url_prefix``, all of them stand below it.
"""

from __future__ import annotations

import atexit
import re
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flower import command
from flower.app import Flower
from prometheus_client import REGISTRY
from tornado.template import Loader, Template
from tornado.web import RedirectHandler, url

from stageflow_durable.clock import SystemClock
from stageflow_durable.engine.approval_links import PATH as APPROVALS
from stageflow_durable.engine.callbacks import PATH as CALLBACKS
from stageflow_durable.metrics.collector import StageflowCollector
from stageflow_durable.web import signed_in
from stageflow_durable.web.callbacks import handlers_of
from stageflow_durable.web.flower_handlers import ByUrl, SignedIn
from stageflow_durable.web.flower_monitor import pages_of
from stageflow_durable.web.monitor import Monitor


class _Templates(Loader):
    """Flower's templates and ours, with entries for our pages in Flower's menu."""

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Where a template is: ours stand by their names alone."""
        return name if name in _OURS else super().resolve_path(name, parent_path)

    def _create_template(self, name: str) -> Template:
        if name in _OURS:
            return Template((_HERE / name).read_text(encoding="utf-8"), name=name, loader=self)
        if name != _MENU:
            return super()._create_template(name)
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        return Template(text.replace(_PLACE, f"{_PLACE}{_ENTRIES}", 1), name=name, loader=self)


_HERE = Path(__file__).parent / "templates"
_OURS = frozenset({"flower_page.html"})
_MENU = "navbar.html"
_PLACE = """<ul class="app-nav navbar-nav">"""
_ENTRIES = """
<li class="nav-item"><a class="nav-link{% if active_tab == 'runs' %} active{% end %}" href="{{ reverse_url('runs') }}"
  {% if active_tab == 'runs' %}aria-current="page"{% end %}>Runs</a></li>
<li class="nav-item"><a class="nav-link" href="{{ reverse_url('approvals') }}">Approvals</a></li>"""


def mount(engine: Any, flower: Any) -> None:
    """Serve the URLs of an :class:`~stageflow_durable.Engine` in this Flower."""
    prefix = f"/{given}" if (given := (flower.options.url_prefix or "").strip("/")) else ""
    look, respond = handlers_of(engine)
    below = re.escape(prefix)
    by_url = {"look": look, "respond": respond, "prefix": prefix}
    of_engine = {"look": signed_in.look, "respond": partial(signed_in.respond, engine), "prefix": prefix}
    pages = [
        url(rf"{below}/{signed_in.LIST}/", RedirectHandler, {"url": f"{prefix}/{signed_in.LIST}"}),
        url(rf"{below}/(?:{CALLBACKS}|{APPROVALS})/.*", ByUrl, by_url),
        url(rf"{below}/{signed_in.LIST}", SignedIn, of_engine, name="approvals"),
        url(rf"{below}/{signed_in.ONE}", SignedIn, of_engine),
    ]
    monitor = Monitor(engine, lambda: engine.settings.max_payload_bytes, SystemClock().time)
    flower.add_handlers(".*", [*pages, *pages_of(monitor, prefix, below)])
    flower.settings["template_loader"] = _Templates(flower.settings["template_path"])


def run(engine: Any, arguments: Sequence[str]) -> None:
    """Run Flower with an engine's URLs until it is stopped, with the options of ``celery flower``."""
    command.apply_env_options()
    command.apply_options("flower", list(arguments))
    command.extract_settings()
    command.setup_logging()
    flower = Flower(capp=engine.celery_app, options=command.options, **command.settings)
    mount(engine, flower)
    REGISTRY.register(StageflowCollector(engine.store))
    atexit.register(flower.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    port = flower.start_http_server()
    command.print_banner(engine.celery_app, "ssl_options" in command.settings, port)
    try:
        flower.start()
    except (KeyboardInterrupt, SystemExit):
        flower.stop()
