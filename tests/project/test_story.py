"""The order whose story the README tells: what it shows is what ``show`` prints of such a run."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

from stageflow_durable.cli.show import MOST_OF_A_VALUE
from stageflow_durable.cli.tree import draw
from stageflow_durable.cli.words import SHORT_ID
from stageflow_durable.testing import engine_for_tests
from tests.project.snippets import blocks
from tests.project.tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ORDER = {"order_id": "A-2", "amount_cents": 999_999}


def shop(directory: Path) -> ModuleType:
    """The README's own pipeline."""
    [source] = [block for block in blocks(README) if block.file == "shop.py"]
    (directory / "shop.py").write_text(source.padded, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("readme_shop", directory / "shop.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(directory: Path) -> list[str]:
    """What ``stageflow show`` prints of an order that is too dear."""
    with engine_for_tests(shop(directory).checkout) as engine:
        handle = engine.enqueue("checkout", ORDER, client_id="web", idempotency_key="order-A-2")
        engine.drain()
        run, history = engine.run(handle.run_id), engine.history(handle.run_id)
        now = datetime.fromtimestamp(engine.clock.time(), UTC) + timedelta(seconds=12)
        shown_id, values = run.run_id[:SHORT_ID], MOST_OF_A_VALUE
        lines = draw(run, now=now, width=110, shown_id=shown_id, history=history, values=values)
        return [line.plain for line in lines]


def like(lines: list[str]) -> list[str]:
    """Without what differs from run to run: ids, durations, and how wide they are."""
    told = [re.sub(r"\b01[0-9A-HJKMNP-TV-Z]{10,24}\b", "RUN", line) for line in lines]
    told = [re.sub(r"\b\d+(\.\d+)? ?(ms|s|m|min|h)\b", "TIME", line) for line in told]
    return [re.sub(r" {2,}", "  ", line).rstrip() for line in told]


def test_the_story_of_an_order_in_the_readme_is_what_show_prints(tmp_path: Path) -> None:
    texts = [block for block in blocks(README) if block.language == "text"]
    [story] = [block for block in texts if block.lines[0].startswith("checkout v1")]
    assert like(list(story.lines)) == like(shown(tmp_path))
