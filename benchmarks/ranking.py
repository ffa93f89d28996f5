"""The studies of docs/ranking.md: trains and ranks what is missing under OUT, then prints tables.

macro   uniform against strictly fair sampling at equal passes, three budgets, with and without
        recalibration, against NAS-Bench-Macro
nb101   shadow against shared batch norm on MixPath's part of NAS-Bench-101, at most 3 and 4 nodes
s1      the same on s1, against archs trained alone (benchmarks/train_alone.py makes OUT/s1-alone)

Several processes may share an OUT if each has seeds of its own; runs continue where they stopped.

    python benchmarks/ranking.py macro --data CIFAR10 --data-root DIR --out runs/ranking
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from mobilenas.base.files import read_json
from mobilenas.base.process import tune_process
from mobilenas.pipeline import open_or_create, run_rank, run_supernet
from mobilenas.rank.run import NASWOT, SUPERNET, Ranking
from mobilenas.report.plots import BUDGET, FRONT, INK, new_figure, save_png
from mobilenas.report.rank import COUNTS, FEWEST
from mobilenas.space import load_any_space
from mobilenas.train.config import load_supernet_config

NETWORKS = 200  # drawn of a benchmark that has more
MACRO_PASSES = (1, 4, 15)
TOGETHER = f"{SUPERNET}+{NASWOT}"

Found = dict[tuple[str, bool], list[dict[str, Any]]]  # arm, recalibrated -> rank.json of each seed


@dataclass(frozen=True)
class Arm:
    """One row of a comparison, trained once a seed. label: its name in the table."""

    name: str
    label: str
    space: str
    settings: list[str] = field(default_factory=list)


STUDIES: dict[str, list[Arm]] = {
    "macro": [
        Arm(
            f"macro-{sampler}-{passes}",
            f"{sampler}, {passes} pass{'es' if passes > 1 else ''}",
            "macro:width=0.25",
            [f"sampler={sampler}", f"passes={passes}"],
        )
        for passes in MACRO_PASSES
        for sampler in ("uniform", "fair")
    ],
    "nb101": [
        Arm(
            f"nb101-m{nodes}-{bn}",
            f"{nodes} nodes at most, {bn} BN",
            f"nb101:channels=16,resolution=16,cells=1,max_paths={nodes}",
            ["sampler=uniform", "passes=3", f"bn={bn}"],
        )
        for nodes in (3, 4)
        for bn in ("shared", "shadow")
    ],
    "s1": [
        Arm(
            f"s1-{bn}",
            f"{bn} BN",
            "s1:width=0.125,stem.stride=2",
            ["validate_images=5000", "passes=4", f"bn={bn}"],
        )
        for bn in ("shared", "shadow")
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", required=True, help="CIFAR-10, as supernet-train takes it")
    parser.add_argument("--data-root", type=Path, help="folder of the benchmarks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ranking"))
    parser.add_argument("--png", type=Path, help="picture of the study macro")
    options = parser.parse_args()
    if options.png and options.study != "macro":
        parser.error("--png is of the study macro")
    tune_process()
    arms = STUDIES[options.study]
    found: Found = {}
    for seed in options.seeds:
        for arm in arms:
            folder = options.out / f"{arm.name}-s{seed}"
            train(folder, arm, options.data, seed)
            for recalibrated in (True, False):
                result = ranking(folder, options, recalibrated)
                found.setdefault((arm.name, recalibrated), []).append(result)
    for networks in dict.fromkeys(found[arm.name, True][0]["networks"] for arm in arms):
        same = [arm for arm in arms if found[arm.name, True][0]["networks"] == networks]
        print_tables(same, found, options.out, options.seeds)
    if options.png:
        plot(options.png, found)


def train(folder: Path, arm: Arm, data: str, seed: int) -> None:
    config = load_supernet_config("ranking-cpu", arm.settings)
    run = open_or_create(folder, load_any_space(arm.space), data, seed, config)
    if not (folder / "result.json").exists():
        run_supernet(run)


def ranking(folder: Path, options: argparse.Namespace, recalibrated: bool) -> dict[str, Any]:
    """Of a run that is there, by the predictions that are there."""
    alone = options.study == "s1"
    return run_rank(
        folder,
        options.out / "s1-alone" / "truth.csv" if alone else None,
        None if alone else options.study,
        options.data_root,
        Ranking(NETWORKS, 0, recalibrated, zero_cost=recalibrated),
        folder / ("rank" if recalibrated else "rank-inherited"),
        resume=True,
    )


def print_tables(arms: list[Arm], found: Found, out: Path, seeds: list[int]) -> None:
    """A pair of tables for the arms that share a truth.

    Mean ± sd over seeds; in brackets the widest reach of the seeds' 95 % intervals. Minutes
    from the fastest to the slowest seed.
    """
    first = found[arms[0].name, True][0]  # all have the same baselines
    print(f"\nseeds {seeds}; {first['n']} of {first['networks']} networks\n")
    head = ["supernet", "BN statistics", "Kendall [95 %]", "given FLOPs", "top quarter"]
    head += ["near-equal FLOPs", "minutes"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for arm in arms:
        runs = [read_json(out / f"{arm.name}-s{seed}" / "timing.json") for seed in seeds]
        minutes = sorted(run["seconds"] / 60 for run in runs)
        for recalibrated in (False, True):
            label = f"{arm.label} | {'recalibrated' if recalibrated else 'inherited'}"
            row = figures(found[arm.name, recalibrated], "supernet")
            print(f"| {label} | {row} | {minutes[0]:.0f} to {minutes[-1]:.0f} |")
        row = figures(found[arm.name, True], TOGETHER)
        print(f"| {arm.label}, + NASWOT | recalibrated | {row} | |")
    alone = [name for name in first["predictors"] if not name.startswith(SUPERNET)]
    for name in alone:
        print(f"| {name} alone | | {figures([first], name)} | |")
    budgets = [f"{row['budget'] / 1e6:.0f}M" for row in first["regret"]["supernet"]]
    print("\n| regret in points under | " + " | ".join(budgets) + " |")
    print("|" + "---|" * (1 + len(budgets)))
    for arm in arms:
        print(f"| {arm.label} | {points(found[arm.name, True], 'supernet')} |")
        print(f"| {arm.label}, + NASWOT | {points(found[arm.name, True], TOGETHER)} |")
    for name in alone:
        print(f"| {name} alone | {points([first], name)} |")
    row = [f"{x['random_points']:.2f}" for x in first["regret"][SUPERNET]]
    print("| random | " + " | ".join(row) + " |")


def figures(runs: list[dict[str, Any]], predictor: str) -> str:
    """The correlations of a predictor, the runs of all seeds together, as cells."""
    rows = [run["predictors"][predictor] for run in runs]
    low = min(row["kendall"]["low"] for row in rows)
    high = max(row["kendall"]["high"] for row in rows)
    partial = [given_flops(run["archs"], predictor) for run in runs]
    parts = [
        "too few" if rows[0][COUNTS[key]] < FEWEST[key] else spread(rows, key) for key in FEWEST
    ]
    cells = [f"{spread(rows, 'kendall')} [{low:.2f}, {high:.2f}]", mean_and_sd(partial), *parts]
    return " | ".join(cells)


def points(runs: list[dict[str, Any]], predictor: str) -> str:
    """The mean regret under each budget, as cells."""
    regret = [[row["points"] for row in run["regret"][predictor]] for run in runs]
    return " | ".join(f"{value:.2f}" for value in np.mean(regret, axis=0))


def spread(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key]["value"] for row in rows if row[key]["value"] is not None]
    return mean_and_sd(values) if len(values) == len(rows) else "-"


def mean_and_sd(values: list[float]) -> str:
    if not np.isfinite(values).all():
        return "-"
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


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


def plot(path: Path, found: Found) -> None:
    """Kendall against the training budget: every seed a dot, the mean a line."""
    figure, axes = new_figure()
    for sampler, colour in (("uniform", BUDGET), ("fair", FRONT)):
        for recalibrated, style in ((True, "-"), (False, ":")):
            runs = [found[f"macro-{sampler}-{passes}", recalibrated] for passes in MACRO_PASSES]
            taus = [
                [r["predictors"]["supernet"]["kendall"]["value"] for r in seeds] for seeds in runs
            ]
            label = f"{sampler}, {'recalibrated' if recalibrated else 'inherited'} statistics"
            means = [np.mean(seeds) for seeds in taus]
            axes.plot(MACRO_PASSES, means, style, color=colour, label=label)
            for passes, seeds in zip(MACRO_PASSES, taus, strict=True):
                axes.scatter([passes] * len(seeds), seeds, s=12, color=colour)
    first = found[f"macro-fair-{MACRO_PASSES[0]}", True][0]
    flops = first["predictors"]["flops"]["kendall"]
    axes.axhline(flops["value"], color=INK, linewidth=1, label="FLOPs alone")
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
    main()
