"""A headless Chromium, and a Flower of an engine in this process that it looks at."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests
from stageflow_durable.testing.engine import StillGoing
from tests.browser.shop import Order, Shop
from tests.unit.web.flower_server import served

NAMES = ("chromium", "chromium-browser", "google-chrome")
CREDENTIALS = {"username": "ann", "password": "pa:ss"}
BASIC: dict[str, Any] = {"basic_auth": ["ann:pa:ss"]}
expect.set_options(timeout=8_000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("STAGEFLOW_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "no Chromium: apt-get install chromium, or say where one is by STAGEFLOW_TEST_CHROMIUM"
    switches = ["--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=switches)
        yield started
        started.close()


class Site:
    """A Flower that serves an engine, in a thread of its own."""

    def __init__(self, engine: InProcessEngine, prefix: str, options: dict[str, Any]) -> None:
        self._ready: Future[str] = Future()
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(engine, prefix, options), daemon=True)
        self._thread.start()
        self.url = self._ready.result(20)

    def _run(self, engine: InProcessEngine, prefix: str, options: dict[str, Any]) -> None:
        async def serve() -> None:
            async with served(engine, prefix, **options) as client:  # type: ignore[arg-type]  # a whole engine here
                self._ready.set_result(str(client.base_url).rstrip("/") + (f"/{prefix}" if prefix else ""))
                await self._over.wait()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)


class Desk:
    """An engine with its shop, and pages of it in the browser. ``hurt``: what pages complained of."""

    def __init__(self, browser: Browser, engine: InProcessEngine, shop: Shop, clock: FakeClock) -> None:
        self.browser, self.engine, self.shop, self.clock = browser, engine, shop, clock
        self._open: list[Any] = []
        self.complaints: list[str] = []

    def order(self, number: int, cents: int = 4200, **more: Any) -> str:
        """A run of an order, as far as it goes."""
        given = Order(order_id=f"A-{number}", cents=cents)
        key = f"order-A-{number}"
        options = {"client_id": "web", "idempotency_key": key, "attributes": {"order": f"A-{number}"}, **more}
        run_id = self.engine.enqueue("checkout", given, **options).run_id
        self.go()
        self.clock.advance(3)
        return run_id

    def go(self) -> None:
        """Let workers work until nothing moves any more by itself: some runs may wait for somebody."""
        with suppress(StillGoing):
            self.engine.drain()

    def some(self) -> None:
        """A day at the shop."""
        for number in range(40):
            self.order(number, cents={7: 120_000, 11: 120_000, 23: 13, 29: 13}.get(number, 4200 + number))
            self.clock.advance(30)
        for _ask in range(2):
            self.engine.enqueue("refund", {"order": "A-1"}, client_id="desk")
        self.go()

    def site(self, prefix: str = "", **options: Any) -> str:
        """Serve it; returns the address of its pages."""
        site = Site(self.engine, prefix, {**BASIC, **options})
        self._open.append(site)
        return site.url

    def page(self, path: str, *, site: str | None = None, **options: Any) -> Page:
        """A page, as somebody who is signed in sees it."""
        given = {"viewport": {"width": 1360, "height": 900}, "http_credentials": CREDENTIALS, **options}
        context = self.browser.new_context(**given)
        self._open.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.goto(f"{site or self.site()}/{path}")
        return page

    def close(self) -> None:
        """Contexts first: a stream that is open holds its server."""
        for one in sorted(self._open, key=lambda one: isinstance(one, Site)):
            one.close()


@pytest.fixture
def desk(browser: Browser) -> Iterator[Desk]:
    clock = FakeClock(time.time() - 3600)
    shop = Shop(clock)
    with engine_for_tests(shop.pipelines, clock=clock, store=MemoryStore(b"key", clock=clock.time)) as engine:
        made = Desk(browser, engine, shop, clock)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def shot(tmp_path: Path) -> Any:
    """Keep a picture of a page: under STAGEFLOW_TEST_SCREENSHOTS, where the documentation has them, if it is set."""
    where = Path(os.environ.get("STAGEFLOW_TEST_SCREENSHOTS") or tmp_path)
    where.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str) -> Path:
        page.screenshot(path=where / f"{name}.png")
        return where / f"{name}.png"

    return take


def seriously_wrong(page: Page) -> list[str]:
    """What axe finds that is serious or worse, each with where."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
