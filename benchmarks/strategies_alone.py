"""Searches by gradient on a space of blocks: what their answers are worth once trained alone.

Each strategy searches under the same limit, once for each seed. Against them: evolve through
supernets of the same space (--supernet), by accuracy, and a random arch of as many FLOPs. All
answers are then trained by one recipe, several times, with held-out images that chose nothing.

Runs continue where they stopped; several processes may share an OUT, each with seeds of its own.

    python benchmarks/strategies_alone.py --data CIFAR10 --flops 6.3M --out runs/strategies-alone
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import harness
import numpy as np
import typer
from harness import Data, Set, Table
from strategies import minutes, searches, spent
from trainings import finished

from mobilenas.base.units import parse_size
from mobilenas.cost import CostModel
from mobilenas.search import Problem
from mobilenas.search.front import pick_arch
from mobilenas.search.operators import sample_feasible
from mobilenas.space import Space, load_space

MARGIN = 0.02  # the FLOPs of random archs are at most so much below the limit
FRESH = 100  # the first seed of the trainings, above those of searches


def main(
    data: Data,
    flops: Annotated[str, typer.Option(help="The limit.")],
    space: str = "s1:width=0.25,stem.stride=2,candidates.max_paths=2",
    strategies: Annotated[
        str, typer.Option(help="By commas; each may have settings: NAME:KEY=VALUE:KEY=VALUE.")
    ] = "gdas:epochs=4",
    preset: str = "cpu",
    supernet: Annotated[list[Path] | None, typer.Option(help="One for each seed.")] = None,
    train_preset: str = "cifar10-quick",
    settings: Set = None,
    trainings: Annotated[int, typer.Option(help="How many of each answer.")] = 3,
    seeds: str = "0,1,2",
    out: Path = Path("runs/strategies-alone"),
) -> Iterator[Table]:
    """Accuracy on held-out and test images of the archs that searches ended in."""
    own = load_space(space)
    assert isinstance(own, Space)
    numbers = harness.numbers(seeds)
    asked: dict[str, Any] = {"space": space, "data": data, "preset": preset, "flops": flops}
    answers: dict[str, list[str]] = {}
    costs: dict[str, dict[str, Any]] = {}
    for each in strategies.split(","):
        found = searches(each, asked, seeds, out)
        answers[each] = [result["front"][0]["arch"] for result in found.values()]
        costs[each] = spent(found)
    if supernet:
        costs["evolve"] = {"minutes": minutes(supernet)}
    for seed, run in zip(numbers, supernet or [], strict=False):
        through = {"supernet": run, "flops": flops, "objectives": "accuracy", "seed": seed}
        result = finished(out / f"evolve-{run.name}", "evolve", result="front.json", **through)
        answers.setdefault("evolve", []).append(pick_arch(result["front"], "best"))
    answers["a random arch"] = [random_arch(own, parse_size(flops), seed) for seed in numbers]

    rows = []
    for name, archs in answers.items():
        results = [
            finished(
                out / "trained" / f"{arch}-s{seed}", "train", space=space, arch=arch, data=data,
                seed=seed, preset=train_preset, set=settings or [],
            )
            for arch, first in zip(archs, numbers, strict=True)
            for seed in range(FRESH + first * trainings, FRESH + (first + 1) * trainings)
        ]  # fmt: skip
        rows.append(
            {
                "search": name,
                **costs.get(name, {}),
                "MFLOPs": harness.mean_sd([x["flops"] / 1e6 for x in results]),
                "held out, %": harness.mean_sd([100 * x["last_accuracy"] for x in results]),
                "test, %": harness.mean_sd([100 * x["test_accuracy"] for x in results]),
                "archs": " ".join(archs),
            }
        )
    yield Table(rows, {"passes": ".1f"})


def random_arch(space: Space, limit: int, seed: int) -> str:
    """The first that is drawn whose FLOPs are close below the limit."""
    costs = CostModel(space)
    problem = Problem(costs, ("accuracy",), {"flops": limit})
    drawn = sample_feasible(problem, 100, np.random.default_rng(seed))
    close = costs.flops_batch(drawn) > (1 - MARGIN) * limit
    return str(space.decode(drawn[close][0]))


if __name__ == "__main__":
    harness.main(main)
