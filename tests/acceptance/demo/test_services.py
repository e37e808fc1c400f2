"""The outside services: one effect a key, tombstones, and misbehaviour that a caller with a key survives."""

from __future__ import annotations

import http.client
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stageflow_durable.demo import client
from stageflow_durable.demo.bank import Bank
from stageflow_durable.demo.ledger import Answer, Effect, Ledger, read_effects, record
from stageflow_durable.demo.mischief import MAX_FAULTS, Fault, fault_for
from stageflow_durable.demo.processes import ServiceProcess
from stageflow_durable.demo.services import Counterpart, Schedule
from stageflow_durable.demo.warehouse import Warehouse

CHARGE = {"order_id": "A-1", "amount_cents": 4200, "currency": "EUR", "card": "tok_visa_4242"}
PRINT = {"sku": "PRINT-100", "quantity": 1, "unit_cents": 4500}
CHARGED = Effect("k", "charge", "A-1", 4200, "EUR")

Serve = Callable[..., str]


def always(fault: Fault) -> Schedule:
    return lambda path, order_id, visit: fault


def once(fault: Fault) -> Schedule:
    return lambda path, order_id, visit: fault if visit == 1 else Fault.NONE


FAIR = always(Fault.NONE)


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def serve(tmp_path: Path, pauses: list[float]) -> Iterator[Serve]:
    servers: list[tuple[Counterpart, Ledger]] = []

    def start(kind: type[Bank | Warehouse], schedule: Schedule = FAIR) -> str:
        ledger = Ledger(tmp_path / f"{kind.name}.db", kind.schema)
        server = Counterpart(kind(ledger), schedule, pause=pauses.append)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append((server, ledger))
        return f"http://127.0.0.1:{server.port}"

    yield start
    for server, ledger in servers:
        server.shutdown()
        server.server_close()
        ledger.close()


def test_given_the_same_key_when_charged_again_then_the_answer_is_the_same_and_the_effect_one(
    serve: Serve, tmp_path: Path
) -> None:
    bank = serve(Bank)
    first, second = (client.post(bank, "/charge", key="k", **CHARGE) for _ in range(2))
    assert first == second == client.Response(200, {"payment_id": "pay_k"})
    assert read_effects(tmp_path / "bank.db") == [CHARGED]


def test_given_one_key_from_twenty_callers_at_once_then_the_effect_is_one(serve: Serve, tmp_path: Path) -> None:
    bank = serve(Bank)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post(bank, "/charge", key="k", **CHARGE), range(20)))
    assert {(answer.status, answer.body["payment_id"]) for answer in answers} == {(200, "pay_k")}
    assert read_effects(tmp_path / "bank.db") == [CHARGED]


def test_given_a_used_key_when_the_request_differs_then_it_is_refused(serve: Serve, tmp_path: Path) -> None:
    bank = serve(Bank)
    client.post(bank, "/charge", key="k", **CHARGE)
    assert client.post(bank, "/charge", key="k", **{**CHARGE, "amount_cents": 1}).status == 422
    assert read_effects(tmp_path / "bank.db") == [CHARGED]


def test_given_an_answer_lost_after_the_effect_when_asked_again_then_it_is_replayed(
    serve: Serve, tmp_path: Path
) -> None:
    bank = serve(Bank, once(Fault.LOST))
    with pytest.raises(ConnectionError):
        client.post(bank, "/charge", key="k", **CHARGE)
    assert read_effects(tmp_path / "bank.db") == [CHARGED]
    assert client.post(bank, "/charge", key="k", **CHARGE).body == {"payment_id": "pay_k"}
    assert read_effects(tmp_path / "bank.db") == [CHARGED]


@pytest.mark.parametrize(("fault", "status", "retry_after"), [(Fault.ERROR, 500, None), (Fault.BUSY, 429, "1")])
def test_given_a_fault_before_the_effect_then_there_is_no_effect_and_the_key_is_free(
    serve: Serve, tmp_path: Path, fault: Fault, status: int, retry_after: str | None
) -> None:
    bank = serve(Bank, once(fault))
    response = client.post(bank, "/charge", key="k", **CHARGE)
    assert (response.status, response.retry_after) == (status, retry_after)
    assert read_effects(tmp_path / "bank.db") == []
    assert client.post(bank, "/charge", key="k", **CHARGE).status == 200


def test_given_a_slow_answer_then_it_comes_after_a_pause(serve: Serve, pauses: list[float]) -> None:
    assert client.post(serve(Bank, always(Fault.SLOW)), "/charge", key="k", **CHARGE).status == 200
    assert pauses == [0.4]


def test_given_a_declined_card_then_402_is_remembered_and_nothing_happened(serve: Serve, tmp_path: Path) -> None:
    bank = serve(Bank)
    declined = {**CHARGE, "card": "tok_declined_0002"}
    assert [client.post(bank, "/charge", key="k", **declined).status for _ in range(2)] == [402, 402]
    assert read_effects(tmp_path / "bank.db") == []


def test_given_an_issuer_that_never_answers_then_the_money_is_taken_and_only_a_refund_gets_out(
    serve: Serve, tmp_path: Path
) -> None:
    bank = serve(Bank)
    for _ in range(MAX_FAULTS + 2):
        with pytest.raises(ConnectionError):
            client.post(bank, "/charge", key="k", **{**CHARGE, "card": "tok_silent_issuer"})
    assert client.post(bank, "/refund", key="u", order_id="A-1", of="k").body == {"refunded": True}
    assert [effect.kind for effect in read_effects(tmp_path / "bank.db")] == ["charge", "refund"]


