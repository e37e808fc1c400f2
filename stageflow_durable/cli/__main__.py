"""``python -m stageflow_durable.cli``: the command where the script is not on PATH."""

from stageflow_durable.cli import main

main()
