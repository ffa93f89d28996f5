"""The studies of docs/ranking.md: trains and ranks what is missing under OUT, then makes tables.

macro   uniform against strictly fair sampling at equal passes, three budgets, with and without
        recalibration, against NAS-Bench-Macro
sharing weights that candidates share, and the sandwich rule, on macro
recipes one change at a time of a supernet whose candidates share weights, on macro
nb101   shadow against shared batch norm on MixPath's part of NAS-Bench-101, at most 3 and 4 nodes
s1      the same on s1, and weights that candidates share, against stand-alone training
        (`mobilenas truth --out OUT/truth`)

Several processes may share an OUT if each has seeds of its own; runs continue where they stopped.

    python benchmarks/ranking.py macro --data CIFAR10 --data-root DIR --out runs/ranking
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import harness
import numpy as np
import typer
from harness import Data, DataRoot, Set, Table
from scipy.stats import kendalltau, rankdata
from trainings import finished

from mobilenas.base.files import read_json
from mobilenas.rank.metrics import rank_metrics
from mobilenas.report.plots import BUDGET, FRONT, INK, new_figure, save_png
from mobilenas.report.rank import COUNTS, FEWEST
from mobilenas.stages.rank import NASWOT, SUPERNET

MACRO_PASSES = (1, 4, 15)
TOGETHER = f"{SUPERNET}+{NASWOT}"
# Of batch norms: the folder of a ranking, and its flags.
STATISTICS = {
    "inherited": ("rank-inherited", {"no_recalibrate": True, "no_zero_cost": True}),
    "recalibrated": ("rank", {}),
}

Rankings = dict[tuple[str, str], list[dict[str, Any]]]  # arm, statistics -> rank.json of each seed


class Arm(NamedTuple):
    """One row of a comparison, trained once a seed. label: its name in the table."""

    name: str
    label: str
    space: str
    settings: tuple[str, ...]


def _changed(label: str, *changes: str) -> Arm:
    """A fair supernet of four passes whose candidates share weights, with these changes."""
    settings = ("passes=4", "sharing=both", *changes)
    return Arm("-".join(("macro-4-both", *changes)), label, "macro:width=0.25", settings)


STUDIES = {
    "macro": [
        Arm(
            f"macro-{strategy}-{passes}",
            f"{strategy}, {passes} pass{'es' if passes > 1 else ''}",
            "macro:width=0.25",
            (f"strategy={strategy}", f"passes={passes}"),
        )
        for passes in MACRO_PASSES
        for strategy in ("uniform", "fair")
    ],
    "sharing": [
        _changed("nothing shared", "sharing=none"),
        _changed("expansions shared", "sharing=expansion"),
        _changed("kernels shared", "sharing=kernel"),
        _changed("both shared"),
        _changed("sandwich, kl", "strategy=sandwich", "distill_inplace=kl"),
    ],
    "recipes": [
        _changed("both shared"),
        _changed("a third of the passes", "passes=1.33"),
        _changed("uniform", "strategy=uniform"),
        _changed("sandwich", "strategy=sandwich"),
        _changed("sandwich, kl", "strategy=sandwich", "distill_inplace=kl"),
        _changed("sandwich, adaptive", "strategy=sandwich", "distill_inplace=adaptive"),
        _changed("the largest arch first, for one pass", "warmup_largest_passes=1"),
        _changed("and progressive shrinking", "warmup_largest_passes=1", "shrink_passes=1"),
        _changed("mean of gradients", "step_gradient=mean"),
        _changed("residual blocks not from the identity", "zero_init_last=false"),
        _changed("last norms without a weight", "affine_last=false"),
        _changed("moving average of the weights", "ema_decay=0.999"),
        _changed("half the learning rate", "lr=0.05"),
        _changed("twice the learning rate", "lr=0.2"),
        _changed("batches of 16", "batch_size=16"),
        _changed("batches of 64", "batch_size=64"),
        _changed("five times the weight decay", "weight_decay=0.0005"),
        _changed("label smoothing", "label_smoothing=0.1"),
        _changed("15 passes", "passes=15"),
        _changed(
            "15 passes, the first four of the largest", "passes=15", "warmup_largest_passes=4"
        ),
    ],
    "nb101": [
        Arm(
            f"nb101-m{nodes}-{bn}",
            f"{nodes} nodes at most, {bn} BN",
            f"nb101:channels=16,resolution=16,cells=1,max_paths={nodes}",
            ("strategy=uniform", "passes=3", f"bn={bn}"),
        )
        for nodes in (3, 4)
        for bn in ("shared", "shadow")
    ],
    "s1": [
        Arm(name, label, "s1:width=0.125,stem.stride=2", ("validate_images=5000", "passes=4", *how))
        for name, label, *how in (
            ("s1-shared", "shared BN", "bn=shared"),
            ("s1-shadow", "shadow BN", "bn=shadow"),
            ("s1-both", "shadow BN, both shared", "sharing=both"),
            (
                "s1-both-first",
                "the same, the largest arch first",
                "sharing=both",
                "warmup_largest_passes=1",
            ),
        )
    ],
}


def main(
    study: Literal["macro", "sharing", "recipes", "nb101", "s1"],
    data: Data,
    data_root: DataRoot,
    seeds: str = "0,1,2",
    n: Annotated[int, typer.Option("-n", help="Networks that are ranked, at most.")] = 200,
    settings: Set = None,
    png: Annotated[Path | None, typer.Option(help="Picture of the study macro.")] = None,
    out: Path = Path("runs/ranking"),
) -> Iterator[Table]:
    """How supernets of a study rank networks."""
    benchmark = "nb101" if study == "nb101" else "macro"
    truth: dict[str, Any] = {"benchmark": benchmark, "data_root": data_root}
    if study == "s1":
        truth = {"truth": out / "truth" / "truth.csv"}
    found: Rankings = {}
    for seed in harness.numbers(seeds):
        for arm in STUDIES[study]:
            folder = out / f"{arm.name}-s{seed}"
            flags: dict[str, Any] = {
                "space": arm.space,
                "data": data,
                "seed": seed,
                "preset": "ranking-cpu",
            }
            changes = [*arm.settings, *(settings or [])]
            finished(folder, "supernet-train", **flags, set=changes)
            for statistics in ["recalibrated"] if study == "recipes" else STATISTICS:
                name, how = STATISTICS[statistics]
                flags = {"supernet": folder, "n": n, **truth, **how}
                result = finished(folder / name, "rank", result="rank.json", **flags)
                timing = {"minutes": read_json(folder / "timing.json")["seconds"] / 60}
                found.setdefault((arm.name, statistics), []).append(result | timing)
    # Arms that have the same networks are compared.
    for _, arms in groupby(STUDIES[study], lambda arm: arm.space):
        yield from tables(list(arms), found)
    if png:
        plot(png, found)


def tables(arms: list[Arm], found: Rankings) -> Iterator[Table]:
    """Correlations and regrets of arms that share a ground truth.

    Mean ± sd over seeds; in brackets the widest reach of the seeds' 95 % intervals. Minutes
    from the fastest to the slowest seed.
    """
    first = found[arms[0].name, "recalibrated"][0]  # all have the same baselines
    rows, lost = [], []
    for arm in arms:
        for statistics in [each for each in STATISTICS if (arm.name, each) in found]:
            runs = found[arm.name, statistics]
            minutes = sorted(run["minutes"] for run in runs)
            row = {"predictor": arm.label, "BN statistics": statistics} | figures(runs, SUPERNET)
            means = [100 * np.mean([arch[SUPERNET] for arch in run["archs"]]) for run in runs]
            row |= {"accuracy, %": harness.mean_sd(means, 1)}
            rows.append(row | {"minutes": f"{minutes[0]:.0f} to {minutes[-1]:.0f}"})
        label = f"{arm.label}, + NASWOT"
        rows.append({"predictor": label, "BN statistics": "recalibrated"} | figures(runs, TOGETHER))
        if len(runs) > 1:
            label = f"{arm.label}, mean rank in {len(runs)} supernets"
            row = {"predictor": label, "BN statistics": "recalibrated"}
            rows.append(row | figures([ensemble(runs)], SUPERNET))
        lost += [(arm.label, regrets(runs, SUPERNET)), (label, regrets(runs, TOGETHER))]
    for name in first["predictors"]:
        if not name.startswith(SUPERNET):
            rows.append({"predictor": f"{name} only"} | figures([first], name))
            lost.append((f"{name} only", regrets([first], name)))
    lost.append(("random", [row["random_points"] for row in first["regret"][SUPERNET]]))
    yield Table(rows, {}, f"{len(runs)} seeds; {first['n']} of {first['networks']} networks")
    budgets = [f"{row['budget'] / 1e6:.0f}M" for row in first["regret"][SUPERNET]]
    cells = [{"predictor": name} | dict(zip(budgets, values, strict=True)) for name, values in lost]
    yield Table(cells, dict.fromkeys(budgets, ".2f"), "Regret in points under a budget")


def figures(runs: list[dict[str, Any]], predictor: str) -> dict[str, str]:
    """The correlations of a predictor, of the runs of all seeds."""
    rows = [run["predictors"][predictor] for run in runs]
    ends = [row["kendall"][end] for row in rows for end in ("low", "high")]
    interval = "" if None in ends else f" [{min(ends):.2f}, {max(ends):.2f}]"
    cells = {"Kendall [95 %]": mean_sd([row["kendall"]["value"] for row in rows]) + interval}
    cells["given FLOPs"] = mean_sd([given_flops(run["archs"], predictor) for run in runs])
    for key, fewest in FEWEST.items():
        few = rows[0][COUNTS[key]] < fewest
        cells[key] = "too few" if few else mean_sd([row[key]["value"] for row in rows])
    return cells


def ensemble(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A ranking by the mean of the ranks that the supernets of several seeds give."""
    columns = [{arch["arch"]: arch[SUPERNET] for arch in run["archs"]} for run in runs]
    archs = [arch for arch in runs[0]["archs"] if all(arch["arch"] in each for each in columns)]
    ranks = np.mean([rankdata([each[a["arch"]] for a in archs]) for each in columns], axis=0)
    truth, flops = (np.array([a[key] for a in archs]) for key in ("truth", "flops"))
    found = rank_metrics(ranks, truth, flops, seed=0).to_dict()
    together = [a | {SUPERNET: rank} for a, rank in zip(archs, ranks.tolist(), strict=True)]
    return {"archs": together, "predictors": {SUPERNET: found}}


