"""The list of runs: what needs somebody first, filters that are typed, clicked and linked to, and verbs for many."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from stageflow_durable.model.status import RunStatus
from tests.browser.conftest import Desk, seriously_wrong

ROWS = ".sf-table tbody tr[data-run]"


@pytest.fixture
def full(desk: Desk) -> Desk:
    desk.some()
    return desk


def statuses(page: Page) -> set[str]:
    return set(page.locator(f"{ROWS} .sf-pill").all_inner_texts())


def test_what_needs_somebody_comes_first_with_what_to_do(full: Desk, shot: Any) -> None:
    page = full.page("runs")
    expect(page.get_by_role("heading", name="Needs you: 4 runs")).to_be_visible()
    parked = page.locator(".sf-need", has_text="parked: has a bug")
    expect(parked).to_contain_text("KeyError: 'currency'")
    expect(page.locator(".sf-chart", has_text="checkout")).to_contain_text("2 parked")
    expect(page.locator(".sf-live")).to_have_text("Live")
    expect(page.locator(ROWS)).to_have_count(42)
    shot(page, "runs")
    parked.get_by_role("link", name="Show all 2").click()
    expect(page.locator(ROWS)).to_have_count(2)
    assert statuses(page) == {"parked"}
    assert "park_reason=bug" in page.url
    assert full.complaints == []


def test_filters_are_typed_clicked_and_linked_to(full: Desk) -> None:
    site = full.site()
    page = full.page("runs", site=site)
    box = page.get_by_role("searchbox", name="Filter runs")
    box.fill("status:compensated pipeline:checkout since:2h")
    box.press("Enter")
    expect(page.locator(ROWS)).to_have_count(2)
    assert statuses(page) == {"compensated"}
    page.get_by_role("button", name="Remove since 2h").click()
    expect(page).not_to_have_url(re.compile("since"))
    page.go_back()
    expect(box).to_have_value("status:compensated pipeline:checkout since:2h")
    linked = full.page("runs?client=desk", site=site)
    expect(linked.locator(ROWS)).to_have_count(2)
    linked.locator(ROWS).first.get_by_role("link", name="refund").click()
    expect(linked).to_have_url(re.compile("client=desk&pipeline=refund"))
    box.fill("key:order-A-7")
    box.press("Enter")
    expect(page.locator(ROWS)).to_have_count(1)
    box.fill("order=A-8")
    box.press("Enter")
    expect(page.locator(ROWS)).to_contain_text("order-A-8")
    box.fill("status:tired")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("one of live, attention")
    box.fill("whatever it is")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("is no filter")
    run_id = full.engine.runs(limit=1)[0].run_id
    box.fill(run_id[:12])
    box.press("Enter")
    expect(page).to_have_url(re.compile(f"/runs/{run_id}"))


def test_pages_go_on_and_back(desk: Desk) -> None:
    for number in range(60):
        desk.order(number)
    page = desk.page("runs")
    expect(page.locator(ROWS)).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    expect(page.locator(ROWS)).to_have_count(10)
    expect(page.locator(ROWS).last).to_contain_text("order-A-0")
    page.get_by_role("button", name="Newer").click()
    expect(page.locator(ROWS)).to_have_count(50)


def test_a_new_run_appears_by_itself_and_nothing_moves_while_it_is_stopped(full: Desk) -> None:
    page = full.page("runs?status=parked")
    expect(page.locator(ROWS)).to_have_count(2)
    full.order(90, cents=13)
    expect(page.locator(ROWS)).to_have_count(3)
    page.get_by_role("button", name="Updates: Live").click()
    full.order(91, cents=13)
    page.wait_for_timeout(2500)
    expect(page.locator(ROWS)).to_have_count(3)
    page.get_by_role("button", name="Updates: Stopped").click()
    expect(page.locator(ROWS)).to_have_count(4)


HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_hidden_tab_asks_nothing_and_catches_up_once_it_is_seen(full: Desk) -> None:
    page = full.page("runs?status=parked")
    live = page.locator(".sf-live")
    expect(live).to_have_text("Live")
    page.evaluate(HIDE, True)
    expect(live).to_have_text("Paused")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    full.order(90, cents=13)
    page.wait_for_timeout(2500)
    assert asked == []
    page.evaluate(HIDE, False)
    expect(page.locator(ROWS)).to_have_count(3)


def test_where_events_do_not_stream_the_page_asks_now_and_then(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stageflow_durable.web.flower_monitor.MOST_STREAMS", 0)
    page = full.page("runs?status=parked")
    expect(page.locator(".sf-live")).to_have_text("Every few seconds")
    full.order(90, cents=13)
    expect(page.locator(ROWS)).to_have_count(3)
    assert [one for one in full.complaints if "503" not in one] == []


def test_many_are_resumed_after_a_look_at_what_would_happen(full: Desk, shot: Any) -> None:
    full.shop.broken = False
    page = full.page("runs?status=parked")
    page.get_by_role("button", name="Resume…", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("2 runs of 2 that fit")
    dialog.get_by_role("button", name="Resume").click()
    assert {run.status for run in full.engine.runs(status="parked")} == {RunStatus.PARKED}, "a reason has to be said"
    dialog.get_by_label("Why").fill("the bank is mended")
    shot(page, "bulk")
    dialog.get_by_role("button", name="Resume").click()
    expect(page.locator(".sf-job")).to_contain_text("resume: 2 of 2, done")
    full.go()
    expect(page.locator(".sf-none")).to_have_text("No run fits.")
    assert full.engine.runs(status="parked") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_between_anybody_and_the_list(full: Desk, scheme: Any) -> None:
    page = full.page("runs?status=parked", color_scheme=scheme)
    expect(page.locator(ROWS)).to_have_count(2)
    assert seriously_wrong(page) == []
    page.get_by_role("button", name="Cancel…", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("that fit")
    assert seriously_wrong(page) == []


def test_the_list_is_used_at_400_pixels(full: Desk, shot: Any) -> None:
    page = full.page("runs", viewport={"width": 400, "height": 900}, color_scheme="dark")
    expect(page.locator(ROWS).first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shot(page, "runs-narrow")
    page.locator(ROWS).first.get_by_role("link").first.click()
    expect(page.locator(".sf-names button").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
