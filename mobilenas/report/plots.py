"""Figures, drawn with matplotlib's object API: no pyplot, no display, no global state."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import accumulate
from pathlib import Path
from textwrap import fill
from typing import Any, ParamSpec

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mobilenas.base.errors import one_line
from mobilenas.base.files import write_atomic
from mobilenas.cost.titles import cost_title, format_cost, format_limits, is_latency

# Label of an axis, and what one unit of it is in the cost's own numbers.
AXES = {
    "flops": ("FLOPs (multiply-adds, M)", 1e6),
    "params": ("parameters (M)", 1e6),
    "memory": ("peak activation memory (MB)", 1e6),
}
INK, FRONT, BUDGET, FAINT = "#1f2933", "#d1495b", "#52606d", "#e4e7eb"

Row = Mapping[str, Any]
P = ParamSpec("P")

log = logging.getLogger(__name__)


def optional(plot: Callable[P, None]) -> Callable[P, None]:
    """Log why a picture cannot be drawn: the figures that it shows are in files already. A full
    disk is still an error.
    """

    @wraps(plot)
    def draw(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            plot(*args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # of matplotlib, which raises many kinds
            log.warning("%s is not drawn: %s", args[0], one_line(error))

    return draw


@optional
def plot_front(
    path: Path,
    evaluated: Sequence[Row],
    front: Sequence[Row],
    limits: Mapping[str, float],
    space_name: str,
    cost: str = "flops",
    quality: str = "accuracy",
) -> None:
    """Write a PNG of a quality against a cost: every evaluated arch, the front, the limit.

    evaluated, front: rows with "generation", the quality and the cost's own number.
    quality: "accuracy" or "prediction" (0..1), or "score".
    A limit on another cost than the drawn one is named in the title. The line joins the best
    qualities at this cost; what further objectives add to the front are dots below it.
    """
    scale = 1 if quality == "score" else 100
    figure, axes = new_figure()
    label, unit = AXES.get(cost, (cost_title(cost) + " (ms)" * is_latency(cost), 1))
    dots = axes.scatter(
        [row[cost] / unit for row in evaluated],
        [scale * row[quality] for row in evaluated],
        c=[row["generation"] for row in evaluated],
        cmap="viridis_r",
        s=16,
        alpha=0.55,
        linewidths=0,
    )
    ordered = sorted(front, key=lambda row: (row[cost], -row[quality]))
    reached = accumulate((row[quality] for row in ordered), max)
    best = [row for row, most in zip(ordered, reached, strict=True) if row[quality] == most]
    style = {"color": FRONT, "marker": "o", "markersize": 4.5, "markeredgecolor": "white"}
    for rows, width, name in (
        (best, 1.8, f"front ({len(front)} arch{'s' * (len(front) > 1)})"),
        (ordered, 0, None),
    ):
        axes.plot(
            [row[cost] / unit for row in rows],
            [scale * row[quality] for row in rows],
            linewidth=width,
            markeredgewidth=0.7,
            label=name,
            **style,
        )
    title = f"{space_name}: {len(evaluated)} archs evaluated"
    others = [format_limits({name: x}) for name, x in limits.items() if name != cost]
    title = ", ".join([title, *others])
    set_title(axes, title, pad=24)
    if cost in limits:
        axes.axvline(
            limits[cost] / unit,
            color=BUDGET,
            linestyle=(0, (5, 3)),
            linewidth=1.2,
            label=f"budget {format_cost(cost, limits[cost])}",
        )
    axes.set_xlabel(label)
    titles = {"accuracy": "accuracy (%)", "prediction": "predicted accuracy (%)"}
    axes.set_ylabel(titles.get(quality, quality))
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


def set_title(axes: Any, title: str, **style: Any) -> None:
    """A title as it is written: names of users may have the signs of formulas in them."""
    wrapped = fill(title, 72)
    axes.set_title(wrapped, loc="left", color=INK, fontsize=11, parse_math=False, **style)


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure atomically as a PNG of 150 dpi."""
    write_atomic(path, lambda file: figure.savefig(file, format="png", dpi=150))
