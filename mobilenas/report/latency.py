"""Latency tables for a reader: lists, checks, and the scatter plot of a check."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.latency import Check, LatencyTable
from mobilenas.report.plots import BUDGET, FRONT, INK, new_figure, optional, save_png, set_title
from mobilenas.report.text import table as text_table

Floats = NDArray[np.float64]


def tables_text(tables: Sequence[LatencyTable]) -> str:
    """A line a table: what it is of, and its check."""
    if not tables:
        return "no latency tables yet: mobilenas latency build makes one"
    rows = [_table_row(table) for table in tables]
    columns = ("table", "device", "px", "rows", "within 5 %", "within 10 %", "Spearman", "n")
    return text_table(rows, {column: column for column in columns})


def _table_row(table: LatencyTable) -> dict[str, str]:
    row = {
        "table": table.name,
        "device": table.device,
        "px": str(table.resolution),
        "rows": str(len(table.rows)),
    }
    if table.check is None:
        note = "not checked" if table.source == "measured" else "not measured here"
        return row | {"within 5 %": note, "within 10 %": "", "Spearman": "", "n": ""}
    figures = table.check.predictors["table"]
    return row | {
        "within 5 %": f"{100 * figures.within_5_percent:.1f} %",
        "within 10 %": f"{100 * figures.within_10_percent:.1f} %",
        "Spearman": rank_text(figures.spearman),
        "n": str(table.check.networks),
    }


def check_lines(name: str, check: Check, control_ms: float | None) -> str:
    """The figures of a check. control_ms: the control network when the table was built."""
    head = f"{'':13} within 5 %  within 10 %  RMSE ms   MAPE   bias  Spearman  Kendall"
    lines = [f"{name}: {check.networks} networks that the table was not fitted to", head]
    for predictor, row in check.predictors.items():
        lines.append(
            f"{predictor:13} {100 * row.within_5_percent:>8.1f} %"
            f"  {100 * row.within_10_percent:>9.1f} %"
            f"  {row.rmse_ms:>7.3f}  {100 * row.mape:>4.1f} % {100 * row.bias:>5.1f} %"
            f"  {rank_text(row.spearman):>7}  {rank_text(row.kendall):>7}"
        )
    lines.append("blocks alone: plain sum; flops: the line that fits these networks best")
    if control_ms is not None:
        drift = 100 * (check.control_ms / control_ms - 1)
        lines.append(
            f"drift removed: the table, had the control network taken {control_ms:.4g} ms as when"
            f" the table was built, not {check.control_ms:.4g} ms ({drift:+.1f} %)"
        )
    return "\n".join(lines)


def rank_text(correlation: float | None) -> str:
    """A correlation for a reader; None where there is none, as all values are equal."""
    return "-" if correlation is None else f"{correlation:.3f}"


@optional
def plot_check(path: Path, name: str, predicted: Mapping[str, Floats], measured: Floats) -> None:
    """Write a PNG of predicted against measured ms: the table, and the sum of blocks alone."""
    figure, axes = new_figure(6.0, 5.2)
    blocks, sums = predicted["blocks alone"], predicted["table"]
    ends = np.array([min(measured.min(), sums.min()), max(measured.max(), sums.max())])
    axes.fill_between(ends, 0.95 * ends, 1.05 * ends, color=BUDGET, alpha=0.12, label="±5 %")
    axes.plot(ends, ends, color=BUDGET, linewidth=1)
    axes.scatter(measured, blocks, s=14, facecolors="none", edgecolors=INK, label="blocks alone")
    axes.scatter(measured, sums, s=16, color=FRONT, label="table")
    axes.set_xlabel("measured (ms)")
    axes.set_ylabel("predicted (ms)")
    set_title(axes, f"{name}: {len(measured)} networks")
    axes.legend(frameon=False)
    save_png(path, figure)
