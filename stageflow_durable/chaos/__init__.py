"""An application's own pipeline under SIGKILL: ``stageflow chaos``.

Broker, database and workers are this command's own, in a directory of its own; what the stages do to the world is
theirs, and happens.
"""
