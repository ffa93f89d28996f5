"""How good is the search? NSGA-II, and the search for one arch, where every answer is known.

Space `macro` with the published accuracies of NAS-Bench-Macro (Su et al. 2021; 6,561 archs on
CIFAR-10) in place of a supernet, so the exhaustive front is known. All searches get the same
number of distinct archs; pymoo's are NSGA-II with pymoo's own operators. Two numbers, mean and
standard deviation over seeds:

- hypervolume of the whole front, without a budget, relative to the exhaustive one. Its reference
  point is the worst accuracy and the most FLOPs in the space;
- regret under a FLOPs budget: the best published accuracy that meets the budget minus the best one
  found, in points of accuracy.

An identity that is not the first block of its stage does nothing, so 6,561 archs are 3,969 distinct
networks, and aliases have equal entries. An alias costs an evaluation of all but the search for
one arch, which knows canonical names.

    python benchmarks/search_macro.py --data-root DIR
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import DataRoot, Table
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from mobilenas.base.errors import BadInput
from mobilenas.base.files import read_json
from mobilenas.base.units import format_size
from mobilenas.cost import CostModel
from mobilenas.report.plots import BUDGET, FRONT, new_figure, save_png
from mobilenas.search import (
    AgingSearch,
    Measured,
    NSGA2Search,
    Problem,
    Search,
    hypervolume,
    non_dominated,
)
from mobilenas.space import Arch, Genes, Space, load_space

# NSGA-II with pymoo's own operators: eta of crossover and mutation. The second is what its
# documentation takes for integers.
PYMOO = {"pymoo, eta 15 and 20": (15, 20), "pymoo, eta 3": (3, 3)}
BUDGETS = (40_000_000, 50_000_000, 60_000_000, 70_000_000, 80_000_000)
Curves = dict[str, NDArray[np.float64]]  # way -> (seeds, steps)


def asked_archs(
    search: Search, evaluate: Callable[[list[Arch]], Sequence[float]]
) -> Iterator[list[Arch]]:
    """The archs that each generation of a search evaluates, to its end."""
    while (archs := search.ask()) is not None:
        yield archs
        accuracies = map(Measured, evaluate(archs))
        search.tell(dict(zip(archs, accuracies, strict=True)))


def settings(seed: int, evaluations: int, population: int) -> dict[str, int]:
    """Of a search that ends with its evaluations, not with a generation."""
    most = {"generations": evaluations, "max_evaluations": evaluations}
    return {"seed": seed, "population": population, **most}


def pymoo_archs(
    space: Space,
    points: Callable[[Genes], NDArray[np.float64]],
    eta: tuple[float, float],
    seed: int,
    evaluations: int,
    population: int,
) -> Genes:
    """The genes that NSGA-II with pymoo's own operators looks at, in order.

    Simulated binary crossover and polynomial mutation, both rounded. points: of genes, to be
    minimised. Repeats are not counted.
    """
    last = space.num_candidates - 1
    algorithm = NSGA2(
        population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(eta=eta[0], vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=eta[1], vtype=float, repair=RoundingRepair()),
        seed=seed,
    )
    shape = PymooProblem(len(last), 2, xl=0 * last, xu=last, vtype=int)
    algorithm.setup(shape, termination=NoTermination())
    seen: dict[tuple[int, ...], None] = {}
    while len(seen) < evaluations:
        asked = algorithm.ask()
        genes = asked.get("X").astype(int)
        asked.set("F", points(genes))
        algorithm.tell(infills=asked)
        seen |= dict.fromkeys(map(tuple, genes.tolist()))
    return np.array(list(seen)[:evaluations])


class Published:
    """The published table: genes (n, blocks), accuracies in 0..1 and FLOPs (n,)."""

    def __init__(self, path: Path) -> None:
        self.space = load_space("macro")
        self.cost_model = CostModel(self.space)
        entries = read_json(path)
        # A code has one digit a block: 0 identity, 1 e3k3, 2 e6k5, the order of the candidates.
        self.genes = np.array([[int(digit) for digit in code] for code in entries])
        self.accuracy = np.array([entry["mean_acc"] / 100 for entry in entries.values()])
        self.flops = np.array([entry["flops"] for entry in entries.values()])
        if not np.array_equal(self.cost_model.flops_batch(self.genes), self.flops):
            raise BadInput(f"{path}: FLOPs differ from those of the space `macro`")
        self.row = {self.space.decode(genes): i for i, genes in enumerate(self.genes)}
        self.points = np.column_stack([-self.accuracy, self.flops / self.flops.max()])

    def nsga2(self, seed: int, budget: int | None, evaluations: int, population: int) -> list[int]:
        """Rows of the archs that the search for a front evaluates, in order."""
        problem = Problem(self.cost_model, limits={"flops": budget} if budget else {})
        return self._asked(NSGA2Search(problem, **settings(seed, evaluations, population)))

    def pymoo(
        self, seed: int, _: None, eta: tuple[float, float], evaluations: int, population: int
    ) -> list[int]:
        """The same of pymoo's own operators; without a budget."""

        def points(genes: Genes) -> NDArray[np.float64]:
            return self.points[[self.row[self.space.decode(g)] for g in genes]]

        asked = pymoo_archs(self.space, points, eta, seed, evaluations, population)
        return [self.row[self.space.decode(genes)] for genes in asked]

    def aging(self, seed: int, budget: int, evaluations: int, population: int) -> list[int]:
        """The same of the search for the best arch."""
        problem = Problem(self.cost_model, ("accuracy",), {"flops": budget})
        return self._asked(AgingSearch(problem, **settings(seed, evaluations, population)))

    def _asked(self, search: Search) -> list[int]:
        known = asked_archs(search, lambda archs: [self.accuracy[self.row[a]] for a in archs])
        return [self.row[arch] for archs in known for arch in archs]

    def published(self, seed: int, budget: int, evaluations: int) -> list[int]:
        """The same of regularised evolution as published (Real et al. 2019): 50 alive, the best of
        10 becomes a parent, one block is mutated. Repeats are not counted, nor what is over budget;
        as it may come to repeat itself for ever, it ends after 50 children for each evaluation.
        """
        rng = np.random.default_rng(seed)
        feasible = np.flatnonzero(self.flops <= budget)
        alive = rng.choice(feasible, 50, replace=False).tolist()
        seen = dict.fromkeys(alive)
        for _ in range(50 * evaluations):
            if len(seen) == evaluations:
                break
            parent = max(rng.choice(alive, 10, replace=False), key=lambda row: self.accuracy[row])
            genes = self.genes[parent].copy()
            block = rng.integers(len(genes))
            genes[block] = (genes[block] + rng.integers(1, 3)) % 3
            child = self.row[self.space.decode(genes)]
            if self.flops[child] <= budget:
                alive = [*alive[1:], child]
                seen[child] = None
        return list(seen)

    def random(
        self, seed: int, budget: int | None, evaluations: int, margin: float = 1
    ) -> list[int]:
        """Rows of distinct archs drawn uniformly from those within the budget, in order.

        margin: by which share of the budget they are below it at most.
        """
        most = budget or self.flops.max()
        feasible = np.flatnonzero((self.flops <= most) & (self.flops >= (1 - margin) * most))
        drawn = np.random.default_rng(seed).permutation(feasible)[:evaluations]
        return [int(row) for row in drawn]

    def hypervolumes(self, rows: list[int], steps: list[int]) -> list[float]:
        """Share of the exhaustive hypervolume that the first `steps` rows reach."""
        reference = self.points.max(axis=0)
        whole = hypervolume(self.points, reference)
        return [hypervolume(self.points[rows[:step]], reference) / whole for step in steps]

    def trained_once(self, noise: float, seed: int) -> "Published":
        """The table with noise of so many points, normal, in place of further trainings."""
        once = copy(self)
        drawn = np.random.default_rng([seed, 1]).normal(0, noise / 100, len(self.accuracy))
        networks = [self.row[self.space.canonical(arch)] for arch in self.row]
        once.accuracy = np.clip(self.accuracy + drawn[networks], 0, 1)
        return once

    def regret(self, rows: list[int], budget: int, once: "Published | None" = None) -> float:
        """Points of accuracy (%) between the best arch within the budget and the best found.

        once: by which table it is chosen.
        """
        best = self.accuracy[self.flops <= budget].max()
        answer = rows[int(np.argmax((once or self).accuracy[rows]))]
        return float(100 * (best - self.accuracy[answer]))


