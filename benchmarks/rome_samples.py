"""How much several samples quieten the architecture's gradient in ROME.

The supernet and architecture of a finished search by rome are taken as they are. On each of some
held-out batches archs are sampled anew, and each gives the gradient of the architecture by itself.
Its variance has two parts: that between the samples of a batch, which the mean over K samples
divides by K, and that between batches, which it leaves.

    python benchmarks/rome_samples.py --search runs/rome
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import PathOption, Table

from mobilenas.base.randomness import Stream
from mobilenas.stages.gradient_run import open_search_run
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.rome import Rome
from mobilenas.strategies.search_step import SearchStep
from mobilenas.train.checkpoint import load_checkpoint
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import CHECKPOINT, Trainer

SAMPLES = (1, 2, 4, 7)


def main(
    search: PathOption,
    batches: int = 20,
    draws: int = 20,
    progress: str = "0,0.5,1",
) -> Iterator[Table]:
    """Variance of the mean gradient of K samples, as a ratio to that of one; at several shares of
    the search, by which the temperature falls.
    """
    study = Study(search)
    rows: list[dict[str, Any]] = []
    for share in map(float, progress.split(",")):
        found = np.array([study.gradients(n, share, draws) for n in range(batches)])
        within = found.var(axis=1, ddof=1).mean(axis=0).sum()
        between = found.mean(axis=1).var(axis=0, ddof=1).sum() - within / draws
        squared = (found.mean(axis=(0, 1)) ** 2).sum() - (within / draws + between) / batches
        row = {
            "progress": share,
            "mean": max(squared, 0.0) ** 0.5,
            "sd, K=1": (within + between) ** 0.5,
        }
        rows.append(row | {f"K={k}": (within / k + between) / (within + between) for k in SAMPLES})
    formats = dict.fromkeys(("mean", "sd, K=1"), ".2e") | {f"K={k}": ".2f" for k in SAMPLES}
    yield Table(rows, formats, f"{batches} batches, {draws} samples on each")


class Study:
    """A finished search."""

    def __init__(self, folder: Path) -> None:
        run = open_search_run(folder)
        config, searchable = run.config, run.searchable
        module = run.kind.supernet(searchable, config, torch.Generator())
        self.strategy = run.kind(searchable.choices, config, run.settings.seed)
        assert isinstance(self.strategy, Rome)
        state = load_checkpoint(folder / CHECKPOINT, "module", "task")
        module.load_state_dict(state["module"])
        self.strategy.load_state(state["task"]["strategy"])
        self.trainer = Trainer(module, config, run.images.training("cpu"))
        self.given = (
            Objective(config, searchable.space.num_classes, 0, None),
            run.images.held("cpu"),
            searchable,
            ExpectedCost(searchable.costs, {}, config.cost_form, config.cost_weight, 1),
        )

    def gradients(self, n: int, progress: float, draws: int) -> list[np.ndarray[Any, Any]]:
        """Of single samples on the held-out batch n, one vector each."""
        found = []
        for number in range(draws):
            self.trainer.seed = number  # of the draws; the images are those of the batch
            step = SearchStep(self.trainer, *self.given, n, 0, progress, 1)
            views = self.strategy.views(step, Stream.ARCH_STEP)
            gradient = step.gradient(step.loss(views, "held"), self.strategy.parameters)
            found.append(torch.cat([g.flatten() for g in gradient]).numpy())
        return found


if __name__ == "__main__":
    harness.main(main)
