"""``python -m tests.chaos --minutes 30 --seed 1``: the soak, outside of the tests; exit 1 when anything is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.chaos.site import ChaosSite
from tests.chaos.soak import soak
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService

WORKERS = 2


def main() -> int:
    """Services of its own, two workers of two children, and the mix."""
    arguments = argparse.ArgumentParser(prog="make soak")
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--seed", type=int, default=1)
    wish = arguments.parse_args()
    say = partial(print, flush=True)
    broker, postgres = BrokerService.valkey(), PostgresService.found()
    with tempfile.TemporaryDirectory(prefix="sf-soak-") as directory:
        try:
            broker.start()
            postgres.start()
            site = ChaosSite(Path(directory), postgres.create_database(), broker, 1, max_recoveries=200)
            try:
                site.open()
                for worker in [site.worker() for _ in range(WORKERS)]:
                    site.ready(worker, within=60)
                result = soak(site, 60 * wish.minutes, wish.seed, say)
            finally:
                site.close()
        finally:
            postgres.close()
            broker.close()
    say("\n".join(result.lines()))
    say("the books agree" if not result.problems else "the books DO NOT agree")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
