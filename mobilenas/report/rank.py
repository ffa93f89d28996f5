"""A ranking for a reader: how each predictor orders archs, what it costs to trust it, a scatter."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mobilenas.base.units import format_size
from mobilenas.report.plots import AXES, new_figure, optional, save_png, set_title
from mobilenas.report.text import table as text_table

COUNTS = {"top_quarter": "top_quarter_archs", "near_flops": "near_flops_pairs"}
FEWEST = {"top_quarter": 8, "near_flops": 30}  # archs and pairs below which no value is shown
CORRELATIONS = ("kendall", "spearman", "pearson")


def describe_ranking(ranking: Mapping[str, Any]) -> str:
    """The content of rank.json as tables: correlations with intervals, regret under budgets."""
    predictors = ranking["predictors"]
    supernet = predictors["supernet"]
    parts = {
        "top_quarter": f"top quarter (archs: {supernet['top_quarter_archs']})",
        "near_flops": f"near-equal FLOPs (pairs: {supernet['near_flops_pairs']})",
    }
    statistics = "recalibrated for each arch" if ranking["recalibrated"] else "as trained"
    lines = [
        f"{ranking['space']}: {ranking['n']} of {ranking['networks']} networks, drawn over "
        f"their FLOPs with seed {ranking['seed']}",
        f"ground truth: {ranking['truth']}; batch norm statistics: {statistics}",
    ]
    if ranking["ceiling"] is not None:
        lines.append(
            f"between single trainings of the ground truth: Kendall {ranking['ceiling']:.3f}"
        )
    lines += ["", "correlations with the ground truth and their 95 % intervals"]
    lines.append(_correlations(predictors, {name: name.title() for name in CORRELATIONS}))
    few = {part for part, fewest in FEWEST.items() if supernet[COUNTS[part]] < fewest}
    lines += ["", "Kendall among some of them", _correlations(predictors, parts, few)]
    lines += ["", "points of accuracy lost by picking the best predicted under a FLOPs budget"]
    lines.append(_regrets(ranking["regret"]))
    if not supernet["evidence"]:
        least = ranking["min_evidence"]
        lines += ["", f"no evidence: {ranking['n']} archs, at least {least} are needed"]
    return "\n".join(lines)


@optional
def plot_ranking(path: Path, ranking: Mapping[str, Any]) -> None:
    """Write a PNG of the supernet's accuracies against true ones, coloured by FLOPs."""
    figure, axes = new_figure(6.6, 4.8)
    label, unit = AXES["flops"]
    archs = ranking["archs"]
    dots = axes.scatter(
        [100 * arch["supernet"] for arch in archs],
        [100 * arch["truth"] for arch in archs],
        c=[arch["flops"] / unit for arch in archs],
        cmap="viridis_r",
        s=16,
        alpha=0.75,
        linewidths=0,
    )
    supernet = ranking["predictors"]["supernet"]
    title = f"{ranking['space']}: {ranking['n']} archs, Kendall {_interval(supernet['kendall'])}"
    if not supernet["evidence"]:
        title += ", too few to be evidence"
    set_title(axes, title)
    axes.set_xlabel("accuracy in the supernet (%)")
    axes.set_ylabel("true accuracy (%)")
    bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=30, label=label)
    bar.outline.set_visible(False)
    save_png(path, figure)


def _correlations(
    predictors: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, str],
    few: Collection[str] = (),
) -> str:
    rows = [
        {"predictor": name}
        | {key: "too few" if key in few else _interval(found[key]) for key in columns}
        for name, found in predictors.items()
    ]
    return text_table(rows, {"predictor": "predictor", **columns})


def _regrets(regret: Mapping[str, list[Mapping[str, Any]]]) -> str:
    first, *_ = regret.values()  # all have the same budgets
    points = {name: [row["points"] for row in rows] for name, rows in regret.items()}
    points["random"] = [row["random_points"] for row in first]
    rows = [
        {
            "budget": format_size(row["budget"]),
            "archs": str(row["archs"]),
            "best": f"{100 * row['best']:.2f} %",
            **{name: f"{values[number]:.2f}" for name, values in points.items()},
        }
        for number, row in enumerate(first)
    ]
    return text_table(rows, {key: key for key in ("budget", "archs", "best", *points)})


def _interval(estimate: Mapping[str, float | None]) -> str:
    if estimate["value"] is None:
        return "-"
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format_map(estimate)
