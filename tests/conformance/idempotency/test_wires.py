"""Redis connections that are kept for one command at a time (``idempotency/wires.py``)."""

from __future__ import annotations

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from stageflow_durable.idempotency.nudges import NudgeGate
from stageflow_durable.idempotency.redis import RedisLink, Script
from stageflow_durable.idempotency.wires import Wires
from tests.services.broker import BrokerService


class Refusing:
    """A connection whose server refuses every command."""

    def __init__(self, refusal: ResponseError) -> None:
        self.refusal = refusal
        self.open = True

    def pack_command(self, *command: str | int) -> tuple[str | int, ...]:
        return command

    def send_packed_command(self, command: object) -> None:
        assert self.open

    def read_response(self) -> object:
        raise self.refusal

    def disconnect(self) -> None:
        self.open = False


@pytest.mark.parametrize(("refusal", "connections"), [(ReadOnlyError("a replica"), 2), (ResponseError("full"), 1)])
def test_given_a_primary_that_became_a_replica_when_it_refuses_then_the_next_command_goes_over_a_new_connection(
    refusal: ResponseError, connections: int
) -> None:
    made: list[Refusing] = []

    def connect() -> Refusing:
        made.append(Refusing(refusal))
        return made[-1]

    wires = Wires(connect)
    for _ in range(2):
        with pytest.raises(type(refusal)):
            wires.ask("LPUSH", "q", "m")
    assert len(made) == connections
    assert [connection.open for connection in made] == [connections == 1] * connections


@pytest.mark.redis
def test_given_a_redis_on_a_local_socket_then_gate_and_store_reach_it(valkey: BrokerService) -> None:
    url = f"unix://:{valkey.password}@{valkey.socket}"
    gate, link = NudgeGate(url, timeout_seconds=2), RedisLink(url)
    assert gate.claim("local", "a", 60_000)
    assert not gate.claim("local", "b", 60_000)
    assert link.run(Script("return 7"), "local") == 7
    gate.close()
    link.close()