def regrets(runs: list[dict[str, Any]], predictor: str) -> list[float]:
    """The mean regret under each budget."""
    points = [[row["points"] for row in run["regret"][predictor]] for run in runs]
    return [float(value) for value in np.mean(points, axis=0)]


def mean_sd(values: list[Any]) -> str:
    known = all(value is not None and np.isfinite(value) for value in values)
    return harness.mean_sd(values, 3) if known else "-"


def given_flops(archs: list[dict[str, Any]], predictor: str) -> float:
    """Kendall's partial tau (Kendall 1942) of prediction and truth with FLOPs held fixed: what a
    predictor knows that FLOPs do not.
    """
    predicted, truth, flops = ([a[key] for a in archs] for key in (predictor, "truth", "flops"))
    both, size, merit = (
        kendalltau(*pair).statistic
        for pair in ((predicted, truth), (predicted, flops), (truth, flops))
    )
    return float((both - size * merit) / np.sqrt((1 - size**2) * (1 - merit**2) or np.nan))


def plot(path: Path, found: Rankings) -> None:
    """Kendall against the training budget: every seed a dot, the mean a line."""
    figure, axes = new_figure()
    for strategy, colour in (("uniform", BUDGET), ("fair", FRONT)):
        for statistics, style in (("recalibrated", "-"), ("inherited", ":")):
            runs = [found[f"macro-{strategy}-{passes}", statistics] for passes in MACRO_PASSES]
            taus = [
                [r["predictors"][SUPERNET]["kendall"]["value"] for r in seeds] for seeds in runs
            ]
            means = [np.mean(seeds) for seeds in taus]
            label = f"{strategy}, {statistics} statistics"
            axes.plot(MACRO_PASSES, means, style, color=colour, label=label)
            for passes, seeds in zip(MACRO_PASSES, taus, strict=True):
                axes.scatter([passes] * len(seeds), seeds, s=12, color=colour)
    first = found[f"macro-fair-{MACRO_PASSES[0]}", "recalibrated"][0]
    flops = first["predictors"]["flops"]["kendall"]
    axes.axhline(flops["value"], color=INK, linewidth=1, label="FLOPs only")
    axes.axhspan(flops["low"], flops["high"], color=INK, alpha=0.08)
    axes.axhline(first["ceiling"], color=INK, linewidth=1, linestyle="--", label="ceiling")
    axes.set_xscale("log")
    axes.set_xticks(MACRO_PASSES, [str(passes) for passes in MACRO_PASSES])
    axes.minorticks_off()
    axes.set_xlabel("training budget (passes over the images)")
    axes.set_ylabel("Kendall's tau-b with the truth")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.86))
    save_png(path, figure)


if __name__ == "__main__":
    harness.main(main)
