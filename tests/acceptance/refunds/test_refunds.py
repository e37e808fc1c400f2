"""The example of the documentation under fire: refunds that people approve by links.

Workers and the server of the links are killed at random, around decisions too. In the end the bank has moved what was
approved, once, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import httpx
import pytest

from stageflow_durable import RunHandle, RunStatus
from stageflow_durable.embedded.ports import free_port
from tests.acceptance.refunds.person import Intent, Person
from tests.acceptance.refunds.shop import Shop, load
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, Pair, on
from tests.services.broker import BrokerService
from tests.services.missing import wanted
from tests.services.postgres import PostgresService
from tests.services.rows import rows_of

PAIRS = (POSTGRES_VALKEY, *([SQLITE_VALKEY] if wanted("STAGEFLOW_TEST_CHAOS") else []))
"""Half a minute each: on SQLite by ``make chaos``."""

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.slow, on(*PAIRS)]

DECIDE_WITHIN = 30.0
SECONDS = 12.0
"""How long orders come in, and processes are killed."""

APPROVED, TAKEN_BACK, DENIED, CONTESTED, LEFT = 14, 2, 4, 2, 2
SURELY = Counter({"approve": 5, "deny": 1, "": LEFT})
"""What is decided at least: on a slow machine some links expire before they are opened."""

TROUBLES = ("cut", "cut", "unread", "unread", "worker", "twice", "twice")
BLOWS = ("worker", "child", "child", "child", "server")


@dataclass(frozen=True)
class Case:
    """One order: who wants what of its refund, and what its customer would get. ``told``: whether they can be told."""

    order: str
    wants: Mapping[str, Intent]
    cents: int
    told: bool = True


@pytest.fixture(scope="module")
def bare_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _database_numbers: Iterator[int]
) -> Iterator[Shop]:
    """The example on the pair that ``on(...)`` names; nothing is started."""
    pair: Pair = request.param
    directory = tmp_path_factory.mktemp("refunds")
    broker: BrokerService = request.getfixturevalue("valkey_service")
    broker.ensure_running()
    url, keys = f"http://127.0.0.1:{free_port()}", {"audit_key": "the audit key of this test", "max_recoveries": 50}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFUNDS_OUTSIDE", str(directory / "outside.db"))
        patch.setenv("REFUNDS_DECIDE_WITHIN", str(DECIDE_WITHIN))
        load(patch)
        database = _database(request, pair, directory)
        shop = Shop(directory, database, broker, next(_database_numbers), public_url=url, **keys)
        shop.open()
        try:
            yield shop
        finally:
            shop.close()


def _database(request: pytest.FixtureRequest, pair: Pair, directory: Path) -> str:
    if pair.database == "sqlite":
        return f"sqlite:///{directory}/stageflow.db"
    postgres: PostgresService = request.getfixturevalue("postgres_service")
    postgres.ensure_running()
    return postgres.create_database()


def planned(chance: random.Random) -> list[Case]:
    """Every order, in the order in which they come in: those that nobody decides first, since they take longest."""
    troubles = [*TROUBLES, *[""] * (APPROVED + TAKEN_BACK + DENIED - len(TROUBLES))]
    chance.shuffle(troubles)
    wants: list[Mapping[str, Intent]] = []
    for number, trouble in enumerate(troubles):
        decision = "approve" if number < APPROVED + TAKEN_BACK else "deny"
        wants.append({chance.choice(("ann", "max")): Intent(decision, trouble)})
    wants += [{"ann": Intent("approve"), "max": Intent("deny")}] * CONTESTED
    cases = [
        Case(f"O-{number}", wanted, 1000 + number, told=not APPROVED <= number < APPROVED + TAKEN_BACK)
        for number, wanted in enumerate(wants)
    ]
    chance.shuffle(cases)
    return [*(Case(f"L-{number}", {}, 500) for number in range(LEFT)), *cases]


def test_refunds_that_people_approve_by_links_agree_with_the_bank_whoever_is_killed(bare_site: Shop) -> None:
    shop, seed = bare_site, int(os.environ.get("STAGEFLOW_TEST_SEED") or random.randrange(2**32))
    print(f"STAGEFLOW_TEST_SEED={seed} plans the same again")
    chance = random.Random(seed)
    cases = planned(chance)
    _stock(shop, cases)
    shop.start(seed)
    people = [_person(name, shop, cases, random.Random(f"{seed} {name}")) for name in ("ann", "max")]
    with ThreadPoolExecutor(len(people)) as deciding:
        try:
            runs = _storm(shop, cases, [deciding.submit(person.work) for person in people], chance)
        finally:
            for person in people:
                person.over.set()
    found = _at_rest(shop, runs)
    decided = _decided(cases, people)
    print(_story(shop, decided, people))
    assert Counter(decided.values()) >= SURELY
    assert sum(person.unanswered for person in people) and shop.deaths
    assert found == {case.order: _status(case, decided[case.order]) for case in cases}
    assert _moved(shop) == {case.order: moves for case in cases if (moves := _moves(case, decided[case.order]))}
    assert _mailed(shop) == {case.order: _mails(case, decided[case.order]) for case in cases}
    links = [shop.links(person.name) for person in people]
    for order, run in runs.items():
        _decided_once(shop, run, decided[order], {_hash(mailed[order]) for mailed in links})
    assert [checked.problems for checked in shop.engine.audit() if checked.problems] == []
    with httpx.Client(timeout=20) as browser:
        for order, link in (entry for mailed in links for entry in mailed.items()):
            _decides_no_more(shop, runs[order], browser, link, decided[order])


# --- what happens -----------------------------------------------------------------------------------------------------


def _stock(shop: Shop, cases: Sequence[Case]) -> None:
    import_module("outside").order("")  # makes the tables
    for number, case in enumerate(cases):
        customer = f"customer-{number}@example.{'com' if case.told else 'invalid'}"
        shop.query("INSERT INTO orders VALUES (?, ?, ?, 100)", [case.order, customer, case.cents + 100])


def _person(name: str, shop: Shop, cases: Sequence[Case], chance: random.Random) -> Person:
    return Person(name, shop, {case.order: case.wants[name] for case in cases if name in case.wants}, chance)


def _storm(
    shop: Shop, cases: Sequence[Case], people: Sequence[Future[None]], chance: random.Random
) -> dict[str, RunHandle]:
    """Claims come in and processes are killed, until people have decided everything."""
    agenda: list[tuple[float, str | Case]] = [(SECONDS * n / len(cases), case) for n, case in enumerate(cases)]
    agenda += [(chance.uniform(0.5, SECONDS), target) for target in BLOWS]
    agenda.sort(key=lambda entry: entry[0])
    runs: dict[str, RunHandle] = {}
    began = time.monotonic()

    def goes_on() -> bool:
        shop.revive()
        while agenda and time.monotonic() - began >= agenda[0][0]:
            what = agenda.pop(0)[1]
            if isinstance(what, Case):
                claim = {"order_id": what.order, "why": "<b>it does not fit</b>"}
                runs[what.order] = shop.engine.enqueue("refunds", claim, idempotency_key=what.order, actor="joe")
            else:
                shop.strike(what, chance)
        for person in people:
            if person.done():
                person.result()  # what failed there fails here
        return not agenda and all(person.done() for person in people)

    shop.until(goes_on, "people have decided everything", within=80)
    return runs


def _at_rest(shop: Shop, runs: Mapping[str, RunHandle]) -> dict[str, RunStatus]:
    shop.at_rest(runs.values(), within=60, revive=True)
    shop.until(shop.answers, "the server answers")
    return {order: run.status() for order, run in runs.items()}


def _decided(cases: Sequence[Case], people: Sequence[Person]) -> dict[str, str]:
    """What was decided of each order, as those know it who did; "" where nobody was heard in time."""
    decided = {case.order: "" for case in cases}
    for person in people:
        for order, became in person.became.items():
            if became == "counted":
                assert not decided[order], f"both decided about {order}"
                decided[order] = person.wants[order].decision
    return decided


def _story(shop: Shop, decided: Mapping[str, str], people: Sequence[Person]) -> str:
    unanswered = sum(person.unanswered for person in people)
    late = Counter(became for person in people for became in person.became.values() if became != "counted")
    return (
        f"{dict(Counter(decided.values()))}, {unanswered} counted without an answer seen, not heard {dict(late)}; "
        f"died in bodies: {dict(shop.deaths)}"
    )


# --- what has to be true ----------------------------------------------------------------------------------------------


def _status(case: Case, decision: str) -> RunStatus:
    if decision != "approve":
        return RunStatus.FAILED  # nothing was done that would have to be undone
    return RunStatus.SUCCEEDED if case.told else RunStatus.COMPENSATED


def _moves(case: Case, decision: str) -> list[int]:
    if decision != "approve":
        return []
    return [case.cents] if case.told else [case.cents, -case.cents]


def _moved(shop: Shop) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for order, cents in shop.query("SELECT order_id, cents FROM moves ORDER BY rowid"):
        found.setdefault(order, []).append(cents)
    return found


def _mails(case: Case, decision: str) -> int:
    return 3 if decision == "approve" and case.told else 2


def _mailed(shop: Shop) -> Counter[str]:
    return Counter(subject.rpartition(" ")[2] for (subject,) in shop.query("SELECT subject FROM mails"))


def _decided_once(shop: Shop, run: RunHandle, decision: str, mailed: set[str]) -> None:
    """By the rows and by the history: asked once, decided once by one of the links that were mailed, consumed once."""
    events = shop.history(run)
    kinds = Counter(event["type"] for event in events)
    (asked,) = rows_of(shop.engine, "approvals", run.run_id)
    used = [row["token"] for row in rows_of(shop.engine, "links", run.run_id) if row["used_at"] is not None]
    done = [event["seq"] for event in events if (event["type"], event.get("stage")) == ("stage.ok", "release")]
    assert kinds["approval.asked"] == 1 and asked["consumed_at"] is not None
    assert (kinds["operator.approve"], kinds["operator.deny"]) == (decision == "approve", decision == "deny")
    assert kinds["approval.timed_out"] == (not decision)
    assert len(done) == (decision == "approve")
    assert len(used) == bool(decision)
    assert set(used) <= mailed
    by = [event["link"] for event in events if event["type"] in ("operator.approve", "operator.deny")]
    assert by == [token[:12] for token in used]
    if done:
        acts = [event["seq"] for event in events if event["type"] == "stage.begun" and event["stage"] == "refund"]
        assert all(seq > done[0] for seq in acts)


def _hash(link: str) -> str:
    return hashlib.sha256(link.rpartition("/")[2].encode()).hexdigest()


def _decides_no_more(shop: Shop, run: RunHandle, browser: httpx.Client, link: str, decided: str) -> None:
    """Whoever sends the form again is refused, whatever it says, and nothing of the run changes."""
    before = len(list(run.history()))
    rows = {row["token"]: row for row in rows_of(shop.engine, "links", run.run_id)}
    (asked,) = rows_of(shop.engine, "approvals", run.run_id)
    used = rows[_hash(link)]["used_at"] is not None
    for decision in ("approve", "deny"):
        answer = browser.post(link, data={"digest": asked["digest"], "decision": decision})
        assert answer.status_code in (409, 410)
        assert ("This link was used" in answer.text) == used
        assert decided or "This link has expired" in answer.text
    assert len(list(run.history())) == before
