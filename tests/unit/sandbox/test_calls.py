"""The filter of system calls, played as the kernel plays it: each call by its number, with its arguments."""

from __future__ import annotations

import errno
import struct

import pytest

from stageflow_durable.sandbox import SandboxUnavailable
from stageflow_durable.sandbox.calls import MACHINES, NUMBERS, program

ALLOWED, KILLED = "allowed", "killed"
READ, CLONE, CLONE3, SOCKET, SOCKETPAIR, IOCTL = (0, 63), (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)
machines = pytest.mark.parametrize("machine", MACHINES)


def judged(machine: str, number: int, *arguments: int, audit: int | None = None, sockets: bool = True) -> object:
    """What the kernel does: "allowed", "killed", or the number of the error."""
    filled = (*arguments, *[0] * 6)[:6]
    data = struct.pack("=IIQ6Q", number, MACHINES[machine].audit if audit is None else audit, 0, *filled)
    steps = list(struct.iter_unpack("=HBBI", program(machine, sockets=sockets)))
    held = at = 0
    while True:
        code, then, otherwise, value = steps[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            held &= value
        elif code == 0x06:
            return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(value, value & 0xFFFF)
        else:
            fits = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += then if fits else otherwise


def numbered(machine: str, call: tuple[int, int]) -> int:
    return call[MACHINES[machine].column]


@machines
@pytest.mark.parametrize("name", NUMBERS)
def test_a_call_that_no_tool_needs_is_refused(machine: str, name: str) -> None:
    assert judged(machine, numbered(machine, NUMBERS[name])) == errno.EPERM


@machines
def test_a_call_of_another_kind_of_machine_is_the_end(machine: str) -> None:
    assert judged(machine, 0, audit=0x40000003) == KILLED


def test_calls_by_their_second_number_are_not_there() -> None:
    assert judged("x86_64", 0x40000000) == errno.ENOSYS


@machines
def test_ordinary_calls_are_allowed(machine: str) -> None:
    assert judged(machine, numbered(machine, READ)) == ALLOWED


@machines
@pytest.mark.parametrize("flag", [0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x02000000, 0x08000000, 0x04000000])
def test_a_process_or_thread_may_be_made_and_no_namespace(machine: str, flag: int) -> None:
    clone = numbered(machine, CLONE)
    assert judged(machine, clone, 17) == ALLOWED
    assert judged(machine, clone, 0x3D0F00) == ALLOWED  # as threads are made
    assert judged(machine, clone, flag | 17) == errno.EPERM
    assert judged(machine, numbered(machine, CLONE3)) == errno.ENOSYS


@machines
def test_of_sockets_those_of_a_namespace_can_be_made(machine: str) -> None:
    made = {family: judged(machine, numbered(machine, SOCKET), family) for family in range(46)}
    assert [family for family, answer in made.items() if answer == ALLOWED] == [2, 10]
    assert {answer for answer in made.values() if answer != ALLOWED} == {errno.EAFNOSUPPORT}


@machines
def test_without_a_namespace_no_socket_can_be_made(machine: str) -> None:
    socket = numbered(machine, SOCKET)
    assert {judged(machine, socket, family, sockets=False) for family in range(46)} == {errno.EAFNOSUPPORT}


@machines
def test_a_pair_of_connected_sockets_may_be_made_and_none_that_sends_elsewhere(machine: str) -> None:
    pair = numbered(machine, SOCKETPAIR)
    assert judged(machine, pair, 1, 1) == judged(machine, pair, 1, 1 | 0o2000000 | 0o4000) == ALLOWED
    assert judged(machine, pair, 1, 2) == judged(machine, pair, 1, 2 | 0o2000000) == errno.EPERM
    assert judged(machine, pair, 2, 1) == errno.EPERM


@machines
def test_nothing_can_be_typed_on_a_terminal(machine: str) -> None:
    ioctl = numbered(machine, IOCTL)
    assert judged(machine, ioctl, 0, 0x5412) == errno.EPERM
    # The kernel looks at the low half alone.
    assert judged(machine, ioctl, 0, 0x5412 | 1 << 32) == errno.EPERM
    assert judged(machine, ioctl, 0, 0x5401) == ALLOWED


def test_a_machine_whose_numbers_are_not_known_has_no_filter_and_so_no_sandbox() -> None:
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        program("riscv64")
