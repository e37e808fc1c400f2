"""One Celery application that two engines have adopted."""

from __future__ import annotations

import os

from celery import Celery

from stageflow_durable import Engine
from tests.integration.apps.lanes import line

celery_app = Celery("theirs", broker=os.environ.get("THEIR_BROKER") or "memory://", set_as_current=False)
billing = Engine("billing", [line("billing", 2)], celery_app=celery_app)
mail = Engine("mail", [line("mail", 2)], celery_app=celery_app)
