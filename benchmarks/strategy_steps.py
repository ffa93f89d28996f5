"""What a step of a search by gradient costs: time and memory of each strategy beside DARTS.

Every strategy searches noise images in each space, with its published settings. Steps of all take
turns in one process; time is that of the CPU, the median. Of a strategy that learns the
architecture every k-th step, k - 1 of its other steps are counted with one of these. What shapley
and svge measure between steps is left out, and darts-pt, whose steps are those of darts with ever
fewer candidates. Each stage of pdarts has a row; what the stages keep is up to parameters that were
not trained. Memory is the most that autograd keeps at once for backward passes during a step,
without weights.

`together` compares a step of darts with one that runs each candidate by itself: not the edges of a
cell that leave one node as one, nor what candidates of a block share once.

    python benchmarks/strategy_steps.py costs --spaces nb201:channels=16,cells=1,resolution=16
    python benchmarks/strategy_steps.py together
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Annotated, Any
from unittest.mock import patch

import harness
import torch
import typer
from harness import Table
from torch import Tensor, nn

from mobilenas.base.errors import BadInput
from mobilenas.cost import CostModel
from mobilenas.cost.edge_model import EdgeCellCosts
from mobilenas.data import Batch
from mobilenas.nn.choice_block import ChoiceBlock
from mobilenas.nn.edge_cells import ChoiceCell
from mobilenas.space import Candidate, EdgeCellSpace, Space, load_listed_space
from mobilenas.strategies.expected_cost import ExpectedCost
from mobilenas.strategies.methods import METHODS, load_search_config, method
from mobilenas.strategies.search_step import SearchStep
from mobilenas.strategies.searchable import Searchable
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Trainer

STEPS = 1000  # of the search that the measured ones are taken to be in the middle of
SPACES = (
    "nb201:channels=16,cells=1,resolution=16",
    "darts:channels=16,cells=3,resolution=16",
    "s1:width=0.5,stem.stride=2,resolution=32,candidates.max_paths=2",
    "s1:width=0.5,stem.stride=2,resolution=32,candidates.max_paths=2,path_activation=after_sum",
)
ALL = ("darts", "darts:order=2", *(name for name in METHODS if name not in ("darts", "darts-pt")))


def costs(
    spaces: Annotated[list[str], typer.Option(help="May be given several times.")] = list(SPACES),  # noqa: B006
    strategies: Annotated[
        str, typer.Option(help="By commas; each may have settings: NAME:KEY=VALUE:KEY=VALUE.")
    ] = ",".join(ALL),
    batch: int = 16,
    rounds: int = 5,
    threads: int = 1,
) -> Iterator[Table]:
    """Ratios to the first strategy, which should be darts."""
    torch.set_num_threads(threads)
    for name in spaces:
        runs: dict[str, Search] = {}
        refused: list[dict[str, Any]] = []
        for each in strategies.split(","):
            try:
                runs[each] = Search(name, *each.split(":"), batch=batch)
                for stage in range(1, runs[each].stages):
                    run = Search(name, *each.split(":"), batch=batch, stage=stage)
                    runs[f"{each}, stage {stage + 1}"] = run
            except BadInput as error:
                refused.append({"strategy": each, "left out": error})
        for number in range(1 + rounds):  # the first one warms up
            for run in runs.values():
                run.measure(number)
        first = next(iter(runs.values()))
        rows = [
            {
                "strategy": each,
                "ms a step": 1000 * run.seconds(),
                "time": run.seconds() / first.seconds(),
                "MB an image": run.kept / batch / 1e6,
                "memory": run.kept / first.kept,
            }
            for each, run in runs.items()
        ]
        formats = dict.fromkeys(("time", "memory", "MB an image"), ".2f") | {"ms a step": ".0f"}
        yield Table(rows + refused, formats, f"{name}, batch {batch}, n = {rounds}")


def together(
    spaces: Annotated[list[str], typer.Option(help="May be given several times.")] = [  # noqa: B006
        "nb201:channels=4,cells=1,resolution=8",
        *(SPACES[i] for i in (0, 2)),
    ],
    batch: int = 16,
    rounds: int = 5,
    threads: int = 1,
) -> Iterator[Table]:
    """How much faster a dense step is than one candidate after another."""
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in spaces:
        shared, alone = Search(name, "darts", batch=batch), Search(name, "darts", batch=batch)
        for cell in alone.trainer.module.modules():
            if isinstance(cell, ChoiceCell):
                cell.fused = False
        for number in range(1 + rounds):  # the first one warms up
            shared.measure(number)
            with patch.object(ChoiceBlock, "outputs", each):
                alone.measure(number)
        row = {"space": name, "together, ms": 1000 * shared.seconds()}
        row |= {"one after another, ms": 1000 * alone.seconds()}
        rows.append(row | {"ratio": alone.seconds() / shared.seconds()})
    formats = {"together, ms": ".0f", "one after another, ms": ".0f", "ratio": ".2f"}
    yield Table(rows, formats, f"batch {batch}, n = {rounds}")


def each(block: ChoiceBlock, x: Tensor, candidates: Sequence[Candidate]) -> list[Tensor]:
    """What each of some candidates makes of x, by itself."""
    return [block.chosen(candidate)(x) for candidate in candidates]


class Search:
    """Steps of a strategy, in one of its stages. kept: bytes, the most of all steps so far."""

    def __init__(
        self, space: str, strategy: str, *settings: str, batch: int, stage: int = 0
    ) -> None:
        searched = load_listed_space(space)
        assert isinstance(searched, Space | EdgeCellSpace)
        costs = CostModel(searched) if isinstance(searched, Space) else EdgeCellCosts(searched)
        kind = method(strategy).strategy
        given = ["device=cpu", f"batch_size={batch}", *settings]
        config = load_search_config(strategy, None, given)
        whole = Searchable(costs)
        kind.check(whole, config)
        self.stages = kind.stages(config)
        searchable = kind.stage(whole, config, 0, {})
        self.strategy = kind(searchable.choices, config, 0)
        for number in range(1, stage + 1):
            searchable = kind.stage(whole, config, number, self.strategy.survivors(searchable))
            self.strategy = kind(searchable.choices, config, 0)
        module = kind.supernet(searchable, config, torch.Generator().manual_seed(0))
        self.every = 1 if kind.score_file else getattr(config, "arch_every", 1)
        self.measures = kind.score_file is not None  # between steps, which is left out
        images: Any = Noise(searched.resolution, searched.num_classes, batch)
        self.trainer = Trainer(module, config, images)
        self.given = (
            Objective(config, searched.num_classes, 0, None),
            images,
            searchable,
            ExpectedCost(costs, {}, config.cost_form, config.cost_weight, config.cost_power),
        )
        self.times: dict[bool, list[float]] = {True: [], False: []}
        self.kept = 0

    def measure(self, number: int) -> None:
        """A step that learns the architecture and, of strategies with others, one of these."""
        for due in (True, False)[: 2 if self.every > 1 else 1]:
            n = self.every * number + (self.every - 1 if due else 0)
            learnt = 0 if due and not self.measures else 1
            step = SearchStep(self.trainer, *self.given, n, learnt, 0.5, STEPS)
            memory = Kept(self.trainer.module)
            with nullcontext() if number else memory:
                started = time.process_time()
                self.strategy.step(step)
                spent = time.process_time() - started
            self.trainer.read_losses()
            self.kept = max(self.kept, memory.most)
            if number:
                self.times[due].append(spent)

    def seconds(self) -> float:
        """Of a step, on average over those with and without the architecture."""
        due, others = (statistics.median(each or [0.0]) for each in self.times.values())
        return (due + (self.every - 1) * others) / self.every


class Noise:
    """Batches of noise images, by number."""

    steps_per_epoch = 10

    def __init__(self, resolution: int, classes: int, size: int) -> None:
        self.shape, self.classes = (size, 3, resolution, resolution), classes

    def __call__(self, n: int) -> Batch:
        generator = torch.Generator().manual_seed(n)
        labels = torch.randint(self.classes, self.shape[:1], generator=generator)
        return torch.randn(self.shape, generator=generator), labels

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        return map(self, range(start, stop))


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Within it, `most` is how many bytes were kept at once, those of each storage once."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(lambda tensor: Held(tensor, self), lambda held: held.tensor)
        self.weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
        self.holders: Counter[int] = Counter()
        self.now = self.most = 0

    def count(self, tensor: Tensor, change: int) -> None:
        """One holder of a tensor's storage more or less."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self.weights:
            return
        self.holders[place] += change
        if self.holders[place] == max(change, 0):  # the first one, or none any more
            self.now += change * storage.nbytes()
            self.most = max(self.most, self.now)


class Held:
    """A tensor that is kept for a backward pass, until this goes."""

    def __init__(self, tensor: Tensor, kept: Kept) -> None:
        self.tensor, self.kept = tensor, kept
        kept.count(tensor, 1)

    def __del__(self) -> None:
        self.kept.count(self.tensor, -1)


if __name__ == "__main__":
    harness.main(costs, together)
