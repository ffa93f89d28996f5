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

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mobilenas.base.process import tune_process
from mobilenas.cost import CostModel
from mobilenas.evaluate.trie import accuracies, grow
from mobilenas.nn import Supernet, fold_batch_norm
from mobilenas.search import evolve
from mobilenas.space import Arch, Space, load_space
from mobilenas.train.calibrate import accuracy, inherit, recalibrate

SPACES = ("macro:width=0.25", "s1:width=0.125,resolution=16")
POPULATION = 64
GENERATIONS = (1, 8, 24)  # those that are evaluated
BATCH = 128  # images
BATCHES = (1, 2)  # to recalibrate on, to score


def populations(space: Space, generations: int, seed: int) -> list[list[Arch]]:
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
            generations=generations,
            seed=seed,
        )
    return asked


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spaces", nargs="*", default=SPACES)
    parser.add_argument("--generations", nargs="*", type=int, default=GENERATIONS)
    parser.add_argument("--batches", nargs=2, type=int, default=BATCHES, metavar=("CAL", "VAL"))
    options = parser.parse_args()
    tune_process()
    torch.set_num_threads(1)
    images = "{} images to recalibrate, {} to score".format(*(BATCH * b for b in options.batches))
    print(f"one thread, torch {torch.__version__}, {images}, median of rounds\n")
    print(
        "| space | generation | archs | archs/minute, one by one | as a trie | ratio | work | n |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.spaces:
        compare(
            load_space(name), options.generations, options.batches, options.rounds, options.seed
        )


def compare(
    space: Space, generations: Sequence[int], batches: tuple[int, int], rounds: int, seed: int
) -> None:
    """Print a row for each of some generations."""
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

    asked = populations(space, max(generations), seed)
    for number in generations:
        archs = asked[number - 1]
        root = grow(supernet, archs, None)
        work_alone = sum(flops(partial(supernet, calibration[0], arch)) for arch in archs)
        work = work_alone / flops(partial(root.walk, calibration[0], lambda arch, logits: None))
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
            f" {60 * len(archs) / fast:.0f} | {ratio:.2f} | {work:.2f} | {rounds} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