def test_given_a_charge_when_refunded_again_and_again_then_the_money_goes_back_once(
    serve: Serve, tmp_path: Path
) -> None:
    bank = serve(Bank)
    client.post(bank, "/charge", key="k", **CHARGE)
    answers = [client.post(bank, "/refund", key=key, order_id="A-1", of="k").body for key in ("u", "u", "other")]
    assert answers == [{"refunded": True}, {"refunded": True}, {"refunded": False}]
    assert read_effects(tmp_path / "bank.db") == [CHARGED, Effect("u", "refund", "A-1", 4200, "EUR", of="k")]


def test_given_an_undo_of_what_never_happened_when_the_action_arrives_late_then_it_is_refused(
    serve: Serve, tmp_path: Path
) -> None:
    bank = serve(Bank)
    assert client.post(bank, "/refund", key="u", order_id="A-1", of="k").body == {"refunded": False}
    late = client.post(bank, "/charge", key="k", **CHARGE)
    assert (late.status, late.error) == (410, "key k was undone by u")
    assert read_effects(tmp_path / "bank.db") == []


def test_given_an_undone_charge_when_replayed_late_then_it_does_not_look_charged(serve: Serve) -> None:
    bank = serve(Bank)
    client.post(bank, "/charge", key="k", **CHARGE)
    client.post(bank, "/refund", key="u", order_id="A-1", of="k")
    assert client.post(bank, "/charge", key="k", **CHARGE).status == 410


def test_given_four_pieces_when_five_orders_want_one_then_the_fifth_waits_for_a_release(serve: Serve) -> None:
    warehouse = serve(Warehouse)
    taken = [_reserve(warehouse, number).status for number in range(5)]
    assert taken == [200, 200, 200, 200, 409]
    assert client.post(warehouse, "/release", key="u", order_id="A-0", of="k0").body == {"released": True}
    assert client.post(warehouse, "/release", key="u", order_id="A-0", of="k0").body == {"released": True}
    assert [_reserve(warehouse, number).status for number in (4, 5, 6)] == [409, 200, 409]


def test_given_a_standing_reservation_then_its_order_ships_once_and_no_other(serve: Serve, tmp_path: Path) -> None:
    warehouse = serve(Warehouse)
    _reserve(warehouse, 1)
    assert _ship(warehouse, "A-2", key="s2") == 409
    assert [_ship(warehouse, "A-1", key="s1") for _ in range(2)] == [200, 200]
    assert [effect.kind for effect in read_effects(tmp_path / "warehouse.db")] == ["reserve", "ship"]


def test_given_a_released_reservation_then_nothing_ships(serve: Serve) -> None:
    warehouse = serve(Warehouse)
    _reserve(warehouse, 1)
    client.post(warehouse, "/release", key="u", order_id="A-1", of="k1")
    assert _ship(warehouse, "A-1", key="s1") == 409


@pytest.mark.parametrize(
    ("path", "key", "request_fields"),
    [
        ("/nowhere", "k", CHARGE),
        ("/charge", "", CHARGE),
        ("/charge", "k", {"order_id": 7}),
        ("/charge", "k", {"order_id": "A"}),
    ],
)
def test_given_a_malformed_request_then_it_is_refused_and_nothing_happened(
    serve: Serve, tmp_path: Path, path: str, key: str, request_fields: dict[str, object]
) -> None:
    assert client.post(serve(Bank), path, key=key, **request_fields).status == 400
    assert read_effects(tmp_path / "bank.db") == []


def test_given_an_effect_that_fails_halfway_then_nothing_of_it_is_in_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "bank.db")
    with pytest.raises(sqlite3.IntegrityError):
        ledger.once("k", CHARGE, _charge_twice)
    ledger.close()
    assert read_effects(tmp_path / "bank.db") == []


def test_given_a_seed_then_the_schedule_is_the_same_again_bounded_and_has_every_fault() -> None:
    visits = [("/charge", f"A-{number}", visit) for number in range(300) for visit in range(1, MAX_FAULTS + 1)]
    fates = [fault_for(1, *visit) for visit in visits]
    assert fates == [fault_for(1, *visit) for visit in visits]
    assert fates != [fault_for(2, *visit) for visit in visits]
    assert set(fates) == set(Fault)
    assert all(fault_for(seed, "/charge", "A-1", MAX_FAULTS + 1) is Fault.NONE for seed in range(200))


@pytest.mark.process
def test_given_a_service_process_then_it_serves_on_loopback_and_ends_when_closed(tmp_path: Path) -> None:
    service = ServiceProcess("bank", tmp_path, seed=1)
    try:
        assert client.stats(service.url) == {}
        for key in ("k", "k"):
            _until_answered(service.url, key)
    finally:
        service.close()
    assert read_effects(service.ledger) == [CHARGED]
    with pytest.raises(ConnectionRefusedError):
        client.stats(service.url)


def _charge_twice(books: sqlite3.Connection) -> Answer:
    record(books, CHARGED)
    record(books, CHARGED)
    return Answer(200, {})


def _until_answered(url: str, key: str) -> None:
    for _ in range(MAX_FAULTS + 1):
        try:
            if client.post(url, "/charge", key=key, **CHARGE).status == http.client.OK:
                return
        except ConnectionError:
            continue
    pytest.fail("the service never answered")


def _reserve(warehouse: str, number: int) -> client.Response:
    return client.post(warehouse, "/reserve", key=f"k{number}", order_id=f"A-{number}", items=[PRINT])


def _ship(warehouse: str, order_id: str, *, key: str) -> int:
    return client.post(warehouse, "/ship", key=key, order_id=order_id, reservation_id="res_k1").status
