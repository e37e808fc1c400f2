"""The keeper as a program: a job comes in by stdin, the answer goes out by stdout, as one line of JSON each. The end of
stdin, after the job, is the end of whoever waits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from binascii import a2b_base64, b2a_base64

from stageflow_durable.sandbox.keeper import system
from stageflow_durable.sandbox.keeper.running import Sandbox
from stageflow_durable.sandbox.keeper.watching import Abandoned, abandon

TYPE_CHECKING = False  # typing itself would cost a third of the keeper's start
if TYPE_CHECKING:
    from typing import Any

EXIT_ABANDONED = 3


def main() -> None:
    """Keep one sandbox."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: abandon())
    job = _job()
    system.die_with(job["parent"], signal.SIGTERM)
    try:
        answer = Sandbox(job).kept()
    except Abandoned:
        sys.exit(EXIT_ABANDONED)
    except OSError as error:
        answer = {"failed": f"{type(error).__name__}: {error}", "errno": error.errno}
    _tell(answer)
    os._exit(0)  # there is nothing to tidy up, and that takes as long as its start


def _job() -> dict[str, Any]:
    """Read without reading on: what follows the line is the lifeline."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 16)
        if not part:
            sys.exit(EXIT_ABANDONED)
        line += part
    job: dict[str, Any] = json.loads(line)
    job["stdin"] = a2b_base64(job["stdin"])
    job["files"] = {name: a2b_base64(data) for name, data in job["files"].items()}
    job["filter"] = a2b_base64(job["filter"])
    return job


def _tell(answer: dict[str, Any]) -> None:
    for name in ("stdout", "stderr", "value"):
        if name in answer:
            answer[name] = b2a_base64(answer[name], newline=False).decode()
    if "files" in answer:
        answer["files"] = {name: b2a_base64(data, newline=False).decode() for name, data in answer["files"].items()}
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
