"""What it brings and costs that the activation comes after the sum of paths, not in each of them.

accuracy  archs of 3 or 4 paths in every block, in both variants trained stand-alone by the same
          recipe and seeds; held-out training images, last epoch
latency   every block and set of kernels of a space in both variants as it is exported, which is one
          convolution where paths are linear; all graphs of a runtime are timed in turn

Both continue where they stopped; the first takes about 20 minutes on a quiet core:

    python benchmarks/path_activation.py accuracy --data CIFAR10 --out runs/path_activation
    python benchmarks/path_activation.py latency --out runs/path_activation
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, Set, Table
from trainings import space_file, stand_alone

from mobilenas.base.progress import ProgressBar
from mobilenas.cost import CostModel
from mobilenas.cost.rows import rows_of
from mobilenas.latency.graphs import Job, network_job, row_jobs
from mobilenas.latency.measure import TimingLog, measure, steps
from mobilenas.latency.networks import control_arch
from mobilenas.latency.timer import Host, make_timer
from mobilenas.space import Arch, Space, load_space, space_from_dict

VARIANTS = ("each", "after_sum")
SETTINGS = ("epochs=1", "validate_images=10000")
Out = Annotated[Path, typer.Option(help="Folder of the runs.")]


def variants(space: str) -> dict[str, Space]:
    """A space with the activation in either place."""
    whole = load_space(space).to_dict()
    return {name: space_from_dict(whole | {"path_activation": name}) for name in VARIANTS}


def accuracy(
    data: Data,
    space: str = "s1:width=0.25,stem.stride=2",
    archs: Annotated[int, typer.Option(help="How many.")] = 2,
    preset: str = "cifar10-quick",
    settings: Set = None,
    seeds: str = "100,101,102",
    out: Out = Path("runs/path_activation"),
) -> Iterator[Table]:
    """Both variants, trained stand-alone."""
    spaces = variants(space)
    drawn = [draw(spaces["each"], seed) for seed in range(archs)]
    recipe: dict[str, Any] = {"data": data, "preset": preset}
    recipe["settings"] = [*SETTINGS, *(settings or [])]
    rows: list[dict[str, Any]] = []
    by_seed: dict[str, list[list[float]]] = {variant: [] for variant in VARIANTS}
    for variant, whole in spaces.items():
        file, costs = space_file(whole, out / variant / "space.yaml"), CostModel(whole)
        for arch in drawn:
            percent = [
                stand_alone(out / variant, file, arch, seed=seed, **recipe)
                for seed in harness.numbers(seeds)
            ]
            by_seed[variant].append(percent)
            row = {"paths": variant, "MFLOPs": costs.flops(arch) / 1e6}
            row |= {"params": costs.params(arch), "accuracy, %": harness.mean_sd(percent)}
            rows.append(row | {"arch": str(arch)})
    each, after_sum = (np.mean(percents, axis=0) for percents in by_seed.values())
    means = {"each, all": each, "after_sum, all": after_sum, "after_sum - each": after_sum - each}
    rows += [{"paths": x, "accuracy, %": harness.mean_sd(mean)} for x, mean in means.items()]
    title = f"seeds {seeds}; FLOPs and params as deployed"
    yield Table(rows, {"MFLOPs": ".2f", "params": ","}, title)


def draw(space: Space, seed: int) -> Arch:
    """A random arch of at least three paths in every block."""
    rng = np.random.default_rng(seed)
    several = [[c for c in block.candidates if c.num_paths >= 3] for block in space.blocks]
    return Arch(tuple(options[rng.integers(len(options))] for options in several))


def latency(
    space: str = "s1:candidates.expansions=[6]",
    runtimes: str = "onnxruntime-fp32,onnxruntime-int8",
    rounds: int = 5,
    out: Out = Path("runs/path_activation"),
) -> Iterator[Table]:
    """Every block of a space in both variants, as it is exported."""
    spaces = variants(space)
    jobs = [
        replace(job, key=f"{variant} {job.key}")
        for variant, whole in spaces.items()
        for job in row_jobs(whole, batch=1)
        if job.key.startswith("block-")
    ]
    control = network_job(spaces["each"], control_arch(spaces["each"]), 1)
    for name in runtimes.split(","):
        yield compared(name, time_all(name, jobs, control, rounds, out), spaces)


def time_all(name: str, jobs: list[Job], control: Job, rounds: int, out: Path) -> dict[str, float]:
    """Milliseconds by key."""
    kind, dtype = name.split("-")
    timer = make_timer(kind, dtype=dtype, threads=1, command=None)
    log, host = TimingLog(out / f"{name}.jsonl"), Host(timer, out / "graphs")
    with ProgressBar(name, steps(jobs, log, rounds)) as bar:
        measure(jobs, host, log, control=control, rounds=rounds, bar=bar)
    host.discard([*jobs, control])
    return {key: timing.median_ms for key, timing in log.timings().items()}


def compared(name: str, ms: dict[str, float], spaces: dict[str, Space]) -> Table:
    """Over all blocks and sets of kernels, by the number of paths."""
    found: dict[int, list[list[float]]] = defaultdict(list)
    choices = [rows_of(space).choices for space in spaces.values()]
    for block, *keys in zip(spaces["each"].blocks, *choices, strict=True):
        for candidate, *pair in zip(block.candidates, *keys, strict=True):
            both = zip(VARIANTS, pair, strict=True)
            found[candidate.num_paths].append([ms[f"{v} {key}"] for v, key in both])
    rows = []
    for paths, pairs in sorted(found.items()):
        each, linear = np.array(pairs).T
        ratio = each / linear
        extent = f"{each.sum() / linear.sum():.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
        row = {"paths": paths, "blocks": len(pairs), "each": each.mean()}
        rows.append(row | {"after_sum": linear.mean(), "each / after_sum": extent})
    title = f"{name}: mean ms of a block, and the ratio of both (smallest to largest)"
    return Table(rows, {"each": ".3f", "after_sum": ".3f"}, title)


if __name__ == "__main__":
    harness.main(accuracy, latency)
