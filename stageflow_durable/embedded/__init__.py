"""One-machine mode: a broker from a wheel, a SQLite file and supervised processes, in one directory.

It is started only by ``start`` and ``run_up``, never by an import; other processes of the machine ``attach``.
"""

from stageflow_durable.embedded.attachment import attach
from stageflow_durable.embedded.keeping import Embedded, start
from stageflow_durable.embedded.up import run_up

__all__ = ["Embedded", "attach", "run_up", "start"]
