"""Plots of stored results: small SVG files whose text stays text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure
from tests.benchmarks.stored import Stored, figures_of

OURS, THEIRS, LIMIT = "#2a6f97", "#a9b4c0", "#c46210"
SPEEDS = {
    (1, "durable stages"): "durable, PostgreSQL",
    (5, "on SQLite, synchronous NORMAL"): "durable, SQLite NORMAL",
    (5, "on SQLite, synchronous FULL"): "durable, SQLite FULL",
    (6, "durable, one message a stage"): "durable, a message a stage",
    (1, "bare chain, links"): "bare Celery chain",
    (1, "bare chain passing 1 KB, links"): "bare chain passing 1 KB",
    (2, "Restate, steps"): "Restate",
    (2, "DBOS, steps"): "DBOS",
    (2, "Temporal's development server, steps"): "Temporal (development server)",
    (4, "raw statements, 10 stages a run"): "raw statements: the limit",
}


def draw(stored: Stored, directory: Path) -> list[Path]:
    """Every plot for which there are figures; without matplotlib none, and a word about it."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plots: pip install 'stageflow_durable[bench]'")
        return []
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "font.family": "sans-serif"})
    directory.mkdir(parents=True, exist_ok=True)
    figures = figures_of(stored)
    return [
        path for name, plot in PLOTS.items() if (path := _drawn(directory / f"{name}.svg", figures, plot)) is not None
    ]


def _drawn(path: Path, figures: list[Figure], plot: Callable[[Any, list[Figure]], int]) -> Path | None:
    from matplotlib import pyplot as plt

    canvas, axes = plt.subplots()
    bars = plot(axes, figures)
    canvas.set_size_inches(7, 0.8 + 0.28 * bars)
    axes.spines[["top", "right"]].set_visible(False)
    if bars:
        # Without a date, or every drawing would be a change.
        canvas.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(canvas)
    return path if bars else None


def _speeds(axes: Any, figures: list[Figure]) -> int:
    found = {SPEEDS[figure.row, figure.what]: figure.value for figure in figures if (figure.row, figure.what) in SPEEDS}
    names = [name for name in reversed(SPEEDS.values()) if name in found]
    bars = axes.barh(names, [found[name] for name in names], color=[_color(name) for name in names])
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_xlabel("stages or steps a second, runs of 10, two processes")
    return len(names)


def _color(name: str) -> str:
    return OURS if name.startswith("durable") else LIMIT if name.startswith("raw") else THEIRS


def _goals(axes: Any, figures: list[Figure]) -> int:
    """How many times better than its bound each figure is: to the right of 1 is reached."""
    aimed = [figure for figure in figures if figure.aim is not None and figure.value][::-1]
    values = [_margin(figure) for figure in aimed]
    colors = [OURS if value >= 1 else LIMIT for value in values]
    axes.barh(
        [f"{figure.row}: {figure.what}" for figure in aimed], [value - 1 for value in values], left=1, color=colors
    )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("measured over goal (above 1: better than the goal)")
    return len(aimed)


def _margin(figure: Figure) -> float:
    assert figure.aim is not None
    return figure.value / figure.aim.bound if figure.aim.sign == "≥" else figure.aim.bound / figure.value


PLOTS = {"speed": _speeds, "goals": _goals}
