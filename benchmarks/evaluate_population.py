"""Evaluating a population through a supernet: as a trie against one arch after the other.

NSGA-II proposes populations of 64 under a median FLOPs budget; the accuracies that drive it are a
stand-in that adds up over blocks, drawn at random and better for more FLOPs, so that no training is
needed. The population of the first, a middle and the last generation that the search proposed is
then evaluated in both ways, with batch norm recalibration, alternately, on the same random images
by an untrained supernet. Both must give the same accuracies. Times are CPU time of one thread, so
that other processes disturb them little. "work" is the FLOPs of scoring all archs one by one over
those of the trie: what sharing alone can bring if every FLOP takes as long.

    python benchmarks/evaluate_population.py
    python benchmarks/evaluate_population.py --generations 24 --batches 8 20
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import harness
import numpy as np
import torch
from harness import Table
from search_macro import asked_archs
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobilenas.cost import CostModel
from mobilenas.evaluate.trie import accuracies, grow
from mobilenas.nn import Supernet, fold_batch_norm
from mobilenas.search import NSGA2Search, Problem
from mobilenas.space import Arch, Space, load_space
from mobilenas.train.calibrate import accuracy, inherit, recalibrate

SPACES = ["macro:width=0.25", "s1:width=0.125,resolution=16"]
POPULATION = 64
BATCH = 128  # images
FORMATS = {"one by one": ".0f", "as a trie": ".0f", "ratio": ".2f", "work": ".2f"}


def main(
    spaces: list[str] = SPACES,
    generations: str = "1,8,24",
    batches: tuple[int, int] = (1, 2),
    rounds: int = 3,
    seed: int = 0,
) -> Iterator[Table]:
    """Archs a minute in both ways, for some generations (--generations) of a search.

    --batches: of images to recalibrate on, and to score.
    """
    torch.set_num_threads(1)
    chosen = harness.numbers(generations)
    rows = [
        {"space": space} | row
        for space in spaces
        for row in compare(load_space(space), chosen, batches, rounds, seed)
    ]
    images = "{} images to recalibrate, {} to score".format(*(BATCH * count for count in batches))
    yield Table(rows, FORMATS, f"archs a minute; {images}; median of n rounds")


def compare(
    space: Space, numbers: Sequence[int], batches: tuple[int, int], rounds: int, seed: int
) -> Iterator[dict[str, Any]]:
    """A row for each generation that is asked for."""
    generator = torch.Generator().manual_seed(seed)
    supernet = Supernet(space, generator=generator).eval().to(memory_format=torch.channels_last)
    shape = (BATCH, space.spec.in_channels, space.resolution, space.resolution)

    def images() -> Tensor:
        return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)

    calibration = [images() for _ in range(batches[0])]
    validation = [(images(), torch.arange(BATCH) % space.num_classes) for _ in range(batches[1])]

    def one_by_one(archs: Sequence[Arch]) -> list[float]:
        scores = []
        for arch in archs:
            network = inherit(supernet, arch)
            recalibrate(network, calibration)
            scores.append(accuracy(fold_batch_norm(network), validation))
        return scores

    def trie(archs: Sequence[Arch]) -> list[float]:
        return accuracies(
            supernet, archs, calibration=lambda: calibration, validation=lambda: validation
        )

    for number, archs in enumerate(populations(space, max(numbers), seed), start=1):
        if number not in numbers:
            continue
        root = grow(supernet, archs, None)
        whole = sum(flops(partial(supernet, calibration[0], arch)) for arch in archs)
        shared = flops(partial(root.walk, calibration[0], lambda arch, logits: None))
        pairs = []
        for _ in range(rounds):
            slow, expected = seconds(one_by_one, archs)
            fast, found = seconds(trie, archs)
            assert found == expected, "the trie gives other accuracies"
            pairs.append((slow, fast))
        slow, fast = np.median(pairs, axis=0)
        yield {
            "generation": number,
            "archs": len(archs),
            "one by one": 60 * len(archs) / slow,
            "as a trie": 60 * len(archs) / fast,
            "ratio": np.median([one / other for one, other in pairs]),
            "work": whole / shared,
            "n": rounds,
        }


def populations(space: Space, count: int, seed: int) -> Iterator[list[Arch]]:
    """What a search asks to evaluate, generation by generation."""
    rng = np.random.default_rng(seed)
    cost_model = CostModel(space)
    gains = [np.sort(rng.random(len(b.candidates))) + 0.3 * rng.random() for b in space.blocks]
    top = sum(gain.max() for gain in gains)

    def stand_in(archs: list[Arch]) -> list[float]:
        genes = [space.encode(arch) for arch in archs]
        return [float(sum(g[i] for g, i in zip(gains, row, strict=True)) / top) for row in genes]

    problem = Problem(cost_model, limits={"flops": cost_model.range("flops").median})
    search = NSGA2Search(problem, population=POPULATION, generations=count, seed=seed)
    return asked_archs(search, stand_in)


def seconds(
    evaluate: Callable[[Sequence[Arch]], list[float]], archs: Sequence[Arch]
) -> tuple[float, list[float]]:
    start = time.process_time()
    found = evaluate(archs)
    return time.process_time() - start, found


def flops(run: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


if __name__ == "__main__":
    harness.main(main)
