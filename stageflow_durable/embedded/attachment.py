"""Finding the broker that another process of this machine keeps. Standard library only: every command may look."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from enum import Enum
from pathlib import Path

from stageflow_durable.embedded.home import Home
from stageflow_durable.embedded.private import accessible
from stageflow_durable.embedded.state import State, read_state
from stageflow_durable.settings import Settings, Urls


class Answer(Enum):
    """How a port answers to our password."""

    PONG = "it is ours"
    LOADING = "it is ours, and reads its data"
    REFUSED = "somebody else's"
    SILENT = "nobody"


def attach(home: Path | str, *, patience: float = 3.0) -> Urls | None:
    """Where the broker and the database of a running one-machine mode are; None when none runs in ``home``.

    It runs when the process that keeps it lives (pid, start time and boot agree) and its port answers to the home's
    password. A broker that is just being restarted gets ``patience`` seconds; one that stays away does not make the
    home a stopped one: the database is the truth, and what is recorded there is delivered later. Raises
    ConfigurationError where the home is another user's.
    """
    place = Home(Path(home).absolute())
    with accessible(place.root):
        state = read_state(place.state)
        if state.port is None or state.keeper is None or not state.keeper.lives():
            return None
        if _answer_in_time(place, state.port, patience) is Answer.REFUSED:
            return None
        return urls_of(place, state)


def stopped(settings: Settings) -> Settings | None:
    """``settings`` with the database file that a stopped one-machine mode left in their home; None when there is none.

    For what needs the database alone: it can be looked at, and what is ordered is carried out by the next start.
    """
    place = Home(settings.home)
    if settings.database_url or settings.broker_url:
        return None
    with accessible(place.root):
        if not place.database.exists():
            return None
        os.close(os.open(place.database, os.O_RDWR | os.O_CLOEXEC))  # SQLite would not say why it cannot
        return replace(settings, database_url=place.database_url, audit_key=settings.audit_key or place.audit_key())


def urls_of(home: Home, state: State) -> Urls:
    """The URLs of a home whose broker listens on ``state.port``."""
    broker = f"redis://:{home.password()}@127.0.0.1:{state.port}/0"
    return Urls(home.database_url, broker, broker, home.audit_key())


def ping(port: int, password: str) -> Answer:
    """Ask the port of this machine, with the password, whether it is ours."""
    answer = ask(port, password, "PING")
    if answer.startswith(b"+OK\r\n"):
        return Answer.LOADING if b"-LOADING" in answer else Answer.PONG
    return Answer.REFUSED if answer else Answer.SILENT


def ask(port: int, password: str, *words: str, timeout: float = 1.0) -> bytes:
    """What the port answers to the password and one command, empty if nobody does within ``timeout`` seconds a read."""
    received = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            # After QUIT the server closes, so that the end of its answer needs no parsing.
            connection.sendall(_command("AUTH", password) + _command(*words) + _command("QUIT"))
            while part := connection.recv(4096):
                received += part
    except OSError:
        pass  # what came until then is the answer
    return received


def _answer_in_time(home: Home, port: int, patience: float) -> Answer:
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while (answer := ping(port, home.password())) in (Answer.SILENT, Answer.LOADING) and time.monotonic() < deadline:
        pause.wait(0.05)
    return answer


def _command(*words: str) -> bytes:
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word.encode())}\r\n{word}\r\n".encode() for word in words)
