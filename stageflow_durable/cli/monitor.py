"""What ``stageflow flower`` becomes: Flower, which serves the URLs of the application that STAGEFLOW_APP names too."""

from __future__ import annotations

import sys

from stageflow_durable.cli.application import load_application
from stageflow_durable.cli.session import Session

if __name__ == "__main__":
    from stageflow_durable.web.flower import run

    run(load_application(Session().application_reference()), sys.argv[1:])
