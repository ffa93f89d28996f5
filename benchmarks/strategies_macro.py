"""Searches by gradient on a space whose every arch has a published accuracy, under five budgets.

A strategy searches once for each seed, without a word about costs; then it derives an arch within
each budget from what it has learnt. Against them: evolve through supernets of --supernet, by
validation accuracy, and the mean of all archs within the budget. Epochs should be such that all
spend about as many passes as the supernets; a pass is an image that runs forward and backward
through one candidate of each block, over the images of the training part.

With --within a strategy searches within one budget, with the term for costs of its preset.

Runs continue where they stopped; several processes may share an OUT, each with seeds of its own.

    python benchmarks/strategies_macro.py --data CIFAR10 --data-root DIR --out runs/macro
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, DataRoot, Table
from strategies import minutes, searches, spent
from trainings import finished

from mobilenas.cost import CostModel
from mobilenas.evaluate.published_truth import read_benchmark
from mobilenas.search.front import pick_arch
from mobilenas.space import AnyArch, Space, load_space
from mobilenas.stages.search import derive_again

BUDGETS = (40e6, 50e6, 60e6, 70e6, 80e6)  # FLOPs of NAS-Bench-Macro's own networks


def main(
    data: Data,
    data_root: DataRoot,
    space: str = "macro:width=0.25",
    strategies: Annotated[
        str, typer.Option(help="By commas; each may have settings: NAME:KEY=VALUE:KEY=VALUE.")
    ] = "gdas:epochs=4",
    preset: str = "cpu",
    within: Annotated[float | None, typer.Option(help="The one budget, such as 60e6.")] = None,
    supernet: Annotated[list[Path] | None, typer.Option(help="One for each seed.")] = None,
    seeds: str = "0,1,2",
    out: Path = Path("runs/strategies-macro"),
) -> Iterator[Table]:
    """Regret in points: the best published accuracy within a budget minus that of the answer."""
    field = Field(space, data_root, (within,) if within else BUDGETS)
    rows: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"space": space, "data": data, "preset": preset}
    variant = ""
    if within:
        asked["flops"], variant = field.limits[0], f"-{within / 1e6:.0f}M"
    for each in strategies.split(","):
        found = searches(each, asked, seeds, out, variant)
        derived = [
            [derive_again(folder, {"flops": limit}) for limit in field.limits] for folder in found
        ]
        rows.append({"search": each} | spent(found) | field.row(derived))
    if supernet:
        evolved = [
            [
                field.evolved(out / f"evolve-{run.name}-{limit}", run, seed, limit)
                for limit in field.limits
            ]
            for seed, run in enumerate(supernet)
        ]
        rows.append({"search": "evolve", "minutes": minutes(supernet)} | field.row(evolved))
    rows.append({"search": "an arch within the budget, mean"} | field.rivals())
    yield Table(rows, {"passes": ".1f"})


class Field:
    """All archs of a space with their published accuracies, in percent, and FLOPs.

    limits: FLOPs that the same share of archs stay below as below the budgets in the networks whose
    accuracies were published, which are wider.
    """

    def __init__(self, name: str, data_root: Path, budgets: Sequence[float]) -> None:
        space = load_space(name)
        assert isinstance(space, Space)
        self.space, self.costs = space, CostModel(space)
        truth = read_benchmark("macro", data_root, space)
        self.values = 100 * truth.accuracy
        self.accuracy = dict(zip(truth.archs, self.values.tolist(), strict=True))
        self.flops = self.costs.flops_batch(np.stack([space.encode(arch) for arch in truth.archs]))
        self.budgets = [f"{budget / 1e6:.0f}M" for budget in budgets]
        shares = [np.mean(truth.costs["flops"] <= budget) for budget in budgets]
        self.limits = [int(np.quantile(self.flops, share)) for share in shares]

    def evolved(self, folder: Path, supernet: Path, seed: int, limit: int) -> AnyArch:
        """What evolve ends in."""
        asked = {"supernet": supernet, "flops": limit, "objectives": "accuracy", "seed": seed}
        found = finished(folder, "evolve", result="front.json", **asked)
        return self.space.parse(pick_arch(found["front"], "best"))

    def row(self, archs: Sequence[Sequence[AnyArch]]) -> dict[str, str]:
        """Regret under each budget, of archs by seed and budget, and their mean."""
        regret = np.array(
            [
                [
                    self.values[self.flops <= limit].max()
                    - self.accuracy[self.space.canonical(arch)]  # type: ignore[arg-type]
                    for arch, limit in zip(of_seed, self.limits, strict=True)
                ]
                for of_seed in archs
            ]
        )
        cells = {b: harness.mean_sd(regret[:, i]) for i, b in enumerate(self.budgets)}
        return cells | {"mean": harness.mean_sd(regret.mean(axis=1))}

    def rivals(self) -> dict[str, str]:
        """The mean regret of all archs that are within a budget."""
        within = [self.values[self.flops <= limit] for limit in self.limits]
        regret = [values.max() - values.mean() for values in within]
        cells = {b: f"{r:.2f}" for b, r in zip(self.budgets, regret, strict=True)}
        return cells | {"mean": f"{np.mean(regret):.2f}"}


if __name__ == "__main__":
    harness.main(main)
