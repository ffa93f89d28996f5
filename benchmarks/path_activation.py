"""What it brings and costs that the activation comes after the sum of paths, not in each of them.

accuracy  archs of 3 or 4 paths in every block, in both variants trained alone from scratch by the
          same recipe and seeds; held-out training images, last epoch
latency   every block and set of kernels of a space in both variants as it is exported, which is one
          convolution where paths are linear; all graphs of a runtime are timed in turn

Both continue where they stopped; the first takes about 20 minutes on a quiet core:

    python benchmarks/path_activation.py accuracy --data CIFAR10 --out runs/path_activation
    python benchmarks/path_activation.py latency --out runs/path_activation
"""

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from rivals import accuracy, spread

from mobilenas.base.process import tune_process
from mobilenas.base.progress import ProgressBar
from mobilenas.cost import CostModel
from mobilenas.cost.rows import rows_of
from mobilenas.latency.build import control_arch
from mobilenas.latency.graphs import Job, network_job, row_jobs
from mobilenas.latency.measure import TimingLog, discard, measure, steps
from mobilenas.latency.timer import make_timer
from mobilenas.space import Arch, Space, load_space, space_from_dict

VARIANTS = ("each", "after_sum")
SETTINGS = ["epochs=1", "validate_images=10000"]  # what --set adds to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    trains = commands.add_parser("accuracy")
    trains.set_defaults(run=compare_accuracy)
    trains.add_argument("--space", default="s1:width=0.25,stem.stride=2")
    trains.add_argument("--data", required=True)
    trains.add_argument("--archs", type=int, default=2, help="how many")
    trains.add_argument("--preset", default="cifar10-quick")
    trains.add_argument("--set", dest="settings", action="append", default=SETTINGS)
    trains.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    times = commands.add_parser("latency")
    times.set_defaults(run=compare_latency)
    times.add_argument("--space", default="s1:candidates.expansions=[6]")
    times.add_argument("--runtimes", nargs="+", default=["onnxruntime-fp32", "onnxruntime-int8"])
    times.add_argument("--rounds", type=int, default=5)
    for command in (trains, times):
        command.add_argument("--out", type=Path, default=Path("runs/path_activation"))
    options = parser.parse_args()
    tune_process()
    space = load_space(options.space).to_dict()
    options.run({v: space_from_dict(space | {"path_activation": v}) for v in VARIANTS}, options)


def compare_accuracy(spaces: dict[str, Space], options: argparse.Namespace) -> None:
    archs = [drawn(spaces["each"], seed) for seed in range(options.archs)]
    percent = np.empty((len(VARIANTS), len(archs), len(options.seeds)))
    for s, seed in enumerate(options.seeds):
        for v, variant in enumerate(VARIANTS):
            asked = argparse.Namespace(**vars(options) | {"out": options.out / variant})
            for a, arch in enumerate(archs):
                percent[v, a, s] = 100 * accuracy(arch, spaces[variant], seed, asked)
    print(f"\nseeds {options.seeds}; FLOPs and params as deployed\n")
    print("| paths | FLOPs | params | accuracy, mean ± sd | by seed | arch |\n" + "|---" * 6 + "|")
    for a, arch in enumerate(archs):
        for v, variant in enumerate(VARIANTS):
            costs = CostModel(spaces[variant])
            size = f"{costs.flops(arch) / 1e6:.2f}M | {costs.params(arch) / 1e3:.0f}k"
            each = ", ".join(f"{value:.2f}" for value in percent[v, a])
            print(f"| {variant} | {size} | {spread(percent[v, a])} | {each} | `{arch}` |")
    for variant, values in zip(VARIANTS, percent, strict=True):
        print(f"| {variant}, all | | | {spread(values.mean(axis=0))} | | |")
    difference = (percent[1] - percent[0]).mean(axis=0)
    print(f"\nafter_sum - each, mean of the archs, by seed: {spread(difference)}")


def drawn(space: Space, seed: int) -> Arch:
    """A random arch of at least three paths in every block."""
    rng = np.random.default_rng(seed)
    several = [[c for c in block.candidates if c.num_paths >= 3] for block in space.blocks]
    return Arch(tuple(options[rng.integers(len(options))] for options in several))


def compare_latency(spaces: dict[str, Space], options: argparse.Namespace) -> None:
    jobs = [
        replace(job, key=f"{variant} {job.key}")
        for variant, space in spaces.items()
        for job in row_jobs(space, batch=1)
        if job.key.startswith("block-")
    ]
    control = network_job(spaces["each"], control_arch(spaces["each"]), 1)
    for name in options.runtimes:
        print_times(name, time_all(name, jobs, control, options), spaces)


def time_all(
    name: str, jobs: list[Job], control: Job, options: argparse.Namespace
) -> dict[str, float]:
    """Milliseconds by key."""
    kind, dtype = name.split("-")
    timer = make_timer(kind, dtype=dtype, threads=1, command=None)
    log = TimingLog(options.out / f"{name}.jsonl")
    graphs = options.out / "graphs"
    with ProgressBar(name, steps(jobs, log, options.rounds)) as bar:
        measure(jobs, timer, log, control=control, rounds=options.rounds, graphs=graphs, bar=bar)
    discard([*jobs, control], timer, graphs)
    return {key: timing.median_ms for key, timing in log.timings().items()}


def print_times(name: str, ms: dict[str, float], spaces: dict[str, Space]) -> None:
    """Over all blocks and sets of kernels, by the number of paths."""
    found: dict[int, list[list[float]]] = defaultdict(list)
    choices = [rows_of(spaces[variant]).choices for variant in VARIANTS]
    for block, *keys in zip(spaces["each"].blocks, *choices, strict=True):
        for candidate, *pair in zip(block.candidates, *keys, strict=True):
            both = zip(VARIANTS, pair, strict=True)
            found[candidate.num_paths].append([ms[f"{v} {key}"] for v, key in both])
    print(f"\n{name}: mean ms of a block, and the ratio of both (smallest to largest)\n")
    print("| paths | blocks | each | after_sum | each / after_sum |\n|---|---|---|---|---|")
    for paths, pairs in sorted(found.items()):
        each, linear = np.array(pairs).T
        ratio = each / linear
        extent = f"{each.sum() / linear.sum():.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
        print(f"| {paths} | {len(pairs)} | {each.mean():.3f} | {linear.mean():.3f} | {extent} |")


if __name__ == "__main__":
    main()
