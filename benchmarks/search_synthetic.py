"""The search for a front in a large space whose front is known, against pymoo's own operators.

18 blocks of s1's 30 candidates each. The candidates of a seed are shuffled, so that their order
says nothing of their cost, and a candidate's quality is drawn: it grows with the square root of the
candidate's FLOPs, block by block to another degree, and has noise. Both add up over the blocks, so
dynamic programming finds the front. Relative hypervolume is the share of the front's that a search
reaches; its reference point is the worst quality and the most FLOPs. Each seed is another space.

    python benchmarks/search_synthetic.py
"""

from collections.abc import Iterator

import harness
import numpy as np
from harness import Table
from numpy.typing import NDArray
from search_macro import PYMOO, asked_archs, pymoo_archs, settings

from mobilenas.cost import CostModel
from mobilenas.search import NSGA2Search, Problem, hypervolume
from mobilenas.space import Arch, Genes, load_space, space_from_dict

# (channels, blocks, stride) of each stage.
STAGES = ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 2, 1), (192, 4, 2))
NOISE = 0.3  # standard deviation, where the largest candidate is worth 1 without it


class Landscape:
    """A space with qualities in 0..1 and its front.

    points: of genes (n, blocks), (n, 2): minus the quality, FLOPs as a share of the most.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        s1 = load_space("s1")
        stages = [dict(zip(("channels", "blocks", "stride"), x, strict=True)) for x in STAGES]
        names = [str(candidate) for candidate in s1.blocks[0].candidates]
        shuffled = rng.permutation(names).tolist()
        self.space = space_from_dict(s1.to_dict() | {"candidates": shuffled, "stages": stages})
        self.cost_model = CostModel(self.space)
        self.most = self.cost_model.range().maximum
        # By block: what each candidate adds to the FLOPs of the arch of all first candidates.
        blocks, candidates = len(self.space.blocks), len(names)
        flops = np.empty((blocks, candidates))
        for block in range(blocks):
            genes = np.zeros((candidates, blocks), dtype=int)
            genes[:, block] = range(candidates)
            flops[block] = self.cost_model.flops_batch(genes)
        fixed = flops[0, 0]
        flops -= fixed
        size = (flops - flops.min(axis=1, keepdims=True)) / np.ptp(flops, axis=1, keepdims=True)
        noise = NOISE * rng.standard_normal(flops.shape)
        self.quality = rng.uniform(0.3, 1, (blocks, 1)) * (np.sqrt(size) + noise)
        # The worst arch has quality 0 and the best 1.
        self.quality -= self.quality.min(axis=1, keepdims=True)
        self.quality /= self.quality.max(axis=1).sum()
        front = _front(flops, self.quality)
        self.front = np.column_stack([-front[:, 1], (fixed + front[:, 0]) / self.most])

    def points(self, genes: Genes) -> NDArray[np.float64]:
        flops = self.cost_model.flops_batch(genes) / self.most
        return np.column_stack([-self._qualities(genes), flops])

    def _qualities(self, genes: Genes) -> NDArray[np.float64]:
        total = self.quality[np.arange(genes.shape[1]), genes].sum(axis=1)
        return np.asarray(total.clip(0, 1))

    def nsga2(self, seed: int, evaluations: int, population: int) -> Genes:
        """The genes that our search evaluates, in order."""

        def genes(archs: list[Arch]) -> Genes:
            return np.array([self.space.encode(arch) for arch in archs])

        problem = Problem(self.cost_model)
        search = NSGA2Search(problem, **settings(seed, evaluations, population))
        known = asked_archs(search, lambda archs: self._qualities(genes(archs)).tolist())
        return genes([arch for archs in known for arch in archs])

    def random(self, seed: int, evaluations: int) -> Genes:
        """Distinct among so many archs, all but surely."""
        return self.space.sample_genes(evaluations, np.random.default_rng(seed))

    def hypervolumes(self, genes: Genes, steps: list[int]) -> list[float]:
        """Share of the front's hypervolume that the first `steps` genes reach."""
        reference = np.array([0.0, 1.0])
        whole, points = hypervolume(self.front, reference), self.points(genes)
        return [hypervolume(points[:step], reference) / whole for step in steps]


def _front(flops: NDArray[np.float64], quality: NDArray[np.float64]) -> NDArray[np.float64]:
    """All non-dominated sums (n, 2) of one candidate's FLOPs and quality per block (row)."""
    sums = np.zeros((1, 2))
    for options in np.stack([flops, quality], axis=2):
        every = (sums[:, None] + options).reshape(-1, 2)
        every = every[np.lexsort((-every[:, 1], every[:, 0]))]  # cheapest first, of these the best
        best = np.maximum.accumulate(every[:, 1])
        sums = every[np.append(True, best[1:] > best[:-1])]
    return sums


def main(
    seeds: int = 40, first_seed: int = 100, evaluations: int = 400, population: int = 20
) -> Iterator[Table]:
    """Hypervolume after a quarter, half and all of the evaluations."""
    steps = [evaluations // 4, evaluations // 2, evaluations]
    chosen = range(first_seed, first_seed + seeds)
    reached: dict[str, list[list[float]]] = {}
    lengths = []
    for seed in chosen:
        landscape = Landscape(seed)
        lengths.append(len(landscape.front))
        given = {"seed": seed, "evaluations": evaluations, "population": population}
        found = {"NSGA-II": landscape.nsga2(**given)}
        for name, eta in PYMOO.items():
            found[name] = pymoo_archs(landscape.space, landscape.points, eta, **given)
        found["random search"] = landscape.random(seed, evaluations)
        for name, genes in found.items():
            reached.setdefault(name, []).append(landscape.hypervolumes(genes, steps))
    rows = [
        {"measure": f"relative hypervolume, {step} evaluations"}
        | {name: harness.mean_sd([x[i] for x in values], 4) for name, values in reached.items()}
        for i, step in enumerate(steps)
    ]
    yield Table(
        rows,
        {},
        f"18 blocks of 30 candidates, {min(lengths)} to {max(lengths)} archs on the front, seeds"
        f" {chosen.start} to {chosen.stop - 1}; mean ± sd over seeds",
    )


if __name__ == "__main__":
    harness.main(main)
