"""How good is the search? NSGA-II against random search where every answer is known.

Space `macro` with the published accuracies of NAS-Bench-Macro (Su et al. 2021; 6,561 archs on
CIFAR-10) in place of a supernet, so the exhaustive front is known. Both searches get the same
number of distinct archs. Two numbers, mean and standard deviation over seeds:

- hypervolume of the whole front, without a budget, relative to the exhaustive one. Its reference
  point is the worst accuracy and the most FLOPs in the space;
- regret under a FLOPs budget: the best published accuracy that meets the budget minus the best one
  found, in points of accuracy.

An identity that is not the first block of its stage does nothing, so 6,561 archs are 3,969 distinct
networks, and aliases have equal entries. Both searches count archs: an alias costs an evaluation.

    python benchmarks/search_macro.py --data-root DIR
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobilenas.base.units import format_size
from mobilenas.cost import CostModel
from mobilenas.report.plots import new_figure, save_png
from mobilenas.search import evolve, hypervolume, non_dominated
from mobilenas.space import Arch, load_space

BUDGETS = (40_000_000, 50_000_000, 60_000_000, 70_000_000, 80_000_000)
NAMES = ("NSGA-II", "random search")
COLOURS = ("#d1495b", "#52606d")


class Published:
    """The published table: genes (n, blocks), accuracies in 0..1 and FLOPs (n,)."""

    def __init__(self, path: Path) -> None:
        self.space = load_space("macro")
        self.cost_model = CostModel(self.space)
        entries = json.loads(path.read_text(encoding="utf-8"))
        # A code has one digit a block: 0 identity, 1 e3k3, 2 e6k5, the order of the candidates.
        self.genes = np.array([[int(digit) for digit in code] for code in entries])
        self.accuracy = np.array([entry["mean_acc"] / 100 for entry in entries.values()])
        self.flops = np.array([entry["flops"] for entry in entries.values()])
        if not np.array_equal(self.cost_model.flops_batch(self.genes), self.flops):
            raise SystemExit(f"{path}: FLOPs differ from those of the space `macro`")
        self.row = {self.space.decode(genes): i for i, genes in enumerate(self.genes)}
        self.points = np.column_stack([-self.accuracy, self.flops / self.flops.max()])

    def nsga2(self, seed: int, evaluations: int, population: int, budget: int | None) -> list[int]:
        """Rows of the archs that the search evaluates, in order."""

        def evaluate(archs: list[Arch]) -> list[float]:
            return [float(self.accuracy[self.row[arch]]) for arch in archs]

        with tempfile.TemporaryDirectory() as folder:
            result = evolve(
                self.space,
                evaluate,
                self.cost_model,
                run=Path(folder),
                limits={"flops": budget} if budget else None,
                population=population,
                generations=evaluations,
                max_evaluations=evaluations,
                seed=seed,
            )
        return [self.row[e.arch] for e in result.evaluations]

    def random(self, seed: int, evaluations: int, budget: int | None) -> list[int]:
        """Rows of distinct archs drawn uniformly from those within the budget, in order."""
        feasible = np.flatnonzero(self.flops <= (budget or self.flops.max()))
        drawn = np.random.default_rng(seed).permutation(feasible)[:evaluations]
        return [int(row) for row in drawn]

    def hypervolumes(self, rows: list[int], steps: list[int]) -> list[float]:
        """Share of the exhaustive hypervolume that the first `steps` rows reach."""
        reference = self.points.max(axis=0)
        whole = hypervolume(self.points, reference)
        return [hypervolume(self.points[rows[:step]], reference) / whole for step in steps]

    def regret(self, rows: list[int], budget: int) -> float:
        """Points of accuracy (%) between the best arch within the budget and the best found."""
        best = self.accuracy[self.flops <= budget].max()
        return float(100 * (best - self.accuracy[rows].max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", type=Path, default=os.environ.get("MOBILENAS_DATA"))
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--png", type=Path, default=Path("docs/img/search_macro.png"))
    args = parser.parse_args()
    if args.data_root is None:
        parser.error("give --data-root or set MOBILENAS_DATA")

    table = Published(Path(args.data_root) / "nas_bench_macro" / "nas-bench-macro_cifar10.json")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    steps = [args.evaluations * part // 40 for part in range(1, 41)]

    def search(name: str, seed: int, budget: int | None) -> list[int]:
        if name == "NSGA-II":
            return table.nsga2(seed, args.evaluations, args.population, budget)
        return table.random(seed, args.evaluations, budget)

    curves = {
        name: np.array([table.hypervolumes(search(name, s, None), steps) for s in seeds])
        for name in NAMES
    }
    regrets = {
        (name, budget): np.array([table.regret(search(name, s, budget), budget) for s in seeds])
        for name in NAMES
        for budget in BUDGETS
    }

    print(
        f"n = {len(table.row)} archs ({len(non_dominated(table.points))} on the exhaustive front),"
        f" {args.evaluations} evaluations a search, population {args.population},"
        f" seeds {seeds.start}..{seeds.stop - 1}; mean ± sd over seeds\n"
    )
    print("| measure | " + " | ".join(NAMES) + " |\n|---|---|---|")
    for step in (args.evaluations // 4, args.evaluations // 2, args.evaluations):
        cells = [summary(curves[name][:, steps.index(step)], 4) for name in NAMES]
        print(f"| relative hypervolume, {step} evaluations | " + " | ".join(cells) + " |")
    for budget in BUDGETS:
        cells = [summary(regrets[name, budget], 3) for name in NAMES]
        share = int((table.flops <= budget).sum())
        label = f"regret at {format_size(budget)} FLOPs ({share} archs), % points"
        print(f"| {label} | " + " | ".join(cells) + " |")
    plot(args.png, steps, curves)


def summary(values: NDArray[np.float64], digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def plot(path: Path, steps: list[int], curves: dict[str, NDArray[np.float64]]) -> None:
    figure, axes = new_figure()
    for (name, values), colour in zip(curves.items(), COLOURS, strict=True):
        mean, sd = values.mean(axis=0), values.std(axis=0, ddof=1)
        axes.plot(steps, mean, color=colour, linewidth=1.8, label=name)
        axes.fill_between(steps, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(1, color=COLOURS[1], linewidth=1, linestyle=(0, (5, 3)), label="exhaustive front")
    axes.set_xlim(0, steps[-1])
    axes.set_xlabel("distinct archs evaluated")
    axes.set_ylabel("relative hypervolume")
    count = len(next(iter(curves.values())))
    title = f"macro, published accuracies: mean ± sd over {count} seeds"
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    save_png(path, figure)


if __name__ == "__main__":
    main()
