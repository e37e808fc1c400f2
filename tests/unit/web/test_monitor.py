"""The JSON of the pages about runs: what is told, to whom, what is asked for wrongly, and what people do by it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from stageflow_durable import ConcurrencyLimit, Pipeline, RetryPolicy, Sensitive, StageContext, StageOutput
from stageflow_durable.errors import SchemaBehind, StoreUnavailable
from stageflow_durable.masking import HIDDEN
from stageflow_durable.model.status import RunStatus
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests
from stageflow_durable.web import run_documents
from stageflow_durable.web.http import Request, answer
from stageflow_durable.web.monitor import TOKEN_OF, Monitor
from stageflow_durable.web.signed_in import Visitor

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\x1b[31m"


class Order(BaseModel):
    order_id: str
    cents: int = 100
    iban: Annotated[str, Sensitive] = "DE89"


undone: list[str] = []


def reserve(ctx: StageContext[Order]) -> dict[str, Any]:
    return {"shelf": ctx.input.order_id, "note": "x" * 3000 if ctx.input.cents == 3 else "", "password": "hunter2"}


def charge(ctx: StageContext[Order]) -> Any:
    ctx.step("look-up", lambda: {"limit": f"of {ctx.input.order_id}"})
    if ctx.input.cents == 0:
        return StageOutput.fail("declined")
    logging.getLogger("shop").warning("charging %s", ctx.input.order_id)
    if ctx.input.cents == 1:
        raise TypeError("a bug of https://ann:pw@bank/x")
    return {"payment": "P-1"}


CHECKOUT = (
    Pipeline("checkout", input_type=Order)
    .stage("reserve", reserve, compensate=lambda ctx: undone.append(ctx.input.order_id))
    .stage("charge", charge, retry=RetryPolicy(max_attempts=1), limits=[ConcurrencyLimit("bank", 2)])
)
ASKS = (
    Pipeline("refund")
    .approve("release", of=lambda _ctx: {"amount": 42}, separation=False)
    .wait_for("word")
    .stage("pay", lambda _ctx: "paid")
)


class Allowing:
    """Whom the engine allows what; all of it unless a test says otherwise."""

    verbs: frozenset[str] | None = None

    def __call__(self, _actor: Any, verb: str, _run: Any) -> bool:
        return self.verbs is None or verb in self.verbs


class Desk:
    """What a test asks of the monitor of an engine."""

    def __init__(self, engine: InProcessEngine, clock: FakeClock) -> None:
        self.engine, self.clock = engine, clock
        self.monitor = Monitor(engine, lambda: 10_000, clock.time)
        self.name: str | None = "ann"
        self.read_only = False
        self.token = "the token"

    def visitor(self) -> Visitor:
        return Visitor(self.name, self.read_only, lambda _path: self.token, self._is_token)

    def _is_token(self, path: str, given: str) -> bool:
        return path == TOKEN_OF and given == "the token"

    def _answer(self, request: Request) -> tuple[int, Any]:
        def respond(given: Request) -> Any:
            self.monitor.look(given)
            return self.monitor.respond(self.visitor(), given)

        response = answer(respond, request)
        return int(response.status), json.loads(response.body)

    def get(self, path: str, method: str = "GET") -> tuple[int, Any]:
        where, _mark, query = path.partition("?")
        return self._answer(Request(method, f"/api/stageflow/{where}", query=query))

    def told(self, path: str) -> Any:
        status, told = self.get(path)
        assert status == 200, told
        return told

    def post(self, path: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._answer(Request("POST", f"/api/stageflow/{path}", kind, text, secret=self.token))


@pytest.fixture
def allowing() -> Allowing:
    return Allowing()


@pytest.fixture
def desk(allowing: Allowing) -> Iterator[Desk]:
    undone.clear()
    clock = FakeClock()
    with engine_for_tests(
        [CHECKOUT, ASKS],
        clock=clock,
        store=MemoryStore(b"key", clock=clock.time),
        authorize=allowing,
    ) as engine:
        yield Desk(engine, clock)


def orders(desk: Desk, *cents: int, **more: Any) -> list[str]:
    """Runs, each a second after the other, as far as they go."""
    made = []
    for number, each in enumerate(cents):
        desk.engine.advance(1)
        given = Order(order_id=f"A-{number}", cents=each)
        made.append(desk.engine.enqueue(CHECKOUT, given, idempotency_key=f"order-{number}", **more).run_id)
        desk.engine.drain()
    return made


def asking(desk: Desk) -> str:
    run_id = desk.engine.enqueue(ASKS, {"n": 1}).run_id
    desk.engine.work()
    return run_id


# --- lists ------------------------------------------------------------------------------------------------------------


def keys(told: Any) -> str:
    return "".join(run["key"].removeprefix("order-") for run in told["runs"])


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "3210"),
        ("status=failed", ""),
        ("status=attention", "2"),
        ("status=compensated&status=succeeded", "310"),
        ("pipeline=checkout&limit=2", "32"),
        ("pipeline=refund", ""),
        ("client=web", ""),
        ("since=0.5s", "3"),
        ("key=order-1", "1"),
        ("key=order-1&pipeline=refund", ""),
        ("key=order-1&client=default", "1"),
        ("key=order-1&attribute=city%3DRome", "1"),
        ("key=order-1&attribute=city%3DBonn", ""),
        ("attribute=city%3DRome", "3210"),
        ("attribute=city%3DBonn", ""),
        ("park_reason=bug", "2"),
        ("until=0.5s", "210"),
        ("error=A+BUG&since=1h", "2"),
    ],
)
def test_a_list_is_narrowed_by_its_address(desk: Desk, query: str, found: str) -> None:
    orders(desk, 100, 0, 1, 5, attributes={"city": "Rome"})
    assert keys(desk.told(f"runs?{query}")) == found


def test_pages_follow_each_other_without_a_gap_and_without_what_began_meanwhile(desk: Desk) -> None:
    orders(desk, *[100] * 5)
    first = desk.told("runs?limit=2")
    desk.engine.advance(1)
    desk.engine.enqueue(CHECKOUT, {"order_id": "late"}, idempotency_key="order-9")
    second = desk.told(f"runs?limit=2&before={first['next']}")
    third = desk.told(f"runs?limit=2&before={second['next']}")
    assert [keys(one) for one in (first, second, third)] == ["43", "21", "0"]
    assert third["next"] is None


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=dead", "status: 'dead'; one of live, attention, pending"),
        ("since=soon", "since: 'soon' is neither an age"),
        ("since=1h&since=2h", "since: given twice"),
        ("limit=0", "limit: from 1 to 200"),
        ("limit=1e9", "limit:"),
        ("before=x", "before: it is none that a page gave"),
        ("before=nan~01J9", "before: it is none that a page gave"),
        ("pipeline=a%00b", "pipeline:"),
        ("nonsense=1", "nonsense: one of pipeline, client"),
        ("attribute=city", "attribute: 'city'; as name=value"),
        ("park_reason=tired", "park_reason:"),
        ("error=bug", "error: every run with an error is looked at"),
    ],
)
def test_what_is_asked_wrongly_is_named(desk: Desk, query: str, named: str) -> None:
    status, told = desk.get(f"runs?{query}")
    assert (status, named in told["errors"][0]) == (422, True), told


def test_what_needs_a_person_comes_in_groups_with_what_may_be_done_to_all(desk: Desk) -> None:
    orders(desk, 1, 1, 100)
    asking(desk)
    told = desk.told("attention")
    asked, parked = sorted(told["groups"], key=lambda group: group["count"])
    assert (parked["reason"], parked["count"], parked["stage"]) == ("parked: has a bug", 2, "charge")
    assert parked["filter"] == {"status": "parked", "pipeline": "checkout", "park_reason": "bug"}
    assert parked["verbs"] == ["resume", "cancel", "compensate"]
    assert "ann:pw" not in parked["last_error"]
    assert (asked["reason"], asked["filter"], asked["verbs"]) == ("waits for an approval", None, [])


def test_pipelines_have_counts_and_a_small_chart_of_their_newest_runs(desk: Desk) -> None:
    orders(desk, 100, 1, 0, 100)
    told = desk.told("pipelines")
    checkout, refund = told["pipelines"]
    assert (checkout["name"], checkout["runs"], checkout["more"]) == ("checkout", 4, False)
    assert checkout["statuses"] == {"succeeded": 2, "parked": 1, "compensated": 1}
    assert sum(bucket["ok"] for bucket in checkout["buckets"]) == 2
    assert sum(bucket["bad"] for bucket in checkout["buckets"]) == 2
    assert (refund["name"], refund["runs"]) == ("refund", 0)
    assert (told["counts"]["parked"], told["counts"]["running"]) == (1, 0)


# --- one run ----------------------------------------------------------------------------------------------------------


def test_a_run_is_told_with_stages_values_and_what_is_allowed(desk: Desk) -> None:
    (run_id,) = orders(desk, 1)
    told = desk.told(f"runs/{run_id}")
    assert (told["status"], told["why"]) == ("parked", "charge has a bug: TypeError: a bug of https://***@bank/x")
    reserve_, charge_ = told["stages"]
    assert json.loads(reserve_["output"]["text"]) == {"shelf": "A-0", "note": "", "password": "***"}
    assert json.loads(told["input"]["text"])["iban"] == HIDDEN
    assert charge_["attempts"][0]["error"].startswith("TypeError: a bug")
    assert [line[-11:] for line in charge_["attempts"][0]["log"]] == ["harging A-0"]
    assert [verb["verb"] for verb in told["allowed"]] == ["resume", "compensate"]
    assert desk.told(f"runs/{run_id[:20].lower()}")["run_id"] == run_id


def test_log_lines_are_values_and_there_are_only_so_many_of_them(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = desk.engine.run(orders(desk, 1)[0])
    for shows, most, log in (
        (False, 100, [HIDDEN]),
        (True, 1, [f"... left out here: stageflow show {run.run_id} --full"]),
    ):
        monkeypatch.setattr(run_documents, "MOST_OF_LOGS", most)
        told = run_documents.run_document(run, shows=shows, seq=1)
        assert told["stages"][1]["attempts"][0]["log"] == log
        assert told["stages"][0]["attempts"][0]["log"] == []


def test_saved_steps_of_a_stage_are_told_with_their_values(desk: Desk) -> None:
    (run_id,) = orders(desk, 100)
    (step,) = desk.told(f"runs/{run_id}")["stages"][1]["steps"]
    assert (step["name"], json.loads(step["result"]["text"])) == ("look-up", {"limit": "of A-0"})


def test_a_long_value_is_cut_and_has_an_address_of_its_own(desk: Desk) -> None:
    (run_id,) = orders(desk, 3)
    output = desk.told(f"runs/{run_id}")["stages"][0]["output"]
    assert (output["cut"], len(output["text"])) == (True, 2000)
    full = desk.told(f"runs/{run_id}/values?stage=reserve")["value"]
    assert (full["cut"], len(full["text"]), json.loads(full["text"])["password"]) == (False, output["length"], "***")
    assert desk.get(f"runs/{run_id}/values?stage=nothing")[0] == 404
    assert json.loads(desk.told(f"runs/{run_id}/values?of=input")["value"]["text"])["order_id"] == "A-0"


def test_a_history_comes_with_the_verdict_of_the_audit_and_goes_on_behind_a_number(desk: Desk) -> None:
    (run_id,) = orders(desk, 100)
    told = desk.told(f"runs/{run_id}/history")
    assert told["events"][0]["type"] == "run.accepted"
    assert told["verdict"] == {"events": len(told["events"]), "problems": [], "rows": True, "sealed": True}
    rest = desk.told(f"runs/{run_id}/history?after=2")["events"]
    assert [event["seq"] for event in rest] == [event["seq"] for event in told["events"][2:]]
    assert desk.get(f"runs/{run_id}/history?after=x")[0] == 422
    assert desk.told(f"runs/{run_id}/history?after=2&audit=0")["verdict"] is None


def test_what_is_not_there_is_said(desk: Desk) -> None:
    assert desk.get("runs/01J9F2QZ7KXV3M5N8P0R2T4W6Y")[0] == 404
    assert desk.get("elsewhere")[0] == 404
    assert desk.get("bulk/0123456789abcdef")[0] == 404
    assert desk.get("runs", method="PUT")[0] == 405


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreUnavailable("at postgresql://ann:pw@db"), "the database does not answer; it is asked again"),
        (SchemaBehind('relation "x"'), "the database's schema is older than this program: stageflow db upgrade"),
    ],
)
def test_while_the_database_cannot_be_asked_that_is_said_and_nothing_of_where_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(*_given: Any) -> None:
        raise error

    monkeypatch.setattr(desk.engine.store, "summaries", fails, raising=False)
    status, told = desk.get("runs")
    assert (status, told["detail"]) == (503, said)


def test_whoever_did_not_sign_in_sees_no_value_and_does_nothing(desk: Desk) -> None:
    (run_id,) = orders(desk, 1, attributes={"city": "Rome"})
    waiting = asking(desk)
    desk.name = None
    told = [desk.told(path) for path in (f"runs/{run_id}", f"runs/{waiting}", f"runs/{run_id}/history", "attention")]
    told += [desk.told(f"runs/{run_id}/values?stage=reserve"), desk.told("runs")]
    text = json.dumps(told)
    for value in ("A-0", "Rome", "hunter2", "amount"):
        assert value not in text
    assert told[0]["input"]["text"] == HIDDEN
    assert [desk.get(f"runs?{query}")[0] for query in ("attribute=city%3DRome", "error=bug&since=1h")] == [422, 422]
    status, refused = desk.post(f"runs/{run_id}/resume", {"reason": "why"})
    assert (status, "asks nobody who they are" in refused["detail"]) == (403, True)
    assert desk.engine.run(run_id).status is RunStatus.PARKED


# --- what is done -----------------------------------------------------------------------------------------------------


def test_a_verb_is_done_as_whoever_signed_in_and_stands_in_the_history(desk: Desk) -> None:
    (run_id,) = orders(desk, 1)
    told = desk.told(f"runs/{run_id}")
    body = {"reason": "the customer left", "op_version": told["op_version"]}
    assert desk.post(f"runs/{run_id}/compensate", body)[0] == 200
    desk.engine.drain()
    assert (desk.engine.run(run_id).status, undone) == (RunStatus.COMPENSATED, ["A-0"])
    (event,) = [one for one in desk.engine.history(run_id) if one.type == "operator.compensate"]
    assert (event.data["actor"], event.data["reason"]) == ("ann", "the customer left")


def test_a_run_that_changed_since_it_was_looked_at_is_left_alone(desk: Desk) -> None:
    (run_id,) = orders(desk, 1)
    looked = desk.told(f"runs/{run_id}")["op_version"]
    desk.engine.resume(run_id, reason="mine first", actor="max")
    desk.engine.drain()
    status, told = desk.post(f"runs/{run_id}/compensate", {"reason": "too late", "op_version": looked})
    assert (status, told["kind"]) == (409, "changed")
    assert undone == []


def test_the_point_where_a_run_waits_is_answered_from_a_page(desk: Desk) -> None:
    run_id = asking(desk)
    told = desk.told(f"runs/{run_id}")
    approve = next(verb for verb in told["allowed"] if verb["verb"] == "approve")
    decision = {"stage": "release", "digest": approve["digest"], "reason": "right", "op_version": told["op_version"]}
    assert desk.post(f"runs/{run_id}/approve", {**decision, "digest": "0" * 12})[0] == 409
    assert desk.post(f"runs/{run_id}/approve", decision)[0] == 200
    desk.engine.work()
    word = {"stage": "word", "payload": {"ok": True}, "key": "once", "reason": "told"}
    assert [desk.post(f"runs/{run_id}/signal", word)[0] for _twice in range(2)] == [200, 200]
    desk.engine.drain()
    assert desk.engine.run(run_id).status is RunStatus.SUCCEEDED


def test_a_fork_begins_at_the_stage_that_was_clicked_once(desk: Desk) -> None:
    (run_id,) = orders(desk, 100)
    body = {"stage": "charge", "key": "once", "reason": "the price was wrong"}
    made = {desk.post(f"runs/{run_id}/fork", body)[1]["run_id"] for _twice in range(2)}
    desk.engine.drain()
    (new,) = made
    assert (new != run_id, desk.engine.run(new).status) == (True, RunStatus.SUCCEEDED)


def test_values_are_revealed_for_a_reason_that_stands_in_the_history(desk: Desk) -> None:
    (run_id,) = orders(desk, 100)
    status, told = desk.post(f"runs/{run_id}/reveal", {"reason": "a complaint"})
    assert (status, "DE89" in told["values"]["input"]["text"], "hunter2" in told["values"]["reserve"]["text"]) == (
        200,
        True,
        True,
    )
    assert desk.engine.history(run_id)[-1].data["reason"] == "a complaint"


@pytest.mark.parametrize(
    ("verb", "body", "named"),
    [
        ("resume", {}, "reason: say it"),
        ("resume", {"reason": " "}, "reason: say it"),
        ("resume", {"reason": 7}, "reason: int given"),
        ("resume", {"reason": "x", "op_version": True}, "op_version: bool given"),
        ("resume", {"reason": "x", "past_pivot": True}, "past_pivot: resume does not take it"),
        ("compensate", {"reason": "x", "skip": "charge"}, "skip: str given"),
        ("compensate", {"reason": "x", "skip": [1]}, "skip: list given"),
        ("settle", {"reason": "x", "not_done": True}, "stage: which one"),
        ("resume", b"{", "body: "),
        ("resume", b"[]", "body: a JSON object"),
        ("resume", b'{"reason": "a", "reason": "b"}', "body: "),
        ("resume", b"\xff", "body: it is not UTF-8"),
    ],
)
def test_what_is_sent_wrongly_is_named_and_nothing_is_done(desk: Desk, verb: str, body: Any, named: str) -> None:
    (run_id,) = orders(desk, 1)
    status, told = desk.post(f"runs/{run_id}/{verb}", body)
    assert (status, any(one.startswith(named) for one in told["errors"])) == (422, True), told
    assert desk.engine.run(run_id).status is RunStatus.PARKED


def test_what_was_not_sent_by_a_page_of_this_server_does_nothing(desk: Desk) -> None:
    (run_id,) = orders(desk, 1)
    body = {"reason": "x"}
    for token in ("", "another"):
        desk.token = token
        assert desk.post(f"runs/{run_id}/resume", body)[0] == 403
    desk.token = "the token"
    assert desk.post(f"runs/{run_id}/resume", body, kind="text/plain")[0] == 415
    assert desk.post(f"runs/{run_id}/explode", body)[0] == 404
    assert desk.post("elsewhere", body)[0] == 404
    desk.read_only = True
    status, told = desk.post(f"runs/{run_id}/resume", body)
    assert (status, "--read-only" in told["detail"]) == (403, True)
    assert desk.engine.run(run_id).status is RunStatus.PARKED


def test_whom_the_engine_does_not_allow_it_is_refused(desk: Desk, allowing: Allowing) -> None:
    (run_id,) = orders(desk, 1)
    allowing.verbs = frozenset({"resume"})
    status, told = desk.post(f"runs/{run_id}/compensate", {"reason": "x"})
    assert (status, told["kind"], "ann may not compensate" in told["detail"]) == (409, "refused", True)
    assert desk.post(f"runs/{run_id}/resume", {"reason": "x"})[0] == 200


# --- many runs --------------------------------------------------------------------------------------------------------


def test_a_verb_for_many_is_tried_and_then_done_to_what_the_filter_finds(desk: Desk) -> None:
    runs = orders(desk, 1, 1, 100)
    chosen = {"filter": {"status": ["parked"], "pipeline": ["checkout"]}}
    tried = desk.post("bulk/compensate", {**chosen, "dry_run": True})[1]
    assert (tried["found"], tried["would"], tried["refused"]) == (2, 2, {})
    assert sum(tried["undos"].values()) == 2
    assert [desk.engine.run(run).status for run in runs[:2]] == [RunStatus.PARKED] * 2
    status, job = desk.post("bulk/compensate", {**chosen, "reason": "a wrong price", "rate": 500})
    assert status == 200
    told = job_over(desk, job["job"])
    assert (told["done"], told["of"], told["refused"]) == (2, 2, {})
    desk.engine.drain()
    assert [desk.engine.run(run).status for run in runs] == [RunStatus.COMPENSATED] * 2 + [RunStatus.SUCCEEDED]


def job_over(desk: Desk, name: str) -> Any:
    job = desk.monitor.acts.jobs.get(name)
    assert job is not None
    assert job.ended.wait(10)
    return desk.told(f"bulk/{name}")


def test_what_is_refused_of_many_is_told_by_reason(desk: Desk, allowing: Allowing) -> None:
    orders(desk, 1, 1)
    allowing.verbs = frozenset()
    job = desk.post("bulk/resume", {"filter": {"status": "parked"}, "reason": "x", "rate": 500})[1]["job"]
    told = job_over(desk, job)
    assert (told["done"], list(told["refused"].values())) == (0, [2])


def test_a_job_that_is_stopped_leaves_the_rest(desk: Desk) -> None:
    runs = orders(desk, 1, 1, 1)
    job = desk.post("bulk/resume", {"filter": {"status": "parked"}, "reason": "x", "rate": 0.1})[1]["job"]
    assert desk.post(f"bulk/{job}/stop", {})[0] == 200
    told = job_over(desk, job)
    assert (told["stopped"], told["done"] < len(runs)) == (True, True)


@pytest.mark.parametrize(
    ("verb", "body", "named"),
    [
        ("resume", {"filter": {}, "reason": "x"}, "filter: it leaves nothing out"),
        ("resume", {"filter": {"status": "succeeded"}, "reason": "x"}, "status: it takes runs that are"),
        ("resume", {"filter": {"status": 7}, "reason": "x"}, "each of it is text"),
        ("resume", {"filter": {"key": "order-1"}, "reason": "x"}, "filter: a key names one run"),
        ("resume", {"filter": {"status": "parked"}, "reason": "x", "rate": 0}, "rate: 0.01 to 500"),
        ("resume", {"filter": {"status": "parked"}, "reason": "x", "limit": 0}, "limit: 1 or more"),
        ("resume", {"filter": {"status": "parked"}, "reason": "x", "limit": -1}, "limit: 1 or more"),
        ("resume", {"filter": {"status": "parked"}}, "reason: say it"),
    ],
)
def test_what_is_asked_of_many_wrongly_is_named(desk: Desk, verb: str, body: Any, named: str) -> None:
    orders(desk, 1)
    status, told = desk.post(f"bulk/{verb}", body)
    assert (status, named in told["errors"][0]) == (422, True), told


# --- as it goes -------------------------------------------------------------------------------------------------------


def test_a_page_is_told_of_a_run_again_only_once_it_has_changed(desk: Desk) -> None:
    (run_id,) = orders(desk, 1)
    watch: Any = desk.monitor.live(desk.visitor(), Request("GET", f"/api/stageflow/runs/{run_id}/live"))
    (first,) = watch.news()
    assert (first[0], json.loads(first[1])["status"]) == ("run", "parked")
    assert list(watch.news()) == []
    desk.engine.resume(run_id, reason="again", actor="max")
    assert [json.loads(text)["status"] for _kind, text in watch.news()] == ["running"]


def test_a_list_is_told_again_with_what_is_new(desk: Desk) -> None:
    watch: Any = desk.monitor.live(desk.visitor(), Request("GET", "/api/stageflow/live", query="pipeline=checkout"))
    assert [kind for kind, _text in watch.news()] == ["runs", "attention", "pipelines"]
    orders(desk, 1)
    desk.engine.advance(5)
    told = dict(watch.news())
    assert keys(json.loads(told["runs"])) == "0"
    assert json.loads(told["attention"])["groups"][0]["count"] == 1
    assert desk.monitor.live(desk.visitor(), Request("GET", "/api/stageflow/live", query="status=x")).status == 422  # type: ignore[union-attr]  # it is a response


def test_workers_and_queues_are_told(desk: Desk) -> None:
    desk.engine.enqueue(CHECKOUT, {"order_id": "A-1"})
    told = desk.told("workers")
    (queue,) = [one for one in told["queues"] if one["ready"]]
    assert (queue["ready"], queue["workers"]) == (1, 0)


def test_what_runs_wait_for_is_told(desk: Desk) -> None:
    asking(desk)
    assert [(one["kind"], one["runs"]) for one in desk.told("workers")["waits"]] == [("approval", 1)]


def test_whoever_did_not_sign_in_sees_no_key_of_a_limit_or_a_step(desk: Desk) -> None:
    def mail(ctx: StageContext[dict[str, Any]]) -> None:
        ctx.step("send", lambda: "sent", key=f"to {ctx.input['to']}")

    to = ConcurrencyLimit("mails", 1, key=lambda ctx: ctx.input["to"])
    desk.engine.deploy(Pipeline("mails").stage("mail", mail, limits=[to]))
    sent = desk.engine.enqueue("mails", {"to": "ann@shop.test"}).run_id
    desk.engine.drain()
    desk.engine.limits.pause("mails", "ann@shop.test", until=60, reason="full", actor="bob")
    waits = desk.engine.enqueue("mails", {"to": "ann@shop.test"}).run_id
    desk.engine.work()
    seen: dict[str, list[bool]] = {path: [] for path in ("limits", "runs", f"runs/{sent}", f"runs/{waits}")}
    for name in ("ann", None):
        desk.name = name
        for path, found in seen.items():
            found.append("ann@shop.test" in json.dumps(desk.told(path)))
    assert set(map(tuple, seen.values())) == {(True, False)}
    assert desk.told(f"runs/{waits}")["waits"][0]["text"] == "mail waits for a limit"


def test_limits_are_told_with_who_holds_and_who_waits(desk: Desk) -> None:
    orders(desk, 100)
    told = desk.told("limits")
    assert [(one["name"], one["amount"], one["held"], one["waiting"]) for one in told["limits"]] == [("bank", 2, 0, 0)]


def test_what_was_erased_is_said_and_nothing_erases_from_a_page(desk: Desk) -> None:
    (run_id,) = orders(desk, 100)
    assert desk.post(f"runs/{run_id}/erase", {"reason": "x"})[0] == 404
    assert desk.post("bulk/erase", {"reason": "x", "filter": {"status": "succeeded"}})[0] == 404
    desk.engine.erase(run_id, reason="asked to", actor="ann")
    told = desk.told(f"runs/{run_id}")
    assert (told["erased_at"] is not None, "A-0" in json.dumps(told)) == (True, False)
