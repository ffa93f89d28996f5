"""Evaluating a population through a supernet: as a trie against one arch after the other.

NSGA-II proposes populations of 64 under a median FLOPs budget; the accuracies that drive it are a
stand-in that adds up over blocks, drawn at random and better for more FLOPs, so that no training is
needed. The population of the first, a middle and the last generation that the search proposed is
then evaluated in both ways, with batch norm recalibration, alternately, on the same random images
by an untrained supernet. Both must give the same accuracies.

    python benchmarks/evaluate_population.py
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mobilenas.cost import CostModel
from mobilenas.nn import Supernet, fold_batch_norm
from mobilenas.process import tune_process
from mobilenas.search import evolve
from mobilenas.search.trie import accuracies
from mobilenas.space import Arch, Space, load_space
from mobilenas.train.calibrate import accuracy, inherit, recalibrate

SPACES = ("macro:width=0.25", "s1:width=0.125,resolution=16")
POPULATION = 64
GENERATIONS = (1, 8, 24)  # those that are evaluated
BATCH, CALIBRATION, VALIDATION = 128, 1, 2  # images a batch, batches


def populations(space: Space, seed: int) -> list[list[Arch]]:
    """What a search asks to evaluate, generation by generation."""
    rng = np.random.default_rng(seed)
    cost_model = CostModel(space)
    gains = [np.sort(rng.random(len(b.candidates))) + 0.3 * rng.random() for b in space.blocks]
    top = sum(gain.max() for gain in gains)
    asked: list[list[Arch]] = []

    def stand_in(archs: list[Arch]) -> list[float]:
        asked.append(archs)
        genes = [space.encode(arch) for arch in archs]
        return [float(sum(g[i] for g, i in zip(gains, row, strict=True)) / top) for row in genes]

    with tempfile.TemporaryDirectory() as folder:
        evolve(
            space,
            stand_in,
            cost_model,
            run=Path(folder),
            limits={"flops": cost_model.range("flops").median},
            population=POPULATION,
            generations=max(GENERATIONS),
            seed=seed,
        )
    return asked


def seconds(
    evaluate: Callable[[Sequence[Arch]], list[float]], archs: Sequence[Arch]
) -> tuple[float, list[float]]:
    start = time.perf_counter()
    found = evaluate(archs)
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spaces", nargs="*", default=SPACES)
    options = parser.parse_args()
    tune_process()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of rounds\n")
    print("| space | generation | archs | archs/minute, one by one | as a trie | ratio | n |")
    print("|---|---|---|---|---|---|---|")
    for name in options.spaces:
        compare(load_space(name), options.seed, options.rounds)


def compare(space: Space, seed: int, rounds: int) -> None:
    """Print a row for each of some generations."""
    generator = torch.Generator().manual_seed(seed)
    supernet = Supernet(space, generator=generator).eval().to(memory_format=torch.channels_last)
    shape = (BATCH, space.spec.in_channels, space.resolution, space.resolution)

    def images() -> Tensor:
        return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)

    calibration = [images() for _ in range(CALIBRATION)]
    validation = [(images(), torch.arange(BATCH) % space.num_classes) for _ in range(VALIDATION)]

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

    asked = populations(space, seed)
    for number in GENERATIONS:
        archs = asked[number - 1]
        pairs = []
        for _ in range(rounds):
            slow, alone = seconds(one_by_one, archs)
            fast, together = seconds(trie, archs)
            if alone != together:
                raise SystemExit("the trie gives other accuracies")
            pairs.append((slow, fast))
        slow, fast = np.median(pairs, axis=0)
        ratio = np.median([one / other for one, other in pairs])
        print(
            f"| {space.name} | {number} | {len(archs)} | {60 * len(archs) / slow:.0f} |"
            f" {60 * len(archs) / fast:.0f} | {ratio:.2f} | {rounds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
