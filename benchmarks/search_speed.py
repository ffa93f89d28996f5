"""What a search itself takes for each evaluation: ours against NSGA-II with pymoo's own operators.

Space s1; the quality of an arch is a sum of drawn numbers, one a candidate, so that measuring it
takes next to nothing, as with a table or a prediction. Fresh processes in turn: pymoo, which may
come to an arch more than once; our search by ask and tell; and the same as `mobilenas evolve` runs
it, with its log, which is synced after each ten archs, and at the end its files and picture.

    python benchmarks/search_speed.py
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import numpy as np
from harness import Case, Table
from search_macro import PYMOO, asked_archs, pymoo_archs

from mobilenas.cost import CostModel
from mobilenas.search import Measured, NSGA2Search, Problem
from mobilenas.space import Arch, Genes, load_space


def main(evaluations: int = 10_000, population: int = 100, rounds: int = 5) -> Iterator[Table]:
    """CPU and wall time of the search for each evaluation."""
    asked = {"evaluations": evaluations, "population": population}
    cases = {"pymoo": pymoo, "mobilenas, ask and tell": ask_tell, "mobilenas, whole run": run}
    yield harness.compare([Case(name, f, asked) for name, f in cases.items()], rounds)


class Drawn:
    """The space, and archs' qualities in 0..1."""

    def __init__(self) -> None:
        self.space = load_space("s1")
        self.cost_model = CostModel(self.space)
        shape = len(self.space.blocks), max(self.space.num_candidates)
        self.quality = np.random.default_rng(0).random(shape) / shape[0]

    def of_genes(self, genes: Genes) -> np.ndarray:
        return self.quality[np.arange(genes.shape[1]), genes].sum(axis=1)

    def of_archs(self, archs: list[Arch]) -> list[float]:
        return list(map(float, self.of_genes(np.array([self.space.encode(a) for a in archs]))))

    def search(self, evaluations: int, population: int) -> NSGA2Search:
        generations = evaluations // population
        return NSGA2Search(Problem(self.cost_model), population=population, generations=generations)


def pymoo(evaluations: int, population: int) -> dict[str, float]:
    drawn, clock = Drawn(), Clock()

    def points(genes: Genes) -> np.ndarray:
        return np.column_stack([-drawn.of_genes(genes), drawn.cost_model.flops_batch(genes)])

    eta = next(iter(PYMOO.values()))
    return clock.figures(len(pymoo_archs(drawn.space, points, eta, 0, evaluations, population)))


def ask_tell(evaluations: int, population: int) -> dict[str, float]:
    drawn = Drawn()
    search, clock = drawn.search(evaluations, population), Clock()
    return clock.figures(sum(map(len, asked_archs(search, drawn.of_archs))))


def run(evaluations: int, population: int) -> dict[str, float]:
    from mobilenas.stages.search_run import SearchRun

    drawn = Drawn()

    def measure(archs: list[Arch]) -> list[Measured]:
        return list(map(Measured, drawn.of_archs(archs)))

    with tempfile.TemporaryDirectory() as folder:
        search = drawn.search(evaluations, population)
        started, clock = SearchRun.start(search, Path(folder) / "run"), Clock()
        return clock.figures(len(started.explore(measure).evaluations))


class Clock:
    """CPU and wall time since it was made."""

    def __init__(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def figures(self, evaluations: int) -> dict[str, float]:
        """Milliseconds for each of some evaluations."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        return {"CPU, ms": 1e3 * cpu / evaluations, "wall, ms": 1e3 * wall / evaluations}


if __name__ == "__main__":
    harness.main(main)
