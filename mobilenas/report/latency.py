"""Latency tables for a reader: lists, checks, and the scatter plot of a check."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.cost.latency import LatencyTable
from mobilenas.report.plots import BUDGET, FRONT, INK, new_figure, save_png

Floats = NDArray[np.float64]


def tables_text(tables: Sequence[LatencyTable]) -> str:
    """A line a table: what it is of, and its check."""
    if not tables:
        return "no latency tables yet: mobilenas latency build makes one"
    width = max(len(table.name) for table in tables)
    lines = [f"{'table':{width}}  px   rows  threads  within 5 %  within 10 %  Spearman    n"]
    for table in tables:
        threads = "-" if table.threads is None else str(table.threads)
        line = f"{table.name:{width}}  {table.resolution:<4} {len(table.rows):>4}  {threads:>7}"
        if table.check is None:
            lines.append(f"{line}  {'not checked' if table.source == 'measured' else table.source}")
            continue
        figures = table.check.predictors["table"]
        lines.append(
            f"{line}  {100 * figures.within_5_percent:>8.1f} %  "
            f"{100 * figures.within_10_percent:>9.1f} %  {figures.spearman:>8.3f}  "
            f"{table.check.networks:>3}"
        )
    return "\n".join(lines)


def check_lines(table: LatencyTable) -> str:
    """The figures of a check."""
    check = table.check
    assert check is not None
    head = f"{'':13} within 5 %  within 10 %  RMSE ms   MAPE   bias  Spearman  Kendall"
    lines = [f"{table.name}: {check.networks} networks that it was not fitted to", head]
    for name, row in check.predictors.items():
        lines.append(
            f"{name:13} {100 * row.within_5_percent:>8.1f} %  {100 * row.within_10_percent:>9.1f} %"
            f"  {row.rmse_ms:>7.3f}  {100 * row.mape:>4.1f} % {100 * row.bias:>5.1f} %"
            f"  {row.spearman:>7.3f}  {row.kendall:>7.3f}"
        )
    lines.append("blocks alone: plain sum; flops: the line that fits these networks best")
    if table.control_ms is not None:
        drift = 100 * (check.control_ms / table.control_ms - 1)
        lines.append(
            f"control network: {check.control_ms:.4g} ms, {table.control_ms:.4g} ms when the table"
            f" was built ({drift:+.1f} %): so much of the bias is the machine's"
        )
    return "\n".join(lines)


def plot_check(
    path: Path, table: LatencyTable, predicted: Mapping[str, Floats], measured: Floats
) -> None:
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
    axes.set_title(f"{table.name}: {len(measured)} networks", loc="left", color=INK, fontsize=11)
    axes.legend(frameon=False)
    save_png(path, figure)
