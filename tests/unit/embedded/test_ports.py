"""Ports for servers: which may be chosen, and that none is given that somebody has."""

from __future__ import annotations

import socket
from random import Random

import pytest

from stageflow_durable.embedded import ports
from stageflow_durable.embedded.ports import free_port, is_free, servers_ports
from stageflow_durable.errors import ConfigurationError


@pytest.mark.parametrize(
    ("ephemeral", "chosen"),
    [
        ("32768\t60999\n", range(10_000, 32_768)),
        ("16000 65535", range(10_000, 16_000)),
        ("", range(10_000, 49_152)),
        ("1024 65535", range(10_000, 32_768)),
    ],
    ids=["linux", "begins lower", "not told", "nothing below"],
)
def test_given_the_range_of_outgoing_connections_then_a_server_gets_a_port_below_it(
    ephemeral: str, chosen: range
) -> None:
    assert servers_ports(ephemeral) == chosen


def test_given_the_same_chance_twice_then_no_port_is_given_twice() -> None:
    assert len({free_port(Random(seed)) for seed in (1, 1, 1)}) == 3


def test_given_somebody_listens_then_his_port_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        taken = holder.getsockname()[1]
        monkeypatch.setattr(ports, "_given", set())
        monkeypatch.setattr(ports, "servers_ports", lambda told: range(taken, taken + 1))
        assert not is_free(taken)
        with pytest.raises(ConfigurationError, match=f"no port of 127.0.0.1 from {taken} to {taken} is free"):
            free_port()
