"""Figures, drawn with matplotlib's object API: no pyplot, no display, no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mobilenas.files import write_atomic
from mobilenas.units import format_size

LABELS = {"flops": "FLOPs (multiply-adds, M)", "params": "parameters (M)"}
INK, FRONT, BUDGET, FAINT = "#1f2933", "#d1495b", "#52606d", "#e4e7eb"

Row = Mapping[str, Any]


def plot_front(
    path: Path,
    evaluated: Sequence[Row],
    front: Sequence[Row],
    limits: Mapping[str, float],
    space_name: str,
    cost: str = "flops",
) -> None:
    """Write a PNG of accuracy against a cost: every evaluated arch, the front, the limit.

    evaluated, front: rows with "generation", "accuracy" (0..1) and the cost's own number.
    A limit on another cost than the drawn one is named in the title.
    """
    figure, axes = new_figure()
    dots = axes.scatter(
        [row[cost] / 1e6 for row in evaluated],
        [100 * row["accuracy"] for row in evaluated],
        c=[row["generation"] for row in evaluated],
        cmap="viridis_r",
        s=16,
        alpha=0.55,
        linewidths=0,
    )
    ordered = sorted(front, key=lambda row: (row[cost], row["accuracy"]))
    axes.plot(
        [row[cost] / 1e6 for row in ordered],
        [100 * row["accuracy"] for row in ordered],
        color=FRONT,
        linewidth=1.8,
        marker="o",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=f"front ({len(front)} archs)",
    )
    title = f"{space_name}: {len(evaluated)} archs evaluated"
    others = [f"{name} ≤ {format_size(x)}" for name, x in limits.items() if name != cost]
    axes.set_title(", ".join([title, *others]), loc="left", color=INK, fontsize=11, pad=24)
    if cost in limits:
        axes.axvline(
            limits[cost] / 1e6,
            color=BUDGET,
            linestyle=(0, (5, 3)),
            linewidth=1.2,
            label=f"budget {format_size(limits[cost])}",
        )
    axes.set_xlabel(LABELS.get(cost, cost))
    axes.set_ylabel("accuracy (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=2, frameon=False)
    generations = {row["generation"] for row in evaluated}
    if len(generations) > 1:
        whole = MaxNLocator(integer=True)
        bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=30, ticks=whole, label="generation")
        bar.outline.set_visible(False)
    save_png(path, figure)


def new_figure(width: float = 7.2, height: float = 4.4) -> tuple[Figure, Any]:
    """An empty figure (inches) with one axes in the style of the project."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(BUDGET)
    axes.tick_params(colors=INK)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure atomically as a PNG of 150 dpi."""
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))
