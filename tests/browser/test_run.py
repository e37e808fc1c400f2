"""One run: its picture, its stages, how it is followed, and what is done to it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import expect

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.status import RunStatus
from tests.browser.conftest import Desk, seriously_wrong
from tests.browser.shop import HOSTILE, Order

STAGES = ".sf-names button"


def test_a_run_that_was_undone_is_drawn_with_its_attempts_waits_and_the_way_back(desk: Desk, shot: Any) -> None:
    run_id = desk.order(7, cents=120_000)
    page = desk.page(f"runs/{run_id}")
    expect(page.locator("h1")).to_have_text("checkout v1")
    expect(page.locator(STAGES)).to_have_count(6)
    expect(page.locator(".sf-time .sf-bar-retry")).to_have_count(2)
    expect(page.locator(".sf-time .sf-bar-rejected")).to_have_count(1)
    expect(page.locator(".sf-time .sf-bar-undo")).to_have_count(2)
    expect(page.locator(".sf-time .sf-edge-back")).to_have_count(1)
    expect(page.locator(".sf-time .sf-bar-ghost")).to_have_count(2)
    detail = page.locator(".sf-detail")
    expect(detail).to_contain_text("card declined")
    expect(detail.locator("mark")).to_have_text(["3418"])
    lines = detail.locator("details", has=page.get_by_text("Log lines", exact=True)).first
    lines.locator("summary").click()
    expect(lines.locator("pre")).to_contain_text(r"Z WARNING shop: charging https://***@bank/1\x1b[31m")
    expect(detail.locator("summary", has_text="Traceback")).to_have_count(2)
    expect(detail.locator("pre", has_text="TransientError: 503").first).to_contain_text("\n  at ", use_inner_text=False)
    expect(page.locator(".sf-verdict")).to_contain_text("as the engine wrote them; sealed with the audit key")
    shot(page, "run-undone")
    page.get_by_role("button", name=re.compile("^reserve: undone")).click()
    expect(detail).to_contain_text("R-A-7")
    assert "secret" not in page.content()
    assert desk.complaints == []


def test_a_stage_is_chosen_by_keys_and_by_its_place_in_the_picture(desk: Desk) -> None:
    page = desk.page(f"runs/{desk.order(1)}")
    page.get_by_role("button", name=re.compile("^validate")).focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".sf-detail h2")).to_have_text("reserve")
    page.locator(".sf-lane").nth(4).click()
    expect(page.locator(".sf-detail h2")).to_have_text("ship")
    expect(page).to_have_url(re.compile("stage=ship"))


def test_a_running_run_is_followed_within_a_second(desk: Desk) -> None:
    run_id = desk.engine.enqueue("checkout", Order(order_id="A-1")).run_id
    page = desk.page(f"runs/{run_id}")
    expect(page.locator(".sf-live")).to_have_text("Live")
    expect(page.locator(".sf-run-head .sf-pill")).to_have_text("pending")
    began = time.monotonic()
    desk.go()
    expect(page.locator(".sf-run-head .sf-pill")).to_have_text("succeeded")
    took = time.monotonic() - began
    expect(page.locator(".sf-time .sf-bar-ok")).to_have_count(6)
    expect(page.locator(".sf-detail h2")).to_have_text("mail")
    expect(page.locator(".sf-events li").last).to_contain_text("run.succeeded")
    assert took < 2.0, took  # a second, and what the run itself takes


def test_two_thousand_stages_are_drawn_within_a_second_and_there_is_a_way_to_more(desk: Desk) -> None:
    run_id = desk.engine.enqueue("wide", {}).run_id
    desk.go()
    page = desk.page(f"runs/{run_id}")
    expect(page.locator(STAGES)).to_have_count(2000)
    took = page.evaluate("""() => new Promise((done) => {
        const began = performance.now(), find = document.querySelector(".sf-find");
        find.dispatchEvent(new Event("input"));
        requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
    })""")
    assert took < 1000, took
    page.get_by_label("Find a stage").fill("s19")
    expect(page.locator(STAGES)).to_have_count(100)
    longer = desk.engine.enqueue("wider", {}).run_id
    page = desk.page(f"runs/{longer}")
    expect(page.locator(STAGES)).to_have_count(2000)
    page.get_by_role("button", name="Draw 50 more").click()
    expect(page.locator(STAGES)).to_have_count(2050)


def test_what_others_wrote_is_shown_and_does_nothing(desk: Desk) -> None:
    harm: dict[str, Any] = {"client_id": HOSTILE[:-5], "idempotency_key": HOSTILE[:-5], "metadata": {"a": HOSTILE}}
    run_id = desk.engine.enqueue("harm", {HOSTILE: HOSTILE}, **harm).run_id
    desk.go()
    site = desk.site()
    for path in ("runs", f"runs/{run_id}", "stageflow/workers"):
        page = desk.page(path, site=site)
        page.wait_for_timeout(700)
        assert page.evaluate("window.hurt") is None
        assert page.locator("main img").count() == 0
        shown = page.locator("main").inner_text()
        assert "\u202e" not in shown
        assert "\x1b" not in shown
    page = desk.page(f"runs/{run_id}", site=site)
    expect(page.locator(".sf-detail")).to_contain_text("<img src=x onerror=window.hurt=1>")
    page.get_by_role("button", name=re.compile("^speak")).click()
    page.get_by_role("button", name=re.compile("Show all 1,0")).click()
    expect(page.locator(".sf-detail pre").first).to_contain_text("xxxx")
    expect(page.get_by_role("button", name=re.compile("Show all 1,0"))).to_have_count(0)
    assert len(page.locator(".sf-detail pre").first.text_content() or "") > 1_000_000
    assert desk.complaints == []


def test_where_an_attempt_raised_is_shown_line_by_line_and_only_where_it_did(desk: Desk) -> None:
    run_id = desk.order(1, cents=13)
    page = desk.page(f"runs/{run_id}")
    detail = page.locator(".sf-detail")
    page.get_by_role("button", name=re.compile("^charge: ")).click()
    detail.get_by_text("Traceback").click()
    expect(detail.locator("details pre")).to_have_text(re.compile(r"^KeyError: 'currency'\n  at .*charge: raise "))
    page.get_by_role("button", name=re.compile("^reserve: ")).click()
    expect(detail).to_contain_text("R-A-1")
    expect(detail.get_by_text("Traceback")).to_have_count(0)


def test_an_erased_run_offers_nothing_that_would_be_refused(desk: Desk) -> None:
    run_id = desk.order(7, cents=120_000)
    page = desk.page(f"runs/{run_id}")
    expect(page.get_by_role("button", name=re.compile("Reveal|Fork"))).not_to_have_count(0)
    desk.engine.erase(run_id, reason="request 7", actor="ann")
    expect(page.locator(".sf-note")).to_contain_text("Its values were erased")
    expect(page.get_by_role("button", name=re.compile("Reveal|Fork"))).to_have_count(0)
    assert desk.complaints == []


# --- what is done -----------------------------------------------------------------------------------------------------


def test_a_parked_run_is_resumed_with_a_reason(desk: Desk) -> None:
    run_id = desk.order(1, cents=13)
    desk.shop.broken = False
    page = desk.page(f"runs/{run_id}")
    page.get_by_role("group", name="What may be done now").get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("What will happen: carries on at charge.")
    dialog.get_by_label("Why").fill("the bank is mended")
    assert seriously_wrong(page) == []
    dialog.get_by_role("button", name="Resume").click()
    expect(page.locator(".sf-run-head .sf-pill")).to_have_text("running")
    desk.go()
    expect(page.locator(".sf-run-head .sf-pill")).to_have_text("succeeded")
    expect(page.locator(".sf-events .sf-person")).to_contain_text("the bank is mended")
    assert [event.data["actor"] for event in desk.engine.history(run_id) if "operator" in event.type] == ["ann"]


def test_an_approval_a_signal_and_a_fork_are_done_from_the_page(desk: Desk) -> None:
    run_id = desk.engine.enqueue("refund", {"order": "A-1"}).run_id
    desk.go()
    page = desk.page(f"runs/{run_id}")
    acts = page.get_by_role("group", name="What may be done now")
    acts.get_by_role("button", name="Approve release…").click()
    expect(page.get_by_role("dialog")).to_contain_text('"cents": 4200')
    page.get_by_label("Why").fill("right")
    page.get_by_role("dialog").get_by_role("button", name="Approve release").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    desk.go()
    acts.get_by_role("button", name="Signal word…").click()
    page.get_by_label("What it says, as JSON").fill("{")
    page.get_by_label("Why").fill("they called")
    page.get_by_role("dialog").get_by_role("button", name="Signal word").click()
    expect(page.get_by_role("alert")).to_contain_text("is not JSON")
    page.get_by_label("What it says, as JSON").fill('{"ok": true}')
    page.get_by_role("dialog").get_by_role("button", name="Signal word").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    desk.go()
    expect(page.locator(".sf-run-head .sf-pill")).to_have_text("succeeded")
    page.get_by_role("button", name=re.compile("^look-up")).click()
    page.locator(".sf-detail").get_by_role("button", name="Fork from look-up…").click()
    page.get_by_label("Why").fill("once more")
    page.get_by_role("dialog").get_by_role("button", name="Fork from look-up").click()
    page.locator(".sf-toast a").click()
    expect(page).not_to_have_url(re.compile(run_id))
    expect(page.locator("h1")).to_have_text("refund v1")


def test_a_run_that_changed_meanwhile_is_left_alone_and_that_is_said(desk: Desk) -> None:
    run_id = desk.order(1, cents=13)
    page = desk.page(f"runs/{run_id}")
    page.get_by_role("button", name="Updates: Live").click()
    acts = page.get_by_role("group", name="What may be done now")
    acts.get_by_role("button", name="Compensate…").click()
    page.get_by_label("Why").fill("give it back")
    desk.engine.resume(run_id, reason="mine first", actor="max")
    desk.go()
    page.get_by_role("dialog").get_by_role("button", name="Compensate").click()
    expect(page.get_by_role("alert")).to_contain_text("nothing was done")
    assert desk.engine.run(run_id).status is RunStatus.PARKED


def test_values_are_revealed_for_a_reason(desk: Desk) -> None:
    page = desk.page(f"runs/{desk.order(1)}")
    expect(page.locator("#sf-input")).to_be_visible()
    assert "DE89" not in page.content()
    page.get_by_role("button", name="Reveal values…").click()
    page.get_by_label("Why").fill("a complaint")
    page.get_by_role("dialog").get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("dialog")).to_contain_text("DE89 3704 0044")


# --- who may, and what fails ------------------------------------------------------------------------------------------


def test_a_wrong_password_sees_nothing(desk: Desk) -> None:
    desk.order(1)
    page = desk.page("runs", http_credentials={"username": "ann", "password": "wrong"})
    assert "checkout" not in page.content()
    assert page.locator("h1").count() == 0


def test_a_post_from_elsewhere_does_nothing(desk: Desk) -> None:
    run_id = desk.order(1, cents=13)
    site = desk.site()
    page = desk.page("runs", site=site)
    sent = page.evaluate(
        """(path) => fetch(path, {method: "POST", headers: {"Content-Type": "application/json"},
                                  body: JSON.stringify({reason: "x"})}).then((answer) => answer.status)""",
        f"{site}/api/stageflow/runs/{run_id}/resume",
    )
    assert (sent, desk.engine.run(run_id).status) == (403, RunStatus.PARKED)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"read_only": True}, "for looking only (--read-only)"), ({"basic_auth": None}, "asks nobody who they are")],
)
def test_where_nobody_may_change_anything_there_are_no_buttons(desk: Desk, options: Any, said: str) -> None:
    run_id = desk.order(1, cents=13)
    page = desk.page(f"runs/{run_id}", site=desk.site(**options))
    expect(page.locator(".sf-note")).to_contain_text(said)
    assert page.locator(".sf-acts button").count() == 0
    assert ("A-1" in page.locator(".sf-body").first.inner_text()) is (options == {"read_only": True})


def test_below_a_prefix_everything_finds_its_way(desk: Desk) -> None:
    desk.order(1)
    page = desk.page("runs", site=desk.site("monitor"))
    page.locator(".sf-table tbody a.sf-id").click()
    expect(page.locator(".sf-live")).to_have_text("Live")
    page.get_by_role("link", name="Runs", exact=True).last.click()
    page.get_by_role("link", name="Workers and queues").click()
    expect(page.get_by_role("heading", name="Queues", exact=True)).to_be_visible()
    assert desk.complaints == []


def test_a_database_that_goes_away_is_said_until_it_is_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    page = desk.page(f"runs/{desk.order(1)}")
    live = page.locator(".sf-live")
    expect(live).to_have_text("Live")

    def away(*_given: Any, **_more: Any) -> None:
        raise StoreUnavailable("postgresql://ann:pw@db does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(desk.engine.store, "facts", away, raising=False)
        expect(live).to_have_text("Not up to date")
        assert "ann:pw" not in page.content()
    desk.engine.reveal(desk.engine.runs()[0].run_id, reason="an event", actor="max")
    expect(live).to_have_text("Live")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_between_anybody_and_a_run(desk: Desk, scheme: Any, shot: Any) -> None:
    run_id = desk.order(1, cents=13)
    site = desk.site()
    page = desk.page(f"runs/{run_id}", site=site, color_scheme=scheme)
    expect(page.locator(".sf-verdict")).to_contain_text("events")
    assert seriously_wrong(page) == []
    if scheme == "dark":
        shot(page, "run-parked-dark")
    workers = desk.page("stageflow/workers", site=site, color_scheme=scheme)
    expect(workers.get_by_role("heading", name="Queues", exact=True)).to_be_visible()
    assert seriously_wrong(workers) == []


def test_what_workers_and_limits_hold_is_seen(desk: Desk) -> None:
    site = desk.site()
    desk.order(1)
    page = desk.page("limits", site=site)
    expect(page.locator(".sf-limit")).to_contain_text("bank")
    expect(page.locator(".sf-limit")).to_contain_text("0 of 4")
    assert seriously_wrong(page) == []
    desk.engine.enqueue("refund", {"order": "A-1"})
    desk.go()
    page.get_by_role("link", name="Workers and queues").click()
    expect(page.get_by_role("heading", name="What runs wait for")).to_be_visible()
    expect(page.get_by_role("row", name="an approval 1")).to_be_visible()
    assert desk.complaints == []
