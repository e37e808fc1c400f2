"""Somebody who decides by the links in their mails, and does not know whether an answer that did not come was a yes."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from tests.acceptance.refunds.shop import Shop

_DIGEST = re.compile(r'name="digest" value="([0-9a-f]+)"')


@dataclass(frozen=True)
class Intent:
    """What a person wants: ``decision``, ``approve`` or ``deny``. ``trouble``: what happens around their POST. The
    server is killed while it comes in, so that perhaps no answer comes (``cut``), or behind its answer, which they do
    not see (``unread``); a worker is killed meanwhile (``worker``); they click twice (``twice``).
    """

    decision: str
    trouble: str = ""


class Over(Exception):
    """The test has ended before this person has."""


@dataclass
class Person:
    """``wants``: by order. ``became``: what became of it, by order: ``counted``, or why not. ``unanswered``: how often
    it counted without an answer that they saw. ``over``: set it, and they stop.
    """

    name: str
    shop: Shop
    wants: Mapping[str, Intent]
    chance: random.Random
    became: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    unanswered: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Look into the mailbox until everything is decided that is to be."""
        alone = httpx.Limits(max_keepalive_connections=0)  # a connection that the server's death closed is no news
        with httpx.Client(timeout=20, limits=alone) as self._browser:
            while self.wants.keys() - self.became.keys():
                links = self.shop.links(self.name)
                for order in [order for order in links if order not in self.seen]:
                    self.seen.add(order)
                    self._scan(links[order])
                    if order in self.wants:
                        self.became[order] = self._decide(links[order], self.wants[order])
                self._pause()

    def _pause(self) -> None:
        if self.over.wait(0.1):
            raise Over

    def _scan(self, link: str) -> None:
        """What scanners of mails do with every link before anybody sees it."""
        for method in ("HEAD", "GET", "GET"):
            self._open(link, method)

    def _open(self, link: str, method: str = "GET") -> httpx.Response:
        """Try until the server answers."""
        while True:
            with suppress(httpx.TransportError):
                answer = self._browser.request(method, link)
                if answer.status_code != 503:
                    return answer
            self._pause()

    def _decide(self, link: str, intent: Intent) -> str:
        unanswered, trouble = False, intent.trouble
        while True:
            page = self._open(link)
            if page.status_code == 410 and "This link was used" in page.text:
                assert unanswered, f"{link} was used by somebody else"
                self.unanswered += 1
                return "counted"
            if page.status_code == 410 and "This link has expired" in page.text:
                return "expired"
            if page.status_code == 409 and " already" in page.text:
                return "late"
            assert page.status_code == 200, page.text
            digest = _DIGEST.search(page.text)
            if digest is None:  # the mail was faster than the run
                self._pause()
                continue
            form = {"digest": digest[1], "decision": intent.decision, "reason": f"{self.name} says so"}
            answer = self._send(link, form, trouble)
            if answer == 200 and trouble == "unread":
                self.shop.server.kill()
                answer = None
            if answer == 200:
                return "counted"
            unanswered = unanswered or answer is None
            trouble = trouble if trouble == "unread" else ""

    def _send(self, link: str, form: Mapping[str, str], trouble: str) -> int | None:
        """Send the form; returns the status of the answer, or None without one."""
        clicks = 2 if trouble == "twice" else 1
        with ThreadPoolExecutor(clicks) as clicking:
            sent = [clicking.submit(self._post, link, form) for _ in range(clicks)]
            if trouble == "cut":
                self.over.wait(self.chance.uniform(0, 0.04))
                self.shop.server.kill()
            if trouble == "worker":
                self.shop.strike("worker", self.chance)
            answers = [one.result() for one in sent]
        assert answers.count(200) <= 1, "a link decides once"
        return 200 if 200 in answers else None if None in answers else answers[0]

    def _post(self, link: str, form: Mapping[str, str]) -> int | None:
        try:
            answer = int(self._browser.post(link, data=dict(form)).status_code)
        except httpx.TransportError:
            return None
        return None if answer == 503 else answer  # the database went away, before it was written or after
