"""Ports of 127.0.0.1 for servers of ours: such as nobody is given by the kernel for an outgoing connection."""

from __future__ import annotations

import socket
from pathlib import Path
from random import Random, SystemRandom

from stageflow_durable.errors import ConfigurationError

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000  # below are the ports that programs have names for
EPHEMERAL_ELSEWHERE = 49_152
FEWEST = 1_000
TRIES = 1_000

_CHANCE = SystemRandom()
_given: set[int] = set()


def servers_ports(ephemeral: str) -> range:
    """Ports below the kernel's range of outgoing connections, given as "low high"; "" where no system tells it.

    A server that is to come back on its port needs one that no connection takes while it is down. Where the range was
    widened until nothing is left below, these are the ports below its usual place.
    """
    low = int(ephemeral.split(maxsplit=1)[0]) if ephemeral.strip() else EPHEMERAL_ELSEWHERE
    return range(LOWEST, low if low >= LOWEST + FEWEST else 32_768)


def free_port(chance: Random = _CHANCE) -> int:
    """A port that nobody listens on just now and that this process was not given before, by :func:`servers_ports`."""
    ports = servers_ports(EPHEMERAL.read_text() if EPHEMERAL.exists() else "")
    for port in (chance.choice(ports) for _ in range(TRIES)):
        if port not in _given and _nobody_has(port):
            _given.add(port)
            return port
    raise ConfigurationError(f"no port of 127.0.0.1 from {ports.start} to {ports.stop - 1} is free")


def is_free(port: int) -> bool:
    """Whether a server may listen there, as servers do it: a port in TIME_WAIT is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _binds(probe, port)


def _nobody_has(port: int) -> bool:
    # Stricter than a server: a port in TIME_WAIT was somebody's a moment ago, who may come back to it.
    with socket.socket() as probe:
        return _binds(probe, port)


def _binds(probe: socket.socket, port: int) -> bool:
    try:
        probe.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True