def main(
    data_root: DataRoot,
    seeds: int = 40,
    first_seed: int = 100,
    evaluations: int = 400,
    population: int = 20,
    png: Path = Path("docs/img/search_macro.png"),
) -> Iterator[Table]:
    """NSGA-II, and the search for one arch, against rivals on NAS-Bench-Macro."""
    table = Published(data_root / "nas_bench_macro" / "nas-bench-macro_cifar10.json")
    given = {"evaluations": evaluations, "population": population}
    ways: dict[str, Callable[[int, Any], list[int]]] = {
        "NSGA-II": partial(table.nsga2, **given),
        **{name: partial(table.pymoo, eta=eta, **given) for name, eta in PYMOO.items()},
        "random search": partial(table.random, evaluations=evaluations),
    }
    chosen = range(first_seed, first_seed + seeds)
    steps = [evaluations * part // 40 for part in range(1, 41)]
    curves = {
        name: np.array([table.hypervolumes(way(seed, None), steps) for seed in chosen])
        for name, way in ways.items()
    }
    rows = [
        {"measure": f"relative hypervolume, {steps[i]} evaluations"}
        | {name: harness.mean_sd(curves[name][:, i], 4) for name in ways}
        for i in (9, 19, 39)
    ]
    ways = {name: way for name, way in ways.items() if name not in PYMOO} | {
        "one arch": partial(table.aging, **given),
        "regularised evolution as published": partial(table.published, evaluations=evaluations),
    }
    regrets: dict[str, list[list[float]]] = {name: [] for name in ways}
    for budget in BUDGETS:
        share = int((table.flops <= budget).sum())
        row = {"measure": f"regret at {format_size(budget)} FLOPs ({share} archs), % points"}
        for name, way in ways.items():
            regrets[name].append([table.regret(way(s, budget), budget) for s in chosen])
            row[name] = harness.mean_sd(regrets[name][-1], 3)
        rows.append(row)
    means = {name: harness.mean_sd(np.mean(x, axis=0).tolist(), 4) for name, x in regrets.items()}
    rows.append({"measure": "regret, mean of the budgets, % points"} | means)
    yield Table(
        rows,
        {},
        f"n = {len(table.row)} archs ({len(non_dominated(table.points))} on the exhaustive front),"
        f" seeds {chosen.start} to {chosen.stop - 1}; mean ± sd over seeds",
    )
    plot(png, steps, curves)


def plot(path: Path, steps: list[int], curves: Curves) -> None:
    """Hypervolume against evaluations; the band is one standard deviation."""
    figure, axes = new_figure()
    for name, colour in (("NSGA-II", FRONT), ("random search", BUDGET)):
        mean, sd = curves[name].mean(axis=0), curves[name].std(axis=0, ddof=1)
        axes.plot(steps, mean, color=colour, linewidth=1.8, label=name)
        axes.fill_between(steps, mean - sd, mean + sd, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(1, color=BUDGET, linewidth=1, linestyle=(0, (5, 3)), label="exhaustive front")
    axes.set_xlim(0, steps[-1])
    axes.set_xlabel("distinct archs evaluated")
    axes.set_ylabel("relative hypervolume")
    title = f"macro, published accuracies: mean ± sd over {len(curves['NSGA-II'])} seeds"
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    save_png(path, figure)


if __name__ == "__main__":
    harness.main(main)
